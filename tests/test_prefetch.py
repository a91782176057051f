"""Work ahead: the same results in the same order, one item ahead and no more, and errors in their turn."""

import threading
from collections.abc import Iterator

import pytest

from vlm_spatial.interventions.prefetch import prefetch

pytestmark = pytest.mark.unit

WAIT_S = 5.0


def test_each_item_comes_with_what_was_made_of_it() -> None:
    assert list(prefetch(range(5), lambda item: item * item)) == [(item, item * item) for item in range(5)]
    assert list(prefetch([], str)) == []
    assert list(prefetch(["one"], str.upper)) == [("one", "ONE")]


def test_the_next_one_is_made_while_this_one_is_used_and_none_after_it() -> None:
    begun = [threading.Event() for _ in range(4)]
    threads = set()

    def make(item: int) -> int:
        threads.add(threading.get_ident())
        begun[item].set()
        return item

    taken: Iterator[tuple[int, int]] = prefetch(range(4), make)
    assert next(taken) == (0, 0)
    assert begun[1].wait(WAIT_S)
    assert not begun[2].wait(0.05)
    assert next(taken) == (1, 1)
    assert begun[2].wait(WAIT_S)
    assert not begun[3].wait(0.05)
    assert threading.get_ident() not in threads
    assert len(threads) == 1


def test_an_error_is_raised_in_its_turn_and_ends_the_work() -> None:
    made = []

    def make(item: int) -> int:
        made.append(item)
        if item == 1:
            raise ValueError("number one")
        return item

    taken = prefetch(range(10), make)
    assert next(taken) == (0, 0)
    with pytest.raises(ValueError, match="number one"):
        next(taken)
    assert len(made) <= 3


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    taken = prefetch(range(10), str)
    next(taken)
    taken.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
