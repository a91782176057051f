"""Figures: what each attention head carries at the last token, as a map of heads and layers; and what the first ones do together."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import PERCENT, dashed, estimate_tooltip
from vlm_spatial.figures.figure import INTERVAL, Figure, Layers, Tables, counts, most_aside
from vlm_spatial.figures.theme import colours, series
from vlm_spatial.measures.table import select

_NUMBERS = ("estimate", "low", "high", "n", "set_aside")
_PATCHED, _MEAN = "patched: answers that become the other run's", "mean-ablated: answers lost"
_SERIES = {"ranked": "first heads", "random": "random heads of the same layers"}


def map_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, outcome and head."""
    columns = {name: name for name in ("axis", "outcome", "site", "head", *_NUMBERS)} | {"token_set": "tokens"}
    shown = select(tables.get("measures"), "heads", ["head_effect"], columns)
    return shown.with_columns(layer=pl.col("site").str.split(".").list.last().cast(pl.Int64))


def _map(palette: str) -> Layers:
    """Squares of heads (across) and layers (up), white where a head does nothing."""
    positive, negative = colours(palette, 2)
    # One hue a sign, and lightness that grows with the size, so that no colour has to be told apart.
    scale = alt.Scale(domain=[-1, 0, 1], range=[negative, "#f7f7f5", positive], clamp=True, interpolate="rgb")
    square = (
        alt.Chart()
        .mark_rect(stroke="#b9b9b6", strokeWidth=0.5)
        .encode(
            x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("layer:O", title="language layer", sort="descending", axis=alt.Axis(grid=False)),
            color=alt.Color("estimate:Q", title="share of all heads' effect", scale=scale, legend=alt.Legend(format=PERCENT)),
            tooltip=estimate_tooltip("layer", "head", "outcome"),
        )
    )
    return alt.layer(square)


def map_caption(shown: pl.DataFrame) -> str:
    return (
        "What one attention head writes at the prompt's last token is replaced by what it writes in a run with other objects and a "
        "question for the other slot. Colour: change of log-odds against the untouched answer, as a share of the change with all heads "
        "replaced. "
        "Attribute: of the other run's own answer. Ordinal: of the own picture's object in the slot that the other run was asked for. "
        "On screen each square has its 95% interval, and the same at the question's tokens, for the heads that gradients rank first and as "
        "many random ones. "
        f"{counts(shown, 'pairs')} ({most_aside(shown)} set aside: the model answers one of the two runs wrong)."
    )


def together_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, way of replacing, choice of heads and how many they are."""
    columns = {name: name for name in ("axis", "heads", *_NUMBERS)} | {"measure": "measure", "source": "series"}
    shown = select(tables.get("measures"), "heads", ["outcome_rate", "damage"], columns)
    named = pl.col("series").replace_strict(_SERIES, return_dtype=pl.String)
    done = pl.when(measure="damage").then(pl.lit(_MEAN)).otherwise(pl.lit(_PATCHED))
    return shown.with_columns(series=named, replaced=done).drop("measure").sort("heads", maintain_order=True)


def _together(palette: str) -> Layers:
    names = list(_SERIES.values())
    scales = series(names, palette)
    # Powers of two and all heads, in equal steps.
    x = alt.X("heads:O", title="heads replaced", sort="ascending", axis=alt.Axis(labelAngle=0))
    domain = alt.Scale(domain=[0, 1])
    y = alt.Y("estimate:Q", title="answers", scale=domain, axis=alt.Axis(format=PERCENT, tickCount=5))
    colour = alt.Color("series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=scales["color"]))
    shape = alt.Shape("series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=scales["shape"]))
    base = alt.Chart().encode(x=x, color=colour)
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", scale=domain), y2="high:Q")
    line = dashed(base.mark_line().encode(y=y), "series", names, scales["dash"])
    point = base.mark_point(filled=True).encode(y=y, shape=shape, tooltip=estimate_tooltip("series", "heads", "replaced"))
    return alt.layer(band, line, point)


def together_caption(shown: pl.DataFrame) -> str:
    return (
        "Heads are ranked by what each carries of the other run's answer, on one half of the pairs; on the other half the first of them "
        "are replaced together at the prompt's last token, by that run's outputs, or (mean-ablated, on screen) by their mean over "
        "untouched runs. The control has as many random heads of the same layers, the mean of its draws. "
        f"{counts(shown, 'pairs')} ({most_aside(shown)} set aside: the model answers one of the two runs wrong). {INTERVAL}."
    )


MAP = Figure(
    name="heads",
    title="Which heads fetch the answer",
    question="Which attention heads bring the slot, and which the object, to the last token?",
    rows=map_rows,
    draw=_map,
    caption=map_caption,
    controls=("dataset", "axis", "tokens", "outcome"),
    paper={"tokens": "last", "outcome": "attribute"},
    optional=True,
    height=320,
)

TOGETHER = Figure(
    name="heads_together",
    title="How many heads it takes",
    question="Do few attention heads decide the answer?",
    rows=together_rows,
    draw=_together,
    caption=together_caption,
    controls=("dataset", "axis", "replaced"),
    paper={"replaced": _PATCHED},
    optional=True,
)
