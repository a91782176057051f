"""Intervals and tests, in one place, so that every number in the report is made the same way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

# scipy is imported where it is used: it takes most of a light stage's start.

CONFIDENCE = 0.95
DRAWS = 2000
"""Resamples of every bootstrap."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval and the number of units behind it. ``nan`` where there are none."""

    estimate: float
    low: float
    high: float
    n: int


EMPTY = Interval(float("nan"), float("nan"), float("nan"), 0)
_NOTHING = 1e-12
"""Less than this is what rounding leaves of no variance at all."""
_ADDED = 3.0
"""Differences added to those of clustered units, half of them +1 and half −1."""
_RATIOS = 1001
"""How many ratios between 0 and 1 are tried."""


def binomial(successes: int, n: int) -> Interval:
    """A proportion with its exact interval (Clopper and Pearson), which covers 95% or more at every ``n`` and proportion."""
    if n == 0:
        return EMPTY
    low, high = binomial_limits(successes, n)
    return Interval(successes / n, float(low), float(high), n)


def binomial_limits(successes: ArrayLike, n: ArrayLike) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Lower and upper limit of exact intervals, number by number; counts need not be whole, ``n`` must be above 0."""
    from scipy.special import betaincinv

    successes, n, tail = np.asarray(successes, dtype=float), np.asarray(n, dtype=float), (1 - CONFIDENCE) / 2
    failures = n - successes
    # At the ends one parameter is 0, and the limit is the end itself.
    low = np.where(successes > 0, betaincinv(np.maximum(successes, _NOTHING), failures + 1, tail), 0.0)
    high = np.where(failures > 0, betaincinv(successes + 1, np.maximum(failures, _NOTHING), 1 - tail), 1.0)
    return low, high


def binomial_p(successes: float, n: float, chance: float) -> float:
    """Two-sided p of a proportion against ``chance``, twice the smaller tail; counts need not be whole."""
    from scipy.special import betainc

    at_least = betainc(successes, n - successes + 1, chance) if successes > 0 else 1.0
    at_most = 1 - betainc(successes + 1, n - successes, chance) if successes < n else 1.0
    return float(min(1.0, 2 * min(at_least, at_most)))


def effective_number(values: Float[np.ndarray, " units"], clusters: Sequence[str]) -> float:
    """How many independent units say as much as these, which come in clusters (the questions of one scene are not independent).

    ``n`` over the design effect (Kish 1965), smaller where few clusters carry the variance (Korn and Graubard 1998: squared ratio of the
    normal's quantile to Student's); between the number of clusters and ``n``. Where all units are alike it is the number of clusters.
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    off = np.asarray(values, dtype=float) - np.mean(values)
    return _effective(np.bincount(index, weights=off), float((off**2).sum()), np.bincount(index))


def _effective(off: Float[np.ndarray, " clusters"], squares: float, sizes: Float[np.ndarray, " clusters"]) -> float:
    """:func:`effective_number` of clusters whose units' deviations from the mean sum to ``off``, their squares to ``squares`` in all."""
    from scipy.stats import norm, t

    n, groups = float(sizes.sum()), len(sizes)
    least = n**2 / float((sizes**2).sum())
    if groups == n:
        return n
    if squares < _NOTHING:
        return least
    of_clusters = off**2
    effect = groups / max(groups - 1, 1) * of_clusters.sum() / squares
    if effect <= 1:
        return n
    carrying = min(max(of_clusters.sum() ** 2 / (of_clusters**2).sum(), 1.0), max(groups - 1, 1))
    tail = (1 + CONFIDENCE) / 2
    return float(np.clip(n / effect * (norm.ppf(tail) / t.ppf(tail, carrying)) ** 2, least, n))


