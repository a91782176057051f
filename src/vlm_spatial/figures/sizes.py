"""Figure: what is found of every model, against its number of parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import estimate_tooltip
from vlm_spatial.figures.figure import DATA, Layers
from vlm_spatial.figures.theme import SHAPES, colours

NAME, TITLE = "sizes", "Findings against size"
QUESTION = "Does it hold for larger models, and for other families?"
CLAIMS = ("dominance", "strip_flip", "object_flip", "backup_gain", "net_accuracy")
"""Which findings are drawn: what decides, effects of strips and of objects, backup, gain by amplification."""


def rows(findings: pl.DataFrame, manifests: Mapping[tuple[str, str], Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of :func:`vlm_spatial.figures.comparison.rows` with ``family`` and ``parameters``, by size; models of unknown size are left out.

    Empty if the largest model has less than twice the parameters of the smallest: that is no comparison of sizes.

    Args:
        manifests: what stores say, by model and dataset; ``model`` in them names family and number of parameters.
    """
    known = {model: said["model"] for (model, _), said in manifests.items() if "parameters" in said.get("model", {})}
    sizes = pl.DataFrame(
        [(model, said["family"], said["parameters"]) for model, said in known.items()],
        schema={"model": pl.String, "family": pl.String, "parameters": pl.Int64},
        orient="row",
    )
    order = pl.Enum(CLAIMS)
    drawn = findings.filter(pl.col("claim").is_in(CLAIMS)).drop_nulls("estimate").join(sizes, on="model")
    sized = drawn.filter(pl.col("parameters").max() >= 2 * pl.col("parameters").min())
    return sized.sort(pl.col("claim").cast(order), "parameters", "model", "dataset")


def draw(palette: str, families: Sequence[str], datasets: Sequence[str]) -> Layers:
    """One claim: parameters along, estimate up; colours are families, shapes datasets."""
    colour = alt.Color("family:N", title=None, scale=alt.Scale(domain=list(families), range=colours(palette, len(families))))
    shapes = [SHAPES[index % len(SHAPES)] for index in range(len(datasets))]
    base = alt.Chart().encode(
        x=alt.X("parameters:Q", title="parameters", scale=alt.Scale(type="log"), axis=alt.Axis(format="~s", tickCount=4))
    )
    return alt.layer(
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(y=alt.datum(0)),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=None), y2="high:Q", color=colour),
        base.mark_point(filled=True, size=60).encode(
            y=alt.Y("estimate:Q", title=None),
            color=colour,
            shape=alt.Shape("dataset:N", title=None, scale=alt.Scale(domain=list(datasets), range=shapes)),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("parameters:Q", format=",d"),
                *estimate_tooltip("family", "dataset", "verdict", percent=False),
            ],
        ),
    )


def caption(shown: pl.DataFrame) -> str:
    return (
        f"Estimates with their 95% intervals for {shown['model'].n_unique()} models of {shown['family'].n_unique()} families, by number of "
        f"parameters. n = {int(shown['n'].to_numpy().min())} to {int(shown['n'].to_numpy().max())}. Models differ in more than their size, "
        "so that a trend over few of them proves nothing."
    )


def printed(shown: pl.DataFrame, palette: str) -> alt.TopLevelMixin | None:
    """One panel a claim, three across; None if there are no rows."""
    if shown.is_empty():
        return None
    families, datasets = (sorted(shown[name].unique()) for name in ("family", "dataset"))
    chart = draw(palette, families, datasets).properties(width=150, height=110, data=alt.NamedData(name=DATA))
    titles = shown["title"].unique(maintain_order=True).to_list()
    return chart.facet(facet=alt.Facet("title:N", title=None, sort=titles), columns=3, spacing=14).resolve_scale(y="independent")
