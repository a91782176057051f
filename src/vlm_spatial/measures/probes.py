"""What follows from scores of probes.parquet: a verdict each, and how much of what is read off the background is absolute position."""

from collections.abc import Iterator

import polars as pl

from vlm_spatial.measures.verdicts import PROBE_SMALLEST, Measured, Rule
from vlm_spatial.statistics import EMPTY, Interval

RULE = Rule(PROBE_SMALLEST)


def verdicts(table: pl.DataFrame) -> pl.Series:
    """The verdict of each score: whether it lies beyond the strongest of its controls. Not adjusted for the other scores."""
    columns = ["accuracy", "low", "high", "n", "margin", "margin_low", "margin_high"]
    made = [_verdict(*row) for row in table.select(pl.col(columns).fill_null(float("nan"))).iter_rows()]
    return pl.Series("verdict", made, dtype=pl.String)


def _verdict(accuracy: float, low: float, high: float, n: int, margin: float, margin_low: float, margin_high: float) -> str:
    return RULE.judge(Measured(Interval(accuracy, low, high, n), EMPTY, "", Interval(margin, margin_low, margin_high, n), 1.0))


def background_rows(table: pl.DataFrame) -> pl.DataFrame:
    """The fair logistic scores of background tokens, one a site and axis.

    Fair is a probe trained and scored on layout-decorrelated scenes, where slot is not place; where there are none (photo
    sets), the main scenes have to do, in which position explains nearly everything.
    """
    of_background = table.filter((pl.col("kind") == "logistic") & (pl.col("token_set") == "background"))
    variant = "decorrelated" if "decorrelated" in set(of_background["trained_on"]) else "main"
    return of_background.filter((pl.col("trained_on") == variant) & (pl.col("scored_on") == variant))


def background_summary(table: pl.DataFrame) -> Iterator[str]:
    """One sentence an axis: the site at which the background says most beyond its controls, and what position explains of it."""
    rows = background_rows(table.with_columns(verdicts(table)))
    for (axis,), on_axis in rows.partition_by("axis", as_dict=True, maintain_order=True).items():
        scored = on_axis.drop_nulls("margin")
        if scored.is_empty():
            yield f"{axis} axis, background: no score ({on_axis.row(0, named=True)['note']})"
            continue
        best = scored.sort("margin", descending=True, maintain_order=True).row(0, named=True)
        share = best["position_share"]
        explained = "at chance" if share is None else f"{share:.0%} of what is above chance is absolute position"
        interval = f"{best['accuracy']:.2f} [{best['low']:.2f}, {best['high']:.2f}]"
        yield (
            f"{axis} axis, background of {best['scored_on']} scenes: most beyond its controls at {best['site']}, "
            f"accuracy {interval} against {best['control_accuracy']:.2f} ({best['control']}), "
            f"{explained}; {best['verdict']}"
        )
