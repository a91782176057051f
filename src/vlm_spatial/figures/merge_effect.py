"""Figure: what merging photos does to the questions' difficulty.

A photo merged with itself has the photo's two objects, further apart, and a seam: what it costs against the photo is what merging costs.
A merge of two photos has a third object as well, and one candidate more to guess from.
"""

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import PERCENT, intervals
from vlm_spatial.figures.figure import INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.measures.behaviour import ALL_TEMPLATES, MERGING_ALONE, PICTURES
from vlm_spatial.measures.table import select
from vlm_spatial.scenes.sources.settings import TEMPLATES

VARIANTS = dict(zip(PICTURES, ("photo as taken", "photo merged with itself", "two photos merged"), strict=True))
SERIES = list(VARIANTS.values())
DIFFERENCE = "merged with itself − as taken"
ALL = ALL_TEMPLATES
_COLUMNS = {name: name for name in ("axis", "template", "estimate", "low", "high", "n")} | {
    "variant": "series",
    "clusters": "pictures",
    "control_estimate": "chance",
}


def rows(tables: Tables) -> pl.DataFrame:
    """A row a template and kind of picture, and one for the paired difference; none for datasets without photos."""
    found = select(tables.get("measures"), "merging", ["accuracy", "change"], _COLUMNS)
    return found if found.is_empty() else found.with_columns(pl.col("series").replace(VARIANTS | {MERGING_ALONE: DIFFERENCE}))


def points(row: Mapping[str, Any]) -> str:
    """``−2.5 points [−5.0, +0.0]``: a difference of accuracies."""
    estimate, low, high = (f"{100 * row[name]:+.1f}".replace("-", "−") for name in ("estimate", "low", "high"))
    return f"{estimate} points [{low}, {high}]"


def caption(shown: pl.DataFrame) -> str:
    drawn = shown.filter(pl.col("series") != DIFFERENCE)
    pictures = counts(drawn.with_columns(n=pl.col("pictures")), "pictures").removeprefix("n = ")
    text = (
        "Accuracy on photos as they were taken (two objects), on each photo merged with itself (the same two objects, further apart, "
        f"with a seam) and on two photos merged (three objects), over all questions of the templates that are asked of all "
        f"three kinds and by template; held-out test split; {counts(drawn, 'questions')} about {pictures} an "
        f"entry. {INTERVAL}, n lowered for answers that agree within a picture; "
        "one photo is in many merges, so those are less independent than their number says, and their interval is too narrow. "
        "Thin marks are a guess among the candidates, of which two photos merged have one more; their middle object is always the "
        "reference of the data set, and who knows the references by heart guesses two thirds of the merges' answers without looking."
    )
    for row in shown.filter(pl.col("series") == DIFFERENCE, pl.col("template") == ALL).iter_rows(named=True):
        where = f" ({row['dataset']})" if "dataset" in row else ""
        text += (
            f" Merging alone{where}: {points(row)}, photos merged with themselves less the same {row['pictures']} photos as taken, over "
            f"the same {row['n']} questions."
        )
    return text


def draw(palette: str) -> Layers:
    order = [ALL, *TEMPLATES]
    layers = intervals("template", order, "series", SERIES, palette, x_title="accuracy", domain=(0, 1), tooltip=["series", "pictures"])
    guess = (
        alt.Chart()
        .mark_tick(thickness=1, size=9, color="#555555")
        .encode(
            x=alt.X("chance:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=PERCENT, tickCount=5)),
            y=alt.Y("template:N", title=None, sort=order),
            yOffset=alt.YOffset("series:N", sort=SERIES, scale=alt.Scale(domain=SERIES)),
        )
    )
    return alt.layer(guess, *layers.layer).transform_filter(alt.FieldOneOfPredicate(field="series", oneOf=SERIES))


FIGURE = Figure(
    name="merge_effect",
    title="What merging photos does",
    question="Are merged photos harder than the photos they are made of?",
    rows=rows,
    draw=draw,
    caption=caption,
    controls=("dataset",),
    optional=True,
    height=220,
)
