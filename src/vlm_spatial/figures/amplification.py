"""Figure: what scaling the slot signal does to errors and accuracy, beside its controls."""

import altair as alt
import polars as pl

from vlm_spatial.amplification.outcomes import METHODS, at, choose, control_outcomes, outcome, random_corrected_share, random_net, spatial
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.figures.marks import PERCENT, dashed, estimate_tooltip
from vlm_spatial.figures.theme import CONTROL, DASHES, SHAPES, colours
from vlm_spatial.statistics import Interval

SERIES = ["projection", "oracle", "control: random subspaces", "control: complement", "control: shuffled labels"]
CONTROLS = {"complement": SERIES[3], "shuffled": SERIES[4]}
NET, CORRECTED = "net accuracy", "errors corrected"
DRAWS = 1000


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site, method, alpha and measure, test split; ``chosen`` marks the setting that validation chose."""
    table = tables.get("amplification")
    if table is None or table.is_empty():
        return pl.DataFrame()
    choices = {method: choose(table, method) for method in METHODS}
    found: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        part = spatial(table if axis == BOTH else table.filter(axis=axis))
        settings = part.filter(split="test").select("method", "site", "alpha").unique().sort("method", "site", "alpha")
        for method, site, alpha in settings.iter_rows():
            for measure, series, interval in _measures(part, method, site, alpha):
                numbers = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}
                chosen = choices.get(method) == (site, alpha)
                found.append(
                    {"axis": axis, "site": site, "alpha": alpha, "series": series, "measure": measure, **numbers, "chosen": chosen}
                )
    return pl.DataFrame(found).with_columns(pl.col("estimate", "low", "high").fill_nan(None)) if found else pl.DataFrame()


def _measures(part: pl.DataFrame, method: str, site: str, alpha: float) -> list[tuple[str, str, Interval]]:
    if method == "random":
        net, share = random_net(part, site, alpha), random_corrected_share(part, site, alpha)
        return [(NET, SERIES[2], net), (CORRECTED, SERIES[2], share)]
    if method in METHODS:
        result, series = outcome(at(part, "test", method, site, alpha), draws=DRAWS), method
    else:
        result, series = control_outcomes(part, method, site, alpha)[0], CONTROLS[method]
    return [(NET, series, result.net), (CORRECTED, series, result.corrected_share)]


def draw(palette: str) -> Layers:
    blue, orange = colours(palette, 2)
    shades = [blue, orange, CONTROL, CONTROL, CONTROL]
    x = alt.X("alpha:Q", title="strength α", axis=alt.Axis(grid=False, tickCount=8))
    y = alt.Y("estimate:Q", title="change in accuracy, or share of errors", axis=alt.Axis(format=PERCENT, tickCount=5, grid=True))
    colour = alt.Color("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=shades))
    shape = alt.Shape("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=list(SHAPES[:5])))
    base = alt.Chart().encode(x=x, color=colour)
    return alt.layer(
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(y=alt.Y(datum=0, axis=alt.Axis(format=PERCENT, tickCount=5, grid=True))),
        base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q"),
        dashed(base.mark_line().encode(y=y), "series", SERIES, list(DASHES[:5])),
        base.mark_point(filled=True).encode(
            y=y, shape=shape, tooltip=[alt.Tooltip("alpha:Q"), *estimate_tooltip("series", "measure", "chosen")]
        ),
        alt.Chart().mark_point(filled=False, size=220, strokeWidth=1.5).transform_filter("datum.chosen").encode(x=x, y=y, color=colour),
    )


def caption(shown: pl.DataFrame) -> str:
    return (
        "Change in accuracy (or share of the errors corrected) when the slot signal at the site is scaled by α, test split; "
        "the ring marks the α that the validation split chose. "
        "“projection” needs no labels; “oracle” is told each cell's slot. Controls move every token exactly as far, in random "
        "subspaces (mean and range of the draws), the "
        f"orthogonal complement, or the subspace of a probe for shuffled labels. "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. "
        f"{INTERVAL}: paired bootstrap for net accuracy, Wilson for shares."
    )


FIGURE = Figure(
    name="amplification",
    title="Strengthening the signal",
    question="Does scaling the vision signal correct errors, beyond what any push would do?",
    rows=rows,
    draw=draw,
    caption=caption,
    controls=("dataset", "axis", "measure", "site"),
    paper={"measure": NET, "site": "connector"},
    height=320,
)
