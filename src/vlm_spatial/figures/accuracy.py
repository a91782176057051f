"""Figure: accuracy by template and slot."""

import polars as pl

from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Tables, counts
from vlm_spatial.statistics import Interval, clustered_share

DRAWS = 1000
SLOTS = ["all slots", "slot 0", "slot 1", "slot 2"]


def accuracy(table: pl.DataFrame, *, draws: int = DRAWS) -> Interval:
    """Share of right answers, interval over scenes (questions of one scene are not independent); n counts scenes."""
    return clustered_share(table["correct"].to_numpy(), table["scene_id"].to_list(), draws=draws, seed=0)


def chance(table: pl.DataFrame) -> float:
    """Accuracy of a guess among the candidates, mean over questions.

    The object that a relation question names is never its answer, so one candidate less is left to guess from.
    """
    left = table["candidates"].list.len().cast(pl.Int64) - (table["template"] == "relation_to_object").cast(pl.Int64)
    return float((1 / left).mean() or 0.0)  # type: ignore[arg-type]


def rows(tables: Tables) -> pl.DataFrame:
    """A row a variant, axis, template and slot, test split."""
    table = tables.get("behaviour")
    if table is None or table.is_empty():
        return pl.DataFrame()
    test = table.filter(pl.col("split") == "test")
    both = pl.concat([test, test.with_columns(axis=pl.lit(BOTH))])
    by_slot = pl.concat([both.with_columns(series=pl.lit(SLOTS[0])), both.with_columns(series="slot " + pl.col("slot").cast(pl.String))])
    found = []
    for (variant, axis, template, series), part in sorted(
        by_slot.partition_by("variant", "axis", "template", "series", as_dict=True).items()
    ):
        interval = accuracy(part)
        found.append(
            {
                "variant": variant,
                "axis": axis,
                "template": template,
                "series": series,
                "estimate": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "n": part.height,
                "scenes": interval.n,
                "chance": chance(part),
            }
        )
    return pl.DataFrame(found)


def caption(shown: pl.DataFrame) -> str:
    scenes = counts(shown.filter(pl.col("series") == SLOTS[0]).with_columns(n=pl.col("scenes")), "scenes an entry")
    return (
        f"Share of questions whose best candidate is the right one, by template and slot; held-out test split; {scenes}. "
        f"{INTERVAL} from a bootstrap that resamples whole scenes (Wilson's where all answers are alike); "
        "the dashed line is a guess among the candidates."
    )


FIGURE = Figure(
    name="accuracy",
    title="Accuracy",
    question="Does the untouched model answer right, everywhere?",
    rows=rows,
    draw=lambda palette: intervals(
        "template", None, "series", SLOTS, palette, x_title="accuracy", domain=(0, 1), tooltip=["series"], zero="chance"
    ),
    caption=caption,
    controls=("dataset", "axis", "variant"),
    paper={"variant": "main"},
    height=280,
)
