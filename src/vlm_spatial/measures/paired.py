"""Hits of pairs against a control on the same pairs."""

from dataclasses import dataclass

import polars as pl

from vlm_spatial.statistics import EMPTY, Interval, binomial, clustered_mean


@dataclass(frozen=True)
class Against:
    """What most claims rest on.

    Attributes:
        rate, control: of the pairs that have both.
        difference, p: paired, and its two-sided p against 0.
        values: a row a unit: ``axis``, ``template``, ``value`` (the difference).
    """

    rate: Interval
    control: Interval
    difference: Interval
    p: float
    values: pl.DataFrame


def against(own: pl.DataFrame, control: pl.DataFrame) -> Against | None:
    """Own hits less the control's, pair by pair; None if no pair has both.

    Args:
        own: ``pair_id``, ``axis``, ``template`` and ``hit`` (a bool).
        control: ``pair_id`` and ``hit``: a bool, or the mean over draws.
    """
    both = own.join(control.rename({"hit": "other"}), on="pair_id", maintain_order="left")
    return None if both.is_empty() else of_values(both)


def of_values(both: pl.DataFrame) -> Against:
    """The same of rows that hold both: ``axis``, ``template``, ``hit`` and ``other``."""
    drawn = both["other"].dtype != pl.Boolean
    both = both.with_columns(value=pl.col("hit").cast(pl.Float64) - pl.col("other").cast(pl.Float64))
    difference, p = clustered_mean(both["value"].to_numpy())
    other = clustered_mean(both["other"].to_numpy())[0] if drawn else _share(both["other"])
    return Against(_share(both["hit"]), other, difference, p, both.select("axis", "template", "value"))


def _share(hits: pl.Series) -> Interval:
    return binomial(int(hits.sum()), len(hits)) if len(hits) else EMPTY
