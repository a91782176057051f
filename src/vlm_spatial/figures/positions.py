"""Figures: values and position ids of visual tokens exchanged apart, as a 2×2; and ids exchanged in a window of layers."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import PERCENT, estimate_tooltip, over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Layers, Tables, counts, most_aside, with_sites
from vlm_spatial.figures.theme import colours
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import select

_NAMES = ("axis", "site", "condition", "outcome", "estimate", "low", "high", "n", "set_aside")
_COLUMNS = {name: name for name in _NAMES} | {"token_set": "tokens"}
_KEPT, _EXCHANGED = "kept", "exchanged"
_CELLS = {"values": (_EXCHANGED, _KEPT), "ids": (_KEPT, _EXCHANGED), "both": (_EXCHANGED, _EXCHANGED)}
_SIDES = [_KEPT, _EXCHANGED]
OUTCOMES = ["stay", "move", "other"]


def square_rows(tables: Tables) -> pl.DataFrame:
    """A row a field of the 2×2, axis and set of tokens: the share that moves, and a label with that of the answers that stay."""
    shown = select(tables.get("measures"), "positions", ["outcome_rate"], _COLUMNS).filter(site=ALL_LAYERS).drop("site")
    shown = shown.filter(pl.col("condition").is_in(list(_CELLS)))
    stays = shown.filter(outcome="stay").select("axis", "tokens", "condition", stay="estimate")
    shown = shown.filter(outcome="move").join(stays, on=["axis", "tokens", "condition"], how="left", maintain_order="left")
    percent = [(pl.col(name) * 100).round(0).cast(pl.Int64, strict=False).cast(pl.String) + "%" for name in ("estimate", "stay")]
    sides = {name: [side[at] for side in _CELLS.values()] for name, at in (("values", 0), ("ids", 1))}
    places = pl.DataFrame({"condition": list(_CELLS), **sides})
    shown = shown.join(places, on="condition", how="left", maintain_order="left")
    return shown.with_columns(label="move " + percent[0], beside="stay " + percent[1]).drop("outcome")


def _square(palette: str) -> Layers:
    base = alt.Chart().encode(
        x=alt.X("values:N", title="values", sort=_SIDES, scale=alt.Scale(domain=_SIDES), axis=alt.Axis(labelAngle=0)),
        y=alt.Y("ids:N", title="position ids", sort=_SIDES, scale=alt.Scale(domain=_SIDES), axis=alt.Axis(grid=False)),
    )
    scale = alt.Scale(domain=[0, 1], range=["#f7f7f5", colours(palette, 1)[0]])
    field = base.mark_rect(stroke="#b9b9b6", opacity=0.7).encode(
        color=alt.Color("estimate:Q", title="answers that move", scale=scale, legend=alt.Legend(format=PERCENT)),
        tooltip=estimate_tooltip("values", "ids"),
    )
    move = base.mark_text(dy=-8, fontWeight="bold").encode(text="label:N")
    return alt.layer(field, move, base.mark_text(dy=8).encode(text="beside:N"))


def square_caption(shown: pl.DataFrame) -> str:
    return (
        "Two slots' visual tokens of one picture exchange their values at the connector, their position ids in all language layers, or "
        "both. With ids alone, answers move if place is the rotary index; with both, every value keeps its index and only the causal order "
        "differs. "
        "Nothing exchanged (empty field): all answers stay, as only pairs answered right are shown. "
        "On screen also random: as many background tokens, the control; and 95% intervals. "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} set aside: the model answers wrong)."
    )


def layer_rows(tables: Tables) -> pl.DataFrame:
    """A row a window of exchanged ids, axis, set of tokens and outcome."""
    shown = select(tables.get("measures"), "positions", ["outcome_rate"], _COLUMNS).filter(pl.col("site") != ALL_LAYERS)
    return shown if shown.is_empty() else with_sites(shown.drop("condition").rename({"outcome": "series"}))


def layer_caption(shown: pl.DataFrame) -> str:
    return (
        "Position ids of two slots' visual tokens are exchanged in a window of layers around each layer, their values stay. "
        "On screen also random: as many background tokens, the control. "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} a setting set aside: the model answers wrong). {INTERVAL} (exact)."
    )


SQUARE = Figure(
    name="positions",
    title="Rotary index or causal order",
    question="Is a token's place its position id, or its turn in the sequence?",
    rows=square_rows,
    draw=_square,
    caption=square_caption,
    controls=("dataset", "axis", "tokens"),
    paper={"tokens": "strip"},
    optional=True,
    height=260,
)

BY_LAYER = Figure(
    name="positions_by_layer",
    title="Where position ids are read",
    question="In which layers does the rotary index say the place?",
    rows=layer_rows,
    draw=lambda palette: over_sites("series", OUTCOMES, palette, y_title="answers", tooltip=["series", "tokens"]),
    caption=layer_caption,
    controls=("dataset", "axis", "tokens"),
    paper={"tokens": "strip"},
    by_site=True,
    optional=True,
)