def clustered_share(hits: Bool[np.ndarray, " units"], clusters: Sequence[str]) -> Interval:
    """A proportion of units that come in clusters: the exact interval of as many independent units; ``n`` counts units."""
    hits = np.asarray(hits, dtype=float)
    if len(hits) == 0:
        return EMPTY
    share, alike = float(hits.mean()), effective_number(hits, clusters)
    low, high = binomial_limits(share * alike, alike)
    return Interval(share, float(low), float(high), len(hits))


def share_of_sums(hits: Float[np.ndarray, " clusters"], units: Float[np.ndarray, " clusters"]) -> Interval:
    """:func:`clustered_share` where only sums over each cluster are known, such as a scene's tokens named right; ``n`` counts clusters.

    Args:
        hits: between 0 and ``units``; need not be whole.
        units: of each cluster; clusters without any do not count.
    """
    there = np.asarray(units) > 0
    hits, units = np.asarray(hits, dtype=float)[there], np.asarray(units, dtype=float)[there]
    if len(units) == 0:
        return EMPTY
    share = float(hits.sum() / units.sum())
    alike = _effective(hits - share * units, share * (1 - share) * float(units.sum()), units)
    low, high = binomial_limits(share * alike, alike)
    return Interval(share, float(low), float(high), len(units))


def clustered_share_p(hits: Bool[np.ndarray, " units"], clusters: Sequence[str], chance: float) -> float:
    """Two-sided p of :func:`clustered_share` against ``chance``."""
    alike = effective_number(np.asarray(hits, dtype=float), clusters)
    return binomial_p(float(np.mean(hits)) * alike, alike, chance)


def clustered_mean(
    values: Float[np.ndarray, " units"], clusters: Sequence[str] | None = None, alike: float | None = None
) -> tuple[Interval, float]:
    """Mean of paired differences in [−1, 1] with its interval, and its two-sided p against 0; ``n`` counts units.

    Student's interval after adding one difference of +1 and one of −1 (Bonett and Price 2012, for paired proportions): where few pairs
    differ, the plain one is far too narrow, and where none does it has no width. For clusters one and a half of each: one is too few
    where few units change, all in one direction (docs/coverage.md simulates it).

    Args:
        clusters: of units that are not independent; by default all are.
        alike: how many independent units say as much, where that is known and there are no clusters.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return EMPTY, 1.0
    if clusters is not None:
        alike, groups = effective_number(values, clusters), float(len(set(clusters)))
    else:
        alike = groups = float(len(values)) if alike is None else alike
    added = 2.0 if clusters is None else _ADDED
    return _student(float(values.mean()), float((values**2).mean()), alike, groups, added, len(values))


def _student(mean: float, square: float, alike: float, groups: float, added: float, n: int) -> tuple[Interval, float]:
    """Student's interval and p of :func:`clustered_mean`, from the mean of the differences and that of their squares."""
    from scipy.stats import t

    centre, error = _with_added(np.asarray(mean), np.asarray(square), alike, added)
    freedom = max(groups - 1, 1)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = float(2 * t.sf(abs(centre) / error, freedom))
    return Interval(mean, max(min(float(centre - reach), mean), -1.0), min(max(float(centre + reach), mean), 1.0), n), p


