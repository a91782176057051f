"""Figure: what scaling the slot signal does to errors and accuracy, beside its controls."""

from collections.abc import Mapping

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import PERCENT, dashed, estimate_tooltip
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.figures.theme import CONTROL, DASHES, SHAPES, colours
from vlm_spatial.measures import corrections
from vlm_spatial.measures.amplification import METHODS
from vlm_spatial.measures.table import select

CONTROLS = {
    "random": "control: random subspaces",
    "complement": "control: complement",
    "shuffled": "control: shuffled labels",
    "uncentred": "projection, not centred",
    "oracle_random": "control: random directions",
}
BASELINES = {
    "attention": "attention to the image × α",
    "attention_adaptive": "attention × one of two factors",
    "norm": "norms of the text",
    "rotary": "faster rotary positions in vision",
    "role": "roles at the two names",
    "spatial_id": "spatial ID at the name (told the slot)",
}
SERIES = [*METHODS, *CONTROLS.values(), *BASELINES.values()]
NET, CORRECTED, CALIBRATION, BRIER = "net accuracy", "errors corrected", "calibration error", "Brier score"
MEASURES = {corrections.NET: NET, corrections.CORRECTED: CORRECTED, corrections.CALIBRATION: CALIBRATION, corrections.BRIER: BRIER}
"""What the page calls each measure."""
_NAMES = ("axis", "site", "alpha", "measure", "estimate", "low", "high", "n", "errors", "corrected", "broken")
_COLUMNS = {name: name for name in _NAMES} | {"correction": "series", "p": "p_value", "p_holm": "p_holm"}


def read(tables: Tables, experiment: str, more: Mapping[str, str]) -> pl.DataFrame:
    """Rows of an experiment with corrections, measures and series named as on the page; ``more`` are further columns, with their names."""
    shown = select(tables.get("measures"), experiment, list(MEASURES), _COLUMNS | dict(more))
    return shown.with_columns(pl.col("series").replace(CONTROLS | BASELINES), pl.col("measure").replace(MEASURES))


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site, method, alpha and measure, test split; ``chosen`` marks the setting that validation chose.

    Rows of the two methods' net accuracy also hold the counts behind it, McNemar's exact p and its Holm adjustment over the method's grid.
    """
    return read(tables, "amplification", {"chosen": "chosen"})


def draw(palette: str) -> Layers:
    blue, orange, *others = colours(palette, len(METHODS) + len(BASELINES))
    shades = [blue, orange, *(CONTROL for _ in CONTROLS), *others]
    shapes = [SHAPES[number % len(SHAPES)] for number in range(len(SERIES))]
    dashes = [DASHES[number % len(DASHES)] for number in range(len(SERIES))]
    x = alt.X("alpha:Q", title="strength α", axis=alt.Axis(grid=False, tickCount=8))
    y = alt.Y("estimate:Q", title="change in accuracy, share of errors, or error", axis=alt.Axis(format=PERCENT, tickCount=5, grid=True))
    colour = alt.Color("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=shades))
    shape = alt.Shape("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=shapes))
    base = alt.Chart().encode(x=x, color=colour)
    return alt.layer(
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(y=alt.Y(datum=0, axis=alt.Axis(format=PERCENT, tickCount=5, grid=True))),
        base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q"),
        dashed(base.mark_line().encode(y=y), "series", SERIES, dashes),
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
        "directions turned into random subspaces (random ones: mean and range of the draws). “Not centred” scales the mean token's part "
        "of the subspace along. "
        "Where asked for, methods without probes stand beside them. At the site “language” the last query's attention scores on the image "
        "are multiplied by α, or by one of two factors (α: how sure an answer gets the second). At the connector tokens get norms "
        "like the text's. "
        "By construction amplification must help the planted organism “faint” (its slot signal is there, but weak) and must not help "
        "“language” (no spatial code in vision). "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. "
        f"{INTERVAL}, n lowered for answers that agree within a scene, paired for net accuracy; calibration error: "
        "resampled scenes, wide rather than narrow."
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
