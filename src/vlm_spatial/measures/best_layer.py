"""What pairs do at the layer that is best for them, with intervals that hold although the layer was chosen on the same data.

The highest of many noisy rates lies above the truth. So the layer is chosen on one half of the pairs and its value taken on the other, and
the other way round. Two things are left to correct:

- The halves' values depend on each other: a half that is high at some layer sends the other half there. Their mean is then less certain
  than that of independent pairs. Where independent layers are alike, its variance is up to a third larger.
- With few pairs, the layer that is chosen may not be the best. The value is then too low.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_spatial.statistics import CONFIDENCE, EMPTY, Interval, binomial_limits, binomial_p, clustered_mean

_DRAWS = 500
"""Resamples of the halves."""


@dataclass(frozen=True)
class Layers:
    """Which pairs have an outcome at which layer, and values of the same pairs, to be taken at the layer where most have the outcome.

    Attributes:
        hits: ``[pairs, layers]``.
        values: ``[pairs, layers]``; by default the hits.
    """

    hits: Bool[np.ndarray, "pairs layers"]
    values: Float[np.ndarray, "pairs layers"]

    @classmethod
    def of(cls, hits: Bool[np.ndarray, "pairs layers"], values: Float[np.ndarray, "pairs layers"] | None = None) -> "Layers":
        return cls(hits.astype(float), hits.astype(float) if values is None else values)

    def best(self) -> int:
        """Place of the layer at which most pairs have the outcome, the first on a tie."""
        return int(self.hits.mean(axis=0).argmax())

    @cached_property
    def candidates(self) -> Int[np.ndarray, " candidates"]:
        """Places of the layers that may be the best: the paired difference from the best is not significant at 5% (Bonferroni)."""
        best = self.hits[:, self.best()]
        p = np.array([clustered_mean(best - layer)[1] for layer in self.hits.T])
        return np.flatnonzero(p * max(1, len(p) - 1) > 1 - CONFIDENCE)

    def chosen(self) -> Float[np.ndarray, " pairs"]:
        """Each pair's value at the layer that is best on the other half of the pairs (halves: every other pair)."""
        half = np.arange(len(self.hits)) % 2 == 0
        found = np.zeros(len(self.hits))
        for part in (half, ~half):
            others = self.hits[~part] if (~part).any() else self.hits
            found[part] = self.values[part, others.mean(axis=0).argmax()]
        return found

    def crossed(self, halves: Sequence[Float[np.ndarray, "draws pairs"]]) -> list[Float[np.ndarray, " draws"]]:
        """The sum of each resampled half's values at the layer that the other one chooses, were all candidates equally good."""
        hits, values = (part[:, self.candidates] - part[:, self.candidates].mean(axis=0) for part in (self.hits, self.values))
        rows = np.arange(len(halves[0]))
        return [(one @ values)[rows, (other @ hits).argmax(axis=1)] for one, other in (halves, halves[::-1])]


@dataclass(frozen=True)
class AtBest:
    """Values of pairs at the best layer.

    Attributes:
        values: of each pair, at the layer that the other half chose.
        alike: how many independent pairs say as much.
        above, below: what the values would be at each single layer that may be the best: limits have to reach as far as any of theirs.
    """

    values: Float[np.ndarray, " pairs"]
    alike: float
    above: Sequence[Float[np.ndarray, " pairs"]]
    below: Sequence[Float[np.ndarray, " pairs"]]

    def share(self) -> Interval:
        """Share of pairs, of values that are 0 or 1: exact for as many independent pairs; up to the exact limit of the best layer."""
        n = len(self.values)
        if not n:
            return EMPTY
        share = float(self.values.mean())
        low, high = binomial_limits(share * self.alike, self.alike)
        highest = [binomial_limits(values.sum(), n)[1] for values in self.above]
        return Interval(share, float(low), float(max(high, *highest)), n)

    def share_p(self, chance: float) -> float:
        """Two-sided p of :meth:`share` against ``chance``."""
        return binomial_p(float(self.values.mean()) * self.alike, self.alike, chance)

    def mean(self) -> tuple[Interval, float]:
        """Mean over pairs, of values in [−1, 1], with its interval, and its two-sided p against 0."""
        found, p = clustered_mean(self.values, alike=self.alike)
        if not len(self.values):
            return found, p
        above, below = ([clustered_mean(values) for values in of_layers] for of_layers in (self.above, self.below))
        # An effect is sure only if it is so whichever of the layers that are taken away is their best.
        p = max([p, *(other if one.estimate > 0 else 1.0 for one, other in below)]) if found.estimate > 0 else p
        low, high = min([found.low, *(one.low for one, _ in below)]), max([found.high, *(one.high for one, _ in above)])
        return Interval(found.estimate, low, high, found.n), p


def at_best(layers: Layers, minus: Layers | None = None) -> AtBest:
    """Values at the best of ``layers``, less those at the best of ``minus``, each chosen by its own hits, on the same pairs."""
    terms = [layers] if minus is None else [layers, minus]
    n = len(layers.hits)
    if not n:
        return AtBest(np.zeros(0), 0.0, [], [])
    generator = np.random.default_rng(0)
    halves = [generator.multinomial(max(n // 2, 1), np.full(n, 1 / n), size=_DRAWS).astype(float) for _ in range(2)]
    crossed, chosen = [term.crossed(halves) for term in terms], [term.chosen() for term in terms]
    if minus is None:
        (first, second), values = crossed[0], chosen[0]
    else:
        first, second = (one - other for one, other in zip(*crossed, strict=True))
        values = chosen[0] - chosen[1]
    spread = float(np.mean(first**2 + second**2)) / 2
    together = max(float(np.mean(first * second)), 0.0)
    alike = n / (1 + together / spread) if spread > 0 else float(n)
    above = [layers.values[:, place] - (0.0 if minus is None else chosen[1]) for place in layers.candidates]
    below = [] if minus is None else [chosen[0] - minus.values[:, place] for place in minus.candidates]
    return AtBest(values, alike, above, below)