def _with_added(
    mean: Float[np.ndarray, "..."], square: Float[np.ndarray, "..."], alike: float, added: float
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and standard error of ``alike`` differences and ``added`` more, half of them +1 and half −1."""
    centre, square = alike * mean / (alike + added), (alike * square + added) / (alike + added)
    return centre, np.sqrt((square - centre**2) / (alike + added))


def difference_of_sums(
    hits: Float[np.ndarray, " clusters"], others: Float[np.ndarray, " clusters"], units: Float[np.ndarray, " clusters"]
) -> Interval:
    """Paired difference of two :func:`share_of_sums` of the same units; ``n`` counts clusters.

    Student's over clusters, with the added differences of :func:`clustered_mean` as heavy as one independent unit each, of the score
    whose units are more alike; one that is right everywhere, or nowhere, says nothing of that beside one that is not.
    """
    found = _Paired.of(hits, others, units)
    if found is None:
        return EMPTY
    mean, n = found.shares[0] - found.shares[1], float(found.units.sum())
    variance = found.groups / max(found.groups - 1, 1) * float(((found.off[0] - found.off[1]) ** 2).sum()) / n**2
    return _student(mean, variance * found.alike + mean**2, found.alike, found.groups, _ADDED, found.groups)[0]


def ratio_above(
    part: Float[np.ndarray, " clusters"], whole: Float[np.ndarray, " clusters"], units: Float[np.ndarray, " clusters"], chance: float
) -> Interval:
    """How much of what one score has above ``chance`` another score of the same units has, in [0, 1]; ``n`` counts clusters.

    The interval holds each ratio ``r`` for which ``part − r · whole − (1 − r) · chance`` may be 0 (Fieller 1954), by the interval of
    :func:`difference_of_sums`. ``nan`` where ``whole`` is not above chance.

    Args:
        part, whole, units: as the arguments of :func:`difference_of_sums`.
    """
    from scipy.stats import t

    found = _Paired.of(part, whole, units)
    if found is None or found.shares[1] <= chance:
        return EMPTY
    above = [share - chance for share in found.shares]
    ratio = float(np.clip(above[0] / above[1], 0, 1))
    tried, n = np.linspace(0, 1, _RATIOS), float(found.units.sum())
    off = found.off[0] - tried[:, None] * found.off[1]
    mean = above[0] - tried * above[1]
    variance = found.groups / max(found.groups - 1, 1) * (off**2).sum(axis=1) / n**2
    centre, error = _with_added(mean, variance * found.alike + mean**2, found.alike, _ADDED)
    may_be = tried[np.abs(centre) <= t.ppf((1 + CONFIDENCE) / 2, max(found.groups - 1, 1)) * error]
    return Interval(ratio, min([ratio, *may_be]), max([ratio, *may_be]), found.groups)


@dataclass(frozen=True)
class _Paired:
    """Two scores of the same units, known as sums over clusters.

    Attributes:
        off: of each score, each cluster's sum less what its units would have at the score's share.
        alike: how many independent units say as much, of the score whose units are more alike.
    """

    units: Float[np.ndarray, " clusters"]
    shares: tuple[float, float]
    off: tuple[Float[np.ndarray, " clusters"], Float[np.ndarray, " clusters"]]
    alike: float

    @property
    def groups(self) -> int:
        return len(self.units)

    @classmethod
    def of(
        cls, hits: Float[np.ndarray, " clusters"], others: Float[np.ndarray, " clusters"], units: Float[np.ndarray, " clusters"]
    ) -> "_Paired | None":
        there = np.asarray(units) > 0
        hits, others, units = (np.asarray(values, dtype=float)[there] for values in (hits, others, units))
        n = float(units.sum())
        if len(units) == 0:
            return None
        first, second = float(hits.sum()) / n, float(others.sum()) / n
        off = (hits - first * units, others - second * units)
        squares = [share * (1 - share) * n for share in (first, second)]
        varying = [_effective(of, square, units) for of, square in zip(off, squares, strict=True) if square >= _NOTHING]
        return cls(units, (first, second), off, min(varying, default=_effective(off[0], 0.0, units)))


def mean_of_shares(values: Float[np.ndarray, " units"], lowest: float = 0.0) -> Interval:
    """Mean of independent values between ``lowest`` and 1: the exact interval of as many coin flips as vary alike.

    Their number is lowered for the variance being an estimate (squared ratio of the normal's quantile to Student's). Values that are all
    alike count as one flip each.
    """
    from scipy.stats import norm, t

    n = len(values)
    if n == 0:
        return EMPTY
    scaled = (np.asarray(values, dtype=float) - lowest) / (1 - lowest)
    mean, flips = float(scaled.mean()), float(n)
    variance = float(scaled.var(ddof=1)) if n > 1 else 0.0
    if variance > _NOTHING:
        tail = (1 + CONFIDENCE) / 2
        flips = n * mean * (1 - mean) / variance * float(norm.ppf(tail) / t.ppf(tail, n - 1)) ** 2
    low, high = binomial_limits(mean * flips, flips)
    return Interval(float(np.mean(values)), lowest + (1 - lowest) * float(low), lowest + (1 - lowest) * float(high), n)


def calibration_gaps(
    confidence: Float[np.ndarray, " units"],
    correct: Bool[np.ndarray, " units"],
    weights: Float[np.ndarray, "draws units"] | None = None,
    bins: int = 10,
) -> Float[np.ndarray, "draws bins"]:
    """Accuracy less mean confidence in bins of equal width, times the share of units in the bin.

    Their absolute values add up to the expected calibration error (Guo et al. 2017).

    Args:
        confidence: probability of the answer given, in [0, 1].
        weights: how often each unit stands in each resample; by default one draw that holds each unit once.
    """
    weights = np.ones((1, len(confidence))) if weights is None else weights
    place = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    gap = np.asarray(correct, dtype=float) - confidence
    in_bins = np.where(place[:, None] == np.arange(bins), gap[:, None], 0.0)
    return (weights @ in_bins) / weights.sum(axis=1)[:, None]


def calibration_error(confidence: Float[np.ndarray, " units"], correct: Bool[np.ndarray, " units"], bins: int = 10) -> float:
    """Expected calibration error: mean over units of |accuracy - mean confidence| of their bin."""
    return float(np.abs(calibration_gaps(confidence, correct, bins=bins)).sum())


def resample_counts(n: int, *, draws: int, seed: int) -> Int[np.ndarray, "draws n"]:
    """How often each of ``n`` units stands in each resample. Many statistics of the same units follow from one product with this matrix."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)


def mcnemar_exact(corrected: int, broken: int) -> float:
    """Exact two-sided McNemar p-value from the discordant counts; 1 when there are none."""
    from scipy.stats import binomtest

    discordant = corrected + broken
    return float(binomtest(corrected, discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """Holm-adjusted p-values, in the order given."""
    # Not statsmodels': it collects Python's garbage at every call, which costs more than the measures themselves.
    raw = np.asarray(p_values, dtype=float)
    order = raw.argsort()
    adjusted = np.empty(len(raw))
    adjusted[order] = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)).clip(max=1.0)
    return adjusted


def mean_of_independent(parts: Sequence[Interval]) -> Interval:
    """Mean of independent estimates, such as the two axes', whose scenes differ; ``n`` is their sum.

    The distances to the limits are added in quadrature (the method of variance estimates recovery: Zou and Donner, 2008),
    so that unsymmetric intervals stay so. Parts without units are left out.
    """
    known = [part for part in parts if part.n > 0 and np.isfinite(part.estimate)]
    if not known:
        return EMPTY
    mean = sum(part.estimate for part in known) / len(known)
    below = sum((part.estimate - part.low) ** 2 for part in known) ** 0.5 / len(known)
    above = sum((part.high - part.estimate) ** 2 for part in known) ** 0.5 / len(known)
    return Interval(mean, mean - below, mean + above, sum(part.n for part in known))


def difference_of_independent(first: Interval, second: Interval) -> tuple[Interval, float]:
    """First estimate minus second, and its two-sided p against 0, from their intervals alone (Zou and Donner, 2008).

    For scores of the same units, which agree more than independent ones, the interval is too wide rather than too narrow.
    """
    from scipy.stats import norm

    change = first.estimate - second.estimate
    below = float(np.hypot(first.estimate - first.low, second.high - second.estimate))
    above = float(np.hypot(first.high - first.estimate, second.estimate - second.low))
    reach = below if change > 0 else above
    p = float(min(1.0, 2 * norm.sf(abs(change) / reach * norm.ppf((1 + CONFIDENCE) / 2)))) if reach > 0 else float(change == 0)
    return Interval(change, change - below, change + above, min(first.n, second.n)), p
