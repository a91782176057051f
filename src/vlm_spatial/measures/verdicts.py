"""From an estimate and its control to a verdict: the paired difference, its p, and whether the strata agree."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from vlm_spatial.statistics import CONFIDENCE, EMPTY, Interval

Verdict = Literal["supported", "refuted", "mixed", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "mixed", "inconclusive")

MINIMUM = 10
"""Fewer units bear no verdict."""
MOST = 0.5
NET_SMALLEST = 0.01
"""One point of accuracy: a smaller gain does not pay."""
ACCURACY_SMALLEST, PROBE_SMALLEST, PEAK_SMALLEST, DROP_SMALLEST, BACKUP_SMALLEST, CORRECTED_SMALLEST = 0.1, 0.05, 0.1, 0.05, 0.1, 0.05
"""Smallest effects of interest."""
STRATA = ("axis", "template", "exchange")
APART_P, APART_N, APART_EFFECT = 0.01, 5, 0.1
"""Strata disagree if they differ at this p, and some of this many units show this effect and others do not."""


@dataclass(frozen=True)
class Measured:
    """What a claim rests on.

    Attributes:
        difference: the estimate minus its control, paired where the same units have both.
        p: two-sided, of the difference against 0 and, for a claim with a floor, of the estimate against it (the larger of the two).
        values: one row a unit, with ``value`` (its difference, or whether it has the outcome) and those columns of :data:`STRATA` that
            are known; None where there are no units to look at.
        over: what ``value`` is compared with in a stratum: an effect counts from here on.
        recovery: how far the answers move in log-odds (:mod:`vlm_spatial.measures.recovery`), of a patch.
    """

    estimate: Interval
    control: Interval
    control_name: str
    difference: Interval
    p: float
    values: pl.DataFrame | None = None
    over: float = 0.0
    recovery: Interval = EMPTY


NOTHING = Measured(EMPTY, EMPTY, "", EMPTY, 1.0)


@dataclass(frozen=True)
class Rule:
    """When a claim holds.

    Attributes:
        smallest: the smallest effect of interest, over the control or, with a ``floor``, over that.
        floor: what the estimate itself has to exceed, beside its control.
    """

    smallest: float
    floor: float | None = None

    def __str__(self) -> str:
        above = "" if self.floor is None else f" and low > {self.floor:g}"
        below = f"the difference's high < {self.smallest:g}" if self.floor is None else f"high < {self.floor + self.smallest:g}"
        return f"supported: the difference from the control lies above 0{above}; refuted: {below}; else inconclusive"

    def judge(self, found: Measured) -> Verdict:
        """The verdict before adjustment for other claims and before strata are looked at."""
        estimate, difference = found.estimate, found.difference
        if estimate.n < MINIMUM or not all(math.isfinite(x) for x in (estimate.low, estimate.high, difference.low, difference.high)):
            return "inconclusive"
        if difference.low > 0 and (self.floor is None or estimate.low > self.floor):
            return "supported"
        tested, bound = self._refuted_below(found)
        return "refuted" if tested.high < bound else "inconclusive"

    def p(self, found: Measured) -> float | None:
        """p of the test that the verdict rests on: that there is an effect, or, if refuted, that there is none of interest."""
        verdict = self.judge(found)
        if not math.isfinite(found.difference.estimate):
            return None
        if verdict != "refuted":
            return found.p
        from scipy.stats import norm

        tested, bound = self._refuted_below(found)
        error = (tested.high - tested.estimate) / norm.ppf((1 + CONFIDENCE) / 2)
        return float(min(1.0, 2 * norm.sf((bound - tested.estimate) / error))) if error > 0 else 0.0

    def _refuted_below(self, found: Measured) -> tuple[Interval, float]:
        if self.floor is None:
            return found.difference, self.smallest
        return found.estimate, self.floor + self.smallest


@dataclass(frozen=True)
class Strata:
    """Whether the parts of the data agree.

    Attributes:
        means: one row a stratum: its columns of :data:`STRATA`, ``estimate`` (mean of the values) and ``n``.
        p: of homogeneity, by permutation.
        disagree: whether some strata show the effect and others do not.
    """

    means: pl.DataFrame
    p: float
    disagree: bool


def strata(found: Measured, effect: float = APART_EFFECT) -> Strata | None:
    """The strata of a claim's units; None where there are fewer than two.

    Units are parted by each column alone and by all of them together, so that small strata do not hide what a template does. ``p`` is the
    smallest of these tests, adjusted (Bonferroni).

    Args:
        effect: of a stratum, from which on the claim holds in it.
    """
    if found.values is None:
        return None
    by = [name for name in STRATA if name in found.values.columns]
    if not by or found.values.is_empty():
        return None
    means = found.values.group_by(by, maintain_order=True).agg(estimate=pl.col("value").mean(), n=pl.len().cast(pl.Int64)).sort(by)
    if means.height < 2:
        return None
    partings = [[name] for name in by if found.values[name].n_unique() > 1] + ([by] if len(by) > 1 else [])
    p_values, disagree = [], False
    for parting in partings:
        p = min(1.0, len(partings) * _homogeneity(found.values.with_columns(stratum=pl.concat_str(parting, separator="/"))))
        parts = found.values.group_by(parting).agg(estimate=pl.col("value").mean(), n=pl.len()).filter(pl.col("n") >= APART_N)["estimate"]
        shown = (parts >= found.over + effect).any() and (parts < found.over + effect).any()
        disagree |= bool(p < APART_P and shown)
        p_values.append(p)
    return Strata(means, min(p_values), disagree)


def _homogeneity(values: pl.DataFrame) -> float:
    from scipy.stats import MonteCarloMethod, chi2_contingency

    # In order: the permutations of a table depend on that of its rows.
    found = values.group_by("stratum", "value").len().sort("stratum", "value")
    counts = found.pivot("value", index="stratum", values="len").fill_null(0).drop("stratum").to_numpy()
    if counts.shape[1] < 2:
        return 1.0
    # 999 permutations can tell 0.001; tables with these margins are what permutations give.
    method = MonteCarloMethod(n_resamples=999, rng=np.random.default_rng(0))
    return float(chi2_contingency(counts, correction=False, method=method).pvalue)
