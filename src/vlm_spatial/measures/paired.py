"""Hits of pairs against a control on the same pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from vlm_spatial.statistics import Interval, binomial_limits, binomial_p, clustered_mean, effective_number


@dataclass(frozen=True)
class Against:
    """What most claims rest on.

    Attributes:
        rate, control: of the pairs that have both.
        difference, p: paired, and its two-sided p against 0.
        values: a row a unit: ``axis``, ``template``, ``value`` (the difference).
        alike: how many independent pairs the rate is as sure as.
    """

    rate: Interval
    control: Interval
    difference: Interval
    p: float
    values: pl.DataFrame
    alike: float

    def p_above(self, floor: float) -> float:
        """Two-sided p that the rate differs from ``floor`` and from its control (the larger of the two)."""
        return max(self.p, binomial_p(self.rate.estimate * self.alike, self.alike, floor))


def against(own: pl.DataFrame, control: pl.DataFrame, alike: float = 1.0) -> Against | None:
    """Own hits less the control's, pair by pair; None if no pair has both.

    Args:
        own: ``pair_id``, ``axis``, ``template`` and ``hit`` (a bool).
        control: ``pair_id`` and ``hit``: a bool, or the mean over draws.
        alike: how many independent pairs one of these says as much as.
    """
    both = own.join(control.rename({"hit": "other"}), on="pair_id", maintain_order="left")
    return None if both.is_empty() else of_values(both, alike=alike)


def of_values(both: pl.DataFrame, scenes: Sequence[str] | None = None, alike: float = 1.0) -> Against:
    """The same of rows that hold both: ``axis``, ``template``, ``hit`` and ``other``.

    Args:
        scenes: of rows that are questions, which are not independent within a scene.
    """

    def independent(values: pl.Series) -> float:
        return alike * len(values) if scenes is None else effective_number(values.to_numpy(), scenes)

    def share(hits: pl.Series) -> Interval:
        rate, number = float(hits.cast(pl.Float64).to_numpy().mean()), independent(hits)
        low, high = binomial_limits(rate * number, number)
        return Interval(rate, float(low), float(high), len(hits))

    def mean(values: pl.Series) -> tuple[Interval, float]:
        return clustered_mean(values.to_numpy(), scenes, alike=independent(values) if scenes is None else None)

    both = both.with_columns(value=pl.col("hit").cast(pl.Float64) - pl.col("other").cast(pl.Float64))
    difference, p = mean(both["value"])
    other = share(both["other"]) if both["other"].dtype == pl.Boolean else mean(both["other"])[0]
    return Against(share(both["hit"]), other, difference, p, both.select("axis", "template", "value"), independent(both["hit"]))
