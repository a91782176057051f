"""Figure: dominance index, position in the vision code against place in the sequence."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.measures.flips import BLOCKS
from vlm_spatial.measures.table import select

_COLUMNS = {name: name for name in ("axis", "estimate", "low", "high", "n", "stay", "move", "set_aside")} | {
    "token_set": "series",
    "neither": "other",
}


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and kind of block: the index, with the counts of each outcome behind it."""
    return select(tables.get("measures"), "conflict", ["dominance"], _COLUMNS)


def draw(palette: str) -> Layers:
    index = intervals(
        "axis",
        [BOTH, "horizontal", "vertical"],
        "series",
        list(BLOCKS),
        palette,
        x_title="← place dominance vision code →",
        domain=(-1, 1),
        percent=False,
        tooltip=["series", "stay", "move", "other"],
    )
    return alt.layer(alt.Chart().mark_rule(strokeDash=[3, 3]).encode(x=alt.datum(0)), index)


def caption(shown: pl.DataFrame) -> str:
    return (
        "The blocks of visual tokens of two slots of the same picture are exchanged at the connector. If the answer stays, "
        "position is read from the code that vision wrote into "
        "the tokens; if it moves, from the tokens' place in the sequence. Dominance = (stay − move) / (stay + move), "
        f"{counts(shown, 'pairs that stay or move')}. {INTERVAL} from the exact one of the share that stays."
    )


FIGURE = Figure(
    name="dominance",
    title="When code and place disagree",
    question="Vision's code or the token's place: which decides?",
    rows=rows,
    draw=draw,
    caption=caption,
    controls=("dataset",),
    height=200,
)
