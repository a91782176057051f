"""Figure: dominance index, position in the vision code against place in the sequence."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.measures.interventions import dominance

BLOCKS = ["strip", "object"]


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and kind of block: the index, with the counts of each outcome behind it."""
    table = tables.get("conflict")
    if table is None or table.is_empty():
        return pl.DataFrame()
    found = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        for block in (name for name in BLOCKS if name in set(table["token_set"])):
            index = dominance(table, block, axis=None if axis == BOTH else axis)
            chosen = table.filter((pl.col("token_set") == block) & ((pl.col("axis") == axis) | (axis == BOTH)))
            outcomes = chosen.filter("included")["outcome"]
            found.append(
                {
                    "axis": axis,
                    "series": block,
                    "estimate": index.estimate,
                    "low": index.low,
                    "high": index.high,
                    "n": index.n,
                    **{name: int((outcomes == name).sum()) for name in ("stay", "move", "other")},
                    "set_aside": int((~chosen["included"]).sum()),
                }
            )
    return pl.DataFrame(found).with_columns(pl.col("estimate", "low", "high").fill_nan(None))


def draw(palette: str) -> Layers:
    index = intervals(
        "axis",
        [BOTH, "horizontal", "vertical"],
        "series",
        BLOCKS,
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
        f"{counts(shown, 'pairs that stay or move')}. {INTERVAL} from a bootstrap over pairs (Wilson's where all stay or all move)."
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
