"""Work done ahead, in a thread of its own, while its last result is being used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[tuple[Item, Made]]:
    """Each item with what ``make`` makes of it, in order: the next one is made while the caller works on this one.

    At most one is made before it is asked for, so memory holds no more. An error of ``make`` is raised in its item's turn.

    Args:
        make: called in one other thread, one call at a time; what it uses must bear that.
    """
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(make, item)))
                if len(waiting) > 1:
                    earlier, made = waiting.popleft()
                    yield earlier, made.result()
                    del made
            for earlier, made in waiting:
                yield earlier, made.result()
        finally:
            pool.shutdown(cancel_futures=True)
