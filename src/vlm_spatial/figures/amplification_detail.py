"""Figures: the chosen corrections by slot and kind of question, and what a setting chosen on one dataset does on another."""

import altair as alt
import polars as pl

from vlm_spatial.figures.amplification import CONTROLS, NET, read
from vlm_spatial.figures.chart_layers import PERCENT, estimate_tooltip
from vlm_spatial.figures.figure import INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.figures.theme import CONTROL, SHAPES, colours
from vlm_spatial.measures.amplification import METHODS, RANDOM

RANDOM_OF = {method: CONTROLS[RANDOM[method]] for method in METHODS}
SERIES = [*METHODS, *RANDOM_OF.values()]


def group_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, group of questions, method and measure: the test split at the site and alpha that validation chose."""
    return read(tables, "amplification_by_group", {"group": "group"})


def transfer_rows(tables: Tables) -> pl.DataFrame:
    """A row a dataset that chose the setting, method and measure: this dataset's test split under that site and alpha."""
    return read(tables, "choice_transfer", {"fitted_on": "chosen_on"})


def dodged(palette: str, column: str) -> Layers:
    """Intervals across, one row a value of ``column``, one mark a series."""
    blue, orange = colours(palette, 2)
    colour = alt.Color("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=[blue, orange, CONTROL, CONTROL]))
    shape = alt.Shape("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=list(SHAPES[: len(SERIES)])))
    x_title = "change, or share of errors"
    axis = alt.Axis(format=PERCENT, grid=True, tickCount=5)
    base = alt.Chart().encode(
        y=alt.Y(f"{column}:N", title=None, sort=None), yOffset=alt.YOffset("series:N", sort=SERIES, scale=alt.Scale(domain=SERIES))
    )
    return alt.layer(
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(x=alt.X(datum=0, axis=axis)),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x_title, axis=axis), x2="high:Q", color=colour),
        base.mark_point(filled=True, size=70).encode(
            x=alt.X("estimate:Q", title=x_title, axis=axis),
            color=colour,
            shape=shape,
            tooltip=estimate_tooltip(column, "series", "measure", "site", "alpha", "errors", "corrected", "broken"),
        ),
    )


INTERVALS = f"{INTERVAL}, n lowered for answers that agree within a scene, paired for changes; for random controls the range of the draws."


def group_caption(shown: pl.DataFrame) -> str:
    return (
        "What the correction at the site and α that the validation split chose does to the test questions, by slot and kind of question: "
        "change in accuracy, share of errors corrected, or change of the Brier score over the candidates (below 0 is better). What is not "
        "spatial measures the cost: whether the object word that the model prefers, of all that the dataset has, names something in the "
        "picture, wherever it stands; and questions whether an object is there at all, where the dataset asks them. "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. {INTERVALS}"
    )


def transfer_caption(shown: pl.DataFrame) -> str:
    return (
        "What a site and α chosen on the validation split of one dataset do on the test split of another; the row of the dataset itself "
        "is the ordinary result. The subspace and the slot directions are the dataset's own: only the choice travels. "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. {INTERVALS}"
    )


GROUPS = Figure(
    name="amplification_groups",
    title="Who gains, and what it costs",
    question="Which slots and questions does the chosen correction help, and what does it cost elsewhere?",
    rows=group_rows,
    draw=lambda palette: dodged(palette, "group"),
    caption=group_caption,
    controls=("dataset", "axis", "measure"),
    paper={"measure": NET},
    height=360,
)
TRANSFER = Figure(
    name="amplification_transfer",
    title="Does the choice of α travel?",
    question="Does a setting chosen on one dataset work on another?",
    rows=transfer_rows,
    draw=lambda palette: dodged(palette, "chosen_on"),
    caption=transfer_caption,
    controls=("dataset", "axis", "measure"),
    paper={"measure": NET},
    optional=True,
    height=220,
)
