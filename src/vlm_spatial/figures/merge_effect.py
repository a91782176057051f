"""Figure: what merging photos does to the questions' difficulty.

A photo merged with itself has the photo's two objects, further apart, and a seam: what it costs against the photo is what merging costs.
A merge of two photos has a third object as well, and one candidate more to guess from.
"""

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from vlm_spatial.figures.accuracy import DRAWS, accuracy, chance
from vlm_spatial.figures.chart_layers import PERCENT, intervals
from vlm_spatial.figures.figure import INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.scenes.sources.settings import TEMPLATES
from vlm_spatial.statistics import Interval, paired_difference

VARIANTS = {"photo": "photo as taken", "self_merge": "photo merged with itself", "main": "two photos merged"}
SERIES = list(VARIANTS.values())
DIFFERENCE = "merged with itself − as taken"
ALL = "asked of all three"
_KEY = ("photo", "template", "slot")


def rows(tables: Tables) -> pl.DataFrame:
    """A row a template and kind of picture, and one for the paired difference; test split, none for datasets without photos."""
    table = tables.get("behaviour")
    if table is None or table.filter(variant="photo").is_empty():
        return pl.DataFrame()
    asked = table.filter(pl.col("split") == "test", pl.col("variant").is_in(list(VARIANTS)), pl.col("template") != "content")
    if asked.is_empty():
        return pl.DataFrame()
    # Relations are asked of three objects only; what is compared must be asked of every kind of picture.
    templates = set.intersection(*(set(part["template"]) for part in asked.partition_by("variant")))
    found = []
    for template, part in [
        (ALL, asked.filter(pl.col("template").is_in(list(templates)))),
        *((name, asked.filter(template=name)) for name in sorted(asked["template"].unique())),
    ]:
        for variant, series in VARIANTS.items():
            of_variant = part.filter(variant=variant)
            if not of_variant.is_empty():
                got = accuracy(of_variant)
                found.append(_row(template, series, got, of_variant.height, got.n, chance(of_variant)))
        change, questions, photos = paired(part)
        if questions:
            found.append(_row(template, DIFFERENCE, change, questions, photos, 0.0))
    return pl.DataFrame(found)


def _row(template: str, series: str, interval: Interval, questions: int, pictures: int, guess: float) -> dict[str, str | float | int]:
    numbers = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    counted = {"n": questions, "pictures": pictures}
    return {"axis": "horizontal", "template": template, "series": series, **numbers, **counted, "chance": guess}


def paired(asked: pl.DataFrame) -> tuple[Interval, int, int]:
    """Accuracy on self-merges less that on the same photos, the same questions; how many questions, and about how many photos.

    A photo and its self-merge have the same number in their scene ids; photos without a self-merge are left out. The interval
    resamples photos.
    """
    numbered = asked.with_columns(photo=pl.col("scene_id").str.split("-").list.last())
    both = numbered.filter(variant="photo").join(numbered.filter(variant="self_merge"), on=_KEY, suffix="_merged").sort(_KEY)
    before, after = both["correct"].to_numpy(), both["correct_merged"].to_numpy()
    change = paired_difference(before, after, both["photo"].to_list(), draws=DRAWS, seed=0)
    return change, both.height, both["photo"].n_unique()


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
        f"entry. {INTERVAL} from a bootstrap that resamples whole pictures (Wilson's where all answers are alike); "
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
