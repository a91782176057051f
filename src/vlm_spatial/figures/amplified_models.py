"""Figure: accuracy before and after amplification, every model and dataset side by side."""

from collections.abc import Mapping

import altair as alt
import polars as pl

from vlm_spatial.figures import amplified_accuracy
from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import BOTH, DATA, INTERVAL, Layers, counts

NAME, TITLE = "amplified_models", "Accuracy before and after, all models"
QUESTION = "How much more accurate does amplification make each model, on each dataset?"


def rows(of_models: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """A row a model, dataset and form of the correction (or none), over both axes; the correction is fitted on the dataset itself.

    Empty if there is one model on one dataset only, which its own figure shows.

    Args:
        of_models: rows of :mod:`.amplified_accuracy` with their ``dataset``, by model.
    """
    parts = [table.with_columns(model=pl.lit(model)) for model, table in of_models.items() if not table.is_empty()]
    if not parts:
        return pl.DataFrame(schema={"model": pl.String, "dataset": pl.String})
    found = pl.concat(parts, how="diagonal").filter(pl.col("axis") == BOTH, pl.col("fitted_on") == pl.col("dataset"))
    found = found.drop_nulls("estimate").select("model", "dataset", *(name for name in found.columns if name not in ("model", "dataset")))
    return found if found.select("model", "dataset").n_unique() > 1 else found.clear()


def draw(palette: str) -> Layers:
    """One dataset: models down the side, forms of the correction by colour and shape."""
    return intervals("model", None, "series", amplified_accuracy.SERIES, palette, x_title="accuracy", domain=(0, 1), tooltip=["series"])


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy on the test questions, without a correction and with each form of it. Each is fitted on the same dataset. Shown are "
        f"{shown['model'].n_unique()} models and {shown['dataset'].n_unique()} datasets. “projection” needs no labels; “oracle” is told "
        f"each cell's slot. {counts(shown, 'questions')}. {INTERVAL}."
    )


def printed(shown: pl.DataFrame, palette: str) -> alt.TopLevelMixin | None:
    """One panel a dataset, two across; None if there are no rows."""
    if shown.is_empty():
        return None
    chart = draw(palette).properties(width=200, height=alt.Step(10), data=alt.NamedData(name=DATA))
    return chart.facet(facet=alt.Facet("dataset:N", title=None, sort=sorted(shown["dataset"].unique())), columns=2, spacing=14)
