"""Figure: accuracy by template and slot."""

import polars as pl

from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts
from vlm_spatial.measures.behaviour import ALL_SLOTS
from vlm_spatial.measures.table import select

SLOT_ORDER = [ALL_SLOTS, "slot 0", "slot 1", "slot 2"]
_COLUMNS = {name: name for name in ("variant", "axis", "template", "estimate", "low", "high", "n")} | {
    "slot": "series",
    "clusters": "scenes",
    "control_estimate": "chance",
}


def rows(tables: Tables) -> pl.DataFrame:
    """A row a variant, axis, template and slot, test split."""
    return select(tables.get("measures"), "behaviour", ["accuracy"], _COLUMNS)


def caption(shown: pl.DataFrame) -> str:
    scenes = counts(shown.filter(pl.col("series") == SLOT_ORDER[0]).with_columns(n=pl.col("scenes")), "scenes an entry")
    return (
        f"Share of questions whose best candidate is the right one, by template and slot; held-out test split; {scenes}. "
        f"{INTERVAL}, n lowered for answers that agree within a scene; "
        "the dashed line is a guess among the candidates."
    )


FIGURE = Figure(
    name="accuracy",
    title="Accuracy",
    question="Does the untouched model answer right, everywhere?",
    rows=rows,
    draw=lambda palette: intervals(
        "template", None, "series", SLOT_ORDER, palette, x_title="accuracy", domain=(0, 1), tooltip=["series"], zero="chance"
    ),
    caption=caption,
    controls=("dataset", "axis", "variant"),
    paper={"variant": "main"},
    height=280,
)
