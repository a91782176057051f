"""Values at the layer that is best: how uncertain the choice makes them, against what is known of maxima of normal numbers."""

import numpy as np
import pytest

from vlm_spatial.measures.best_layer import Layers, at_best
from vlm_spatial.statistics import binomial

pytestmark = pytest.mark.unit


def independent(*rates: float, pairs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((pairs, len(rates))) < rates


def test_halves_that_choose_among_equal_layers_count_for_fewer_pairs() -> None:
    # Halves correlate at M² / (layers − 1), M the expected maximum of that many normal numbers: 0.846 of three, 1.267 of six.
    for layers, maximum in ((3, 0.846), (6, 1.267)):
        found = [at_best(Layers.of(independent(*[0.5] * layers, pairs=200, seed=seed))) for seed in range(10)]
        effects = [200 / one.alike for one in found]
        assert np.mean(effects) == pytest.approx(1 + maximum**2 / (layers - 1), abs=0.05)


def test_layers_that_do_the_same_cost_nothing() -> None:
    hits = np.repeat(independent(0.5, pairs=100), 6, axis=1)
    found = at_best(Layers.of(hits))
    assert found.alike == 100
    assert found.share() == binomial(int(hits[:, 0].sum()), 100)


def test_a_layer_far_above_the_others_is_as_sure_as_if_it_were_the_only_one() -> None:
    hits = independent(0.05, 0.8, 0.1, pairs=100)
    assert at_best(Layers.of(hits)).share() == binomial(int(hits[:, 1].sum()), 100)


def test_the_upper_limit_reaches_as_far_as_that_of_any_layer_that_may_be_the_best() -> None:
    # Each half finds another layer best, at which the other half has nothing: cross-fitted 0, yet either layer's share is one half.
    hits = np.zeros((20, 2), dtype=bool)
    hits[::2, 0] = hits[1::2, 1] = True
    found = at_best(Layers.of(hits)).share()
    assert (found.estimate, found.high) == (0.0, binomial(10, 20).high)


def test_a_peak_taken_away_may_be_at_any_of_its_layers() -> None:
    added, taken = np.ones((20, 1), dtype=bool), np.zeros((20, 2), dtype=bool)
    taken[::2, 0] = taken[1::2, 1] = True
    change, p = at_best(Layers.of(added), Layers.of(taken)).mean()
    assert change.estimate == 1
    # Against either layer alone the difference is one half.
    assert change.low < 0.5
    assert p > 1e-4


def test_no_pairs_bear_no_number() -> None:
    found = at_best(Layers.of(np.zeros((0, 3), dtype=bool)))
    assert found.share().n == 0
    assert found.mean()[0].n == 0
