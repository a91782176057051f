"""Figure: the findings of all models side by side."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import estimate_tooltip
from vlm_spatial.figures.figure import DATA, Layers
from vlm_spatial.figures.theme import SHAPES, colours

NAME, TITLE = "comparison", "All models side by side"


def rows(records: Sequence[dict[str, Any]], titles: dict[str, str]) -> pl.DataFrame:
    """A row a finding, flat: control's numbers as ``control``, ``control_low``, ``control_high``."""
    flat = [
        {
            **{key: record[key] for key in ("model", "dataset", "claim", "estimate", "low", "high", "n", "verdict")},
            "title": titles[record["claim"]],
            "control": record["control"]["estimate"],
            "control_low": record["control"]["low"],
            "control_high": record["control"]["high"],
            "control_name": record["control"]["name"],
        }
        for record in records
    ]
    numbers = dict.fromkeys(("estimate", "low", "high", "control", "control_low", "control_high"), pl.Float64)
    return pl.DataFrame(flat, schema_overrides={**numbers, "n": pl.Int64}, infer_schema_length=None)


def draw(palette: str, datasets: Sequence[str]) -> Layers:
    """One claim: models down the side, datasets by colour and shape, controls as grey ticks."""
    names = list(datasets)
    scale = alt.Scale(domain=names, range=colours(palette, len(names)))
    shape = alt.Scale(domain=names, range=[SHAPES[index % len(SHAPES)] for index in range(len(names))])
    base = alt.Chart().encode(
        y=alt.Y("model:N", title=None, axis=alt.Axis(labelLimit=180)),
        yOffset=alt.YOffset("dataset:N", sort=names, scale=alt.Scale(domain=names)),
    )
    x = alt.X("estimate:Q", title=None, axis=alt.Axis(grid=True, tickCount=4))
    return alt.layer(
        base.mark_tick(thickness=2, size=12, color="#8a8a8a").encode(
            x="control:Q", tooltip=["control_name:N", alt.Tooltip("control:Q", format=".3f")]
        ),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=None), x2="high:Q", color=alt.Color("dataset:N", title=None, sort=names, scale=scale)
        ),
        base.mark_point(filled=True, size=60).encode(
            x=x,
            color=alt.Color("dataset:N", title=None, sort=names, scale=scale),
            shape=alt.Shape("dataset:N", title=None, sort=names, scale=shape),
            tooltip=[alt.Tooltip("model:N"), *estimate_tooltip("dataset", "verdict", percent=False)],
        ),
    )


def caption(shown: pl.DataFrame) -> str:
    return (
        f"Estimate of every claim for {shown['model'].n_unique()} models and {shown['dataset'].n_unique()} datasets, with 95% "
        f"intervals; grey ticks are the controls. "
        f"n = {int(shown['n'].to_numpy().min())} to {int(shown['n'].to_numpy().max())}, by claim as in the table."
    )


def printed(shown: pl.DataFrame, palette: str, datasets: Sequence[str]) -> alt.TopLevelMixin | None:
    """One panel a claim, three across, each with its own scale; None if nothing was measured."""
    known = shown.drop_nulls("estimate")
    if known.is_empty():
        return None
    titles = known["title"].unique(maintain_order=True).to_list()
    chart = draw(palette, datasets).properties(width=150, height=alt.Step(10), data=alt.NamedData(name=DATA))
    return chart.facet(facet=alt.Facet("title:N", title=None, sort=titles), columns=3, spacing=14).resolve_scale(x="independent")
