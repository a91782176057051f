"""Figure: what scaling the slot signal does to errors and accuracy, beside its controls."""

import altair as alt
import polars as pl

from vlm_spatial.amplification.calibration import calibration
from vlm_spatial.figures.chart_layers import PERCENT, dashed, estimate_tooltip
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.figures.theme import CONTROL, DASHES, SHAPES, colours
from vlm_spatial.measures.amplification import (
    METHODS,
    RANDOM,
    at,
    choose,
    control_outcomes,
    curve,
    random_calibration_error,
    random_corrected_share,
    random_net,
    spatial,
)
from vlm_spatial.statistics import Interval

CONTROLS = {
    "random": "control: random subspaces",
    "complement": "control: complement",
    "shuffled": "control: shuffled labels",
    "oracle_random": "control: random directions",
}
SERIES = [*METHODS, *CONTROLS.values()]
NET, CORRECTED, CALIBRATION = "net accuracy", "errors corrected", "calibration error"
DRAWS = 1000
TESTS = ("errors", "corrected", "broken", "p_value", "p_holm")


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site, method, alpha and measure, test split; ``chosen`` marks the setting that validation chose.

    Rows of the two methods' net accuracy also hold the counts behind it, McNemar's exact p and its Holm adjustment over the method's grid.
    """
    table = tables.get("amplification")
    if table is None or table.is_empty():
        return pl.DataFrame()
    choices = {method: choose(table, method) for method in METHODS}
    found: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        part = spatial(table if axis == BOTH else table.filter(axis=axis)).filter(split="test")
        for row in curve(part, draws=DRAWS).iter_rows(named=True):
            method, site, alpha = row["method"], row["site"], row["alpha"]
            where = {"axis": axis, "site": site, "alpha": alpha, "series": method, "chosen": choices[method] == (site, alpha)}
            net = {end: row[f"net_{end}"] for end in ("estimate", "low", "high")}
            share = {end: row[f"share_{end}"] for end in ("estimate", "low", "high")}
            error = calibration(at(part, "test", method, site, alpha), draws=DRAWS).error_after
            found += [
                {**where, "measure": NET, **net, "n": row["n"], **{key: row[key] for key in TESTS}},
                {**where, "measure": CORRECTED, **share, "n": row["errors"]},
                {**where, "measure": CALIBRATION, **_numbers(error)},
            ]
        settings = part.filter(~pl.col("method").is_in(METHODS)).select("method", "site", "alpha").unique().sort("method", "site", "alpha")
        for method, site, alpha in settings.iter_rows():
            where = {"axis": axis, "site": site, "alpha": alpha, "series": CONTROLS[method], "chosen": False}
            found += [{**where, "measure": measure, **_numbers(number)} for measure, number in _of_control(part, method, site, alpha)]
    return pl.DataFrame(found, infer_schema_length=None).with_columns(pl.col("estimate", "low", "high").fill_nan(None))


def _numbers(interval: Interval) -> dict[str, object]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}


def _of_control(part: pl.DataFrame, method: str, site: str, alpha: float) -> list[tuple[str, Interval]]:
    of_form = next((form for form, control in RANDOM.items() if control == method), None)
    if of_form is not None:
        return [
            (NET, random_net(part, site, alpha, of_form)),
            (CORRECTED, random_corrected_share(part, site, alpha, of_form)),
            (CALIBRATION, random_calibration_error(part, site, alpha, of_form)),
        ]
    result = control_outcomes(part, method, site, alpha)[0]
    error = calibration(at(part, "test", method, site, alpha), draws=DRAWS).error_after
    return [(NET, result.net), (CORRECTED, result.corrected_share), (CALIBRATION, error)]


def draw(palette: str) -> Layers:
    blue, orange = colours(palette, 2)
    shades = [blue, orange, *(CONTROL for _ in CONTROLS)]
    x = alt.X("alpha:Q", title="strength α", axis=alt.Axis(grid=False, tickCount=8))
    y = alt.Y("estimate:Q", title="change in accuracy, share of errors, or error", axis=alt.Axis(format=PERCENT, tickCount=5, grid=True))
    colour = alt.Color("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=shades))
    shape = alt.Shape("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=list(SHAPES[: len(SERIES)])))
    base = alt.Chart().encode(x=x, color=colour)
    return alt.layer(
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(y=alt.Y(datum=0, axis=alt.Axis(format=PERCENT, tickCount=5, grid=True))),
        base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q"),
        dashed(base.mark_line().encode(y=y), "series", SERIES, list(DASHES[: len(SERIES)])),
        base.mark_point(filled=True).encode(
            y=y, shape=shape, tooltip=[alt.Tooltip("alpha:Q"), *estimate_tooltip("series", "measure", "chosen")]
        ),
        alt.Chart().mark_point(filled=False, size=220, strokeWidth=1.5).transform_filter("datum.chosen").encode(x=x, y=y, color=colour),
    )


def caption(shown: pl.DataFrame) -> str:
    return (
        "Change in accuracy (or share of the errors corrected, or calibration error: how far the answers' probabilities are from how often "
        "they are right) when the slot signal at the site is scaled by α, test split; the ring marks the α that the validation split chose"
        f"{_tests(shown)}. "
        "“projection” needs no labels; “oracle” is told each cell's slot. Controls move every token exactly as far: those of “projection” "
        "in random subspaces, the orthogonal complement, or the subspace of a probe for shuffled labels; those of “oracle” along its slot "
        "directions turned into random subspaces (random ones: mean and range of the draws). "
        "By construction amplification must help the planted organism “faint” (its slot signal is there, but weak) and must not help "
        "“language” (no spatial code in vision). "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. "
        f"{INTERVAL}: bootstrap over scenes for net accuracy (paired) and calibration error, Wilson with the design effect of scenes for "
        "shares."
    )


def _tests(shown: pl.DataFrame) -> str:
    """The chosen settings' counts and exact tests, in words; nothing where they are not among the rows."""
    chosen = shown.filter(pl.col("chosen") & (pl.col("measure") == NET) & (pl.col("axis") == BOTH))
    parts = [
        f"{row['dataset']}, {row['series']} at {row['site']}, α = {row['alpha']:g}: {row['corrected']} of {row['errors']} errors "
        f"corrected, {row['broken']} answers broken, exact McNemar p = {row['p_value']:.2g}, {row['p_holm']:.2g} after Holm over the grid"
        for row in chosen.sort("series", descending=True).iter_rows(named=True)
        if row.get("dataset") is not None and row["p_value"] is not None
    ]
    return f" ({'; '.join(parts)})" if parts else ""


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
