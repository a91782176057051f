"""Figure: an organism's training curve."""

from typing import get_args

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import dashed
from vlm_spatial.figures.figure import Figure, Layers, Tables
from vlm_spatial.figures.theme import DASHES, SHAPES, colours
from vlm_spatial.scenes.sources.settings import Template

ACCURACY = "held-out accuracy"
OTHER = "of the whole run"
SERIES = [*get_args(Template), OTHER]
PLACES = 6
"""Datasets and axes that are told apart by shape and dash."""


def rows(tables: Tables) -> pl.DataFrame:
    """``training.parquet`` in long form: a row a step and measure.

    A column ``{dataset} {axis} {template}`` is held-out accuracy, shown by template (``series``) and place (``where``); any other
    numeric column is a measure of its own.
    """
    table = tables.get("training")
    if table is None or table.is_empty() or "step" not in table.columns:
        return pl.DataFrame()
    measures = [name for name, kind in table.schema.items() if kind.is_numeric() and name != "step"]
    long = (
        table.select("step", *(pl.col(name).cast(pl.Float64) for name in measures))
        .unpivot(index="step", variable_name="column", value_name="estimate")
        .drop_nulls()
    )
    parts = pl.col("column").str.split(" ")
    scored = parts.list.len() == 3
    named = long.with_columns(
        measure=pl.when(scored).then(pl.lit(ACCURACY)).otherwise(pl.col("column").str.replace_all("_", " ")),
        series=pl.when(scored).then(parts.list.last()).otherwise(pl.lit(OTHER)),
        where=pl.when(scored).then(parts.list.head(2).list.join(" ")).otherwise(pl.lit(OTHER)),
    )
    places = sorted(named.filter(scored)["where"].unique().to_list())
    # Shapes and dashes go by number, since a chart's scales are made before its rows are known.
    numbers = {place: index % PLACES for index, place in enumerate(places)}
    return named.with_columns(place=pl.col("where").replace_strict(numbers, default=0, return_dtype=pl.Int64)).drop("column")


def draw(palette: str) -> Layers:
    """A line a template and place: colour says the template, shape and dash the place."""
    colour = alt.Color("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=colours(palette, len(SERIES))))
    y = alt.Y("estimate:Q", title=None, axis=alt.Axis(tickCount=5, grid=True), scale=alt.Scale(zero=False))
    base = alt.Chart().encode(x=alt.X("step:Q", title="training step", axis=alt.Axis(grid=False)), y=y, color=colour, detail="where:N")
    numbers = list(range(PLACES))
    shape = alt.Shape("place:N", legend=None, scale=alt.Scale(domain=numbers, range=list(SHAPES)))
    lines = dashed(base.mark_line(), "place", [str(number) for number in numbers], list(DASHES))
    tooltip = [
        "measure:N",
        alt.Tooltip("where:N", title="on"),
        "series:N",
        "step:Q",
        alt.Tooltip("estimate:Q", title="value", format=".3f"),
    ]
    return alt.layer(lines, base.mark_point(filled=True, size=36).encode(shape=shape, tooltip=tooltip))


def caption(shown: pl.DataFrame) -> str:
    accuracies = shown.filter(pl.col("measure") == ACCURACY)
    steps = int(shown["step"].to_numpy().max())
    places = accuracies.select("where", "place").unique().sort("place")
    marks = ", ".join(f"{SHAPES[number].replace('-', ' ')} {where}" for where, number in places.iter_rows())
    said = f" Colour is the question template; shape and dash tell where it was asked ({marks})." if marks else ""
    return (
        f"Held-out accuracy, loss and learning rate (share of the highest) over {steps} training steps of this organism.{said} "
        f"n = 1 run, hence no interval; the accuracy that counts, with its interval, is in accuracy.parquet of the organism's folder."
    )


FIGURE = Figure(
    name="training",
    title="Training",
    question="How did this organism learn?",
    rows=rows,
    draw=draw,
    caption=caption,
    controls=("measure",),
    paper={"measure": ACCURACY},
    of_model=True,
    height=260,
)
