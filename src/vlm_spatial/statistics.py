"""Intervals and tests, in one place, so that every number in the report is made the same way."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

# scipy.stats and statsmodels (with it pandas) are imported where they are used: they take most of a light stage's start.

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


def wilson(successes: int, n: int) -> Interval:
    """A proportion with its Wilson score interval."""
    if n == 0:
        return EMPTY
    low, high = wilson_limits(successes, n)
    return Interval(successes / n, float(low), float(high), n)


def wilson_limits(successes: ArrayLike, n: ArrayLike) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Lower and upper limit of Wilson score intervals, number by number; counts need not be whole, ``n`` must be above 0."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - CONFIDENCE, method="wilson")
    # The formula gives 0 and 1 there, rounding may leave a little more: enough to exceed a control of exactly 0.
    return np.where(np.asarray(successes) <= 0, 0.0, low), np.where(np.asarray(successes) >= np.asarray(n), 1.0, high)


def wilson_clustered(hits: Bool[np.ndarray, " units"], clusters: Sequence[str]) -> Interval:
    """A proportion of units that come in clusters (the questions of one scene are not independent).

    Wilson's interval for the effective number of units, ``n`` over the design effect (Kish 1965; Korn and Graubard 1998), which is
    never taken to be below 1. ``n`` counts units.
    """
    hits = np.asarray(hits, dtype=float)
    n, share = len(hits), float(hits.mean()) if len(hits) else float("nan")
    if n == 0 or share in (0.0, 1.0):
        return wilson(int(hits.sum()), n)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(index.max()) + 1
    totals = np.bincount(index, weights=hits - share)
    # Linearised variance of a ratio of totals, against that of independent units.
    correction = groups / max(groups - 1, 1)
    effect = max(1.0, correction * float((totals**2).sum()) / (n * share * (1 - share)))
    low, high = wilson_limits(share * n / effect, n / effect)
    return Interval(share, float(low), float(high), n)


def calibration_error(
    confidence: Float[np.ndarray, " units"],
    correct: Bool[np.ndarray, " units"],
    weights: Float[np.ndarray, "draws units"] | None = None,
    bins: int = 10,
) -> Float[np.ndarray, " draws"]:
    """Expected calibration error: mean over units of |accuracy - mean confidence| of their bin (equal widths; Guo et al. 2017).

    Args:
        confidence: probability of the answer given, in [0, 1].
        weights: how often each unit stands in each resample; by default one draw that holds each unit once.
    """
    weights = np.ones((1, len(confidence))) if weights is None else weights
    place = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    gap = np.asarray(correct, dtype=float) - confidence
    in_bins = np.where(place[:, None] == np.arange(bins), gap[:, None], 0.0)
    return np.abs(weights @ in_bins).sum(axis=1) / weights.sum(axis=1)


def cluster_bootstrap(
    values: Float[np.ndarray, " units"],
    clusters: Int[np.ndarray, " units"] | Sequence[str],
    *,
    draws: int,
    seed: int,
) -> Interval:
    """Mean of ``values`` with a percentile interval that resamples whole clusters (scenes); ``n`` counts clusters."""
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        return EMPTY
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=values)
    sizes = np.bincount(index)
    means = _resampled(draws, seed, len(sums), lambda chosen: sums[chosen].sum(-1) / sizes[chosen].sum(-1))
    low, high = _percentiles(means)
    return Interval(float(values.mean()), low, high, len(sums))


def clustered_share(
    hits: Bool[np.ndarray, " units"], clusters: Int[np.ndarray, " units"] | Sequence[str], *, draws: int, seed: int
) -> Interval:
    """Share of hits, as :func:`cluster_bootstrap`; where all units are alike it is Wilson's over clusters."""
    found = cluster_bootstrap(np.asarray(hits, dtype=float), clusters, draws=draws, seed=seed)
    return wilson(round(found.estimate) * found.n, found.n) if found.estimate in (0.0, 1.0) else found


def bootstrap(n: int, statistic: Callable[[Int[np.ndarray, "draws n"]], Float[np.ndarray, " draws"]], *, draws: int, seed: int) -> Interval:
    """Any statistic of ``n`` exchangeable units; ``statistic`` takes rows of unit indices and gives one value a row."""
    if n == 0:
        return EMPTY
    low, high = _percentiles(_resampled(draws, seed, n, statistic))
    return Interval(float(statistic(np.arange(n)[None])[0]), low, high, n)


def resample_counts(n: int, *, draws: int, seed: int) -> Float[np.ndarray, "draws n"]:
    """How often each of ``n`` units stands in each resample: the very resamples of :func:`bootstrap` and :func:`cluster_bootstrap`.

    Many statistics of the same units follow from one product with this matrix.
    """

    def counted(chosen: Int[np.ndarray, "draws n"]) -> Float[np.ndarray, "draws n"]:
        offsets = np.arange(len(chosen))[:, None] * n
        return np.bincount((chosen + offsets).ravel(), minlength=len(chosen) * n).reshape(len(chosen), n).astype(float)

    return _resampled(draws, seed, n, counted)


def percentile_interval(samples: Float[np.ndarray, "draws ..."]) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """95% percentile interval over the first dimension; ``nan`` where no resample has a value."""
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's remark on an all-nan column, which the nan says as well
        low, high = np.nanpercentile(samples, [tail, 100 - tail], axis=0)
    return low, high


def _resampled(draws: int, seed: int, n: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Float[np.ndarray, " draws"]:
    generator = np.random.default_rng(seed)
    # Blocks keep the index table small whatever n and draws are; their size is fixed, so results do not depend on it.
    block = max(1, 4_000_000 // n)
    sizes = [block] * (draws // block) + ([draws % block] if draws % block else [])
    return np.concatenate([statistic(generator.integers(0, n, size=(size, n))) for size in sizes])


def _percentiles(samples: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def mcnemar_exact(corrected: int, broken: int) -> float:
    """Exact two-sided McNemar p-value from the discordant counts; 1 when there are none."""
    from scipy.stats import binomtest

    discordant = corrected + broken
    return float(binomtest(corrected, discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """Holm-adjusted p-values, in the order given."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1] if len(p_values) else np.zeros(0)


def paired_difference(
    before: Bool[np.ndarray, " units"], after: Bool[np.ndarray, " units"], clusters: Sequence[str], *, draws: int, seed: int
) -> Interval:
    """Change in accuracy over the same units, with a paired bootstrap interval that resamples whole clusters; ``n`` counts units."""
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    found = cluster_bootstrap(change, clusters, draws=draws, seed=seed)
    return Interval(found.estimate, found.low, found.high, len(change))


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
