"""Figure: accuracy without and with the chosen correction, fitted on the dataset itself and on each other one."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts
from vlm_spatial.measures.amplification import METHODS
from vlm_spatial.measures.corrections import UNTOUCHED
from vlm_spatial.measures.table import select

SERIES = [UNTOUCHED, *METHODS]
_COLUMNS = {name: name for name in ("axis", "fitted_on", "estimate", "low", "high", "n", "clusters")} | {"correction": "series"}


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, dataset that the correction was fitted on, and form (or none)."""
    return select(tables.get("measures"), "amplified_accuracy", ["accuracy"], _COLUMNS)


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy on the test questions without a correction and with each form of it. The correction was fitted on the dataset named at "
        "the left; its validation split chose site and α. “projection” needs no labels; "
        f"“oracle” is told each cell's slot. {counts(shown, 'questions')}. {INTERVAL}, n lowered for answers that agree within a scene. "
        "What random directions do is in the figures of net accuracy."
    )


def draw(palette: str) -> alt.LayerChart | alt.FacetChart:
    return intervals("fitted_on", None, "series", SERIES, palette, x_title="accuracy", domain=(0, 1), tooltip=["series", "fitted_on"])


FIGURE = Figure(
    name="amplified_accuracy",
    title="Accuracy before and after",
    question="How accurate is the model with a correction, fitted here or elsewhere?",
    rows=rows,
    draw=draw,
    caption=caption,
    controls=("dataset", "axis"),
    optional=True,
    height=220,
)
