"""Which vision runs are computed together: each once, in full batches, and few blocks in vain."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_spatial.interventions.plan import WASTE, near_layers

pytestmark = pytest.mark.unit


@given(st.lists(st.integers(0, 31), max_size=60), st.integers(1, 9))
def test_every_run_is_computed_once_from_a_block_near_its_own(layers: list[int], most: int) -> None:
    of_run = dict(enumerate(layers))
    parts = list(near_layers(of_run, 32, most))
    assert Counter(number for _, part in parts for number in part) == Counter(list(of_run))
    for first, part in parts:
        assert 0 < len(part) <= most
        assert first == min(of_run[number] for number in part)
        left = 31 - first
        assert all(of_run[number] - first <= WASTE * left for number in part)


def test_runs_of_neighbouring_blocks_share_a_batch_and_far_ones_do_not() -> None:
    assert list(near_layers({0: 2, 1: 0, 2: 3, 3: 1}, 32, 8)) == [(0, [1, 3, 0]), (3, [2])]
    # In a shallow encoder a block is a large share of what is left.
    assert list(near_layers({0: 0, 1: 1}, 4, 8)) == [(0, [0]), (1, [1])]
