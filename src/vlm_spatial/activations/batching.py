"""How many images go through the model at once, and how loading, computing and storing overlap."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")

AHEAD = 2
"""Batches loaded before they are needed, and batches computed before they are stored: memory holds no more."""

LARGEST_BATCH = 32
_MEMORY_SHARE = 0.5
# Around one block, in units of positions × width: residual, queries, keys, values, scores in tiles, the wide MLP layer and its gate.
_TRANSIENT = 24


def alike(items: Sequence[Item], size: int, key: Callable[[Item], Hashable]) -> Iterator[Sequence[Item]]:
    """Consecutive items of one key, at most ``size`` at a time (images of one token grid, which go through the model together)."""
    start = 0
    for end in range(1, len(items) + 1):
        if end == len(items) or end - start == size or key(items[end]) != key(items[start]):
            yield items[start:end]
            start = end


def automatic_batch(image_bytes: int, memory: int) -> int:
    """The largest power of two up to 32 whose images take half of ``memory`` at most, and at least 1.

    Args:
        image_bytes: what one image takes, see :func:`image_bytes`.
        memory: bytes free, see ``memory.free_memory``.
    """
    batch = LARGEST_BATCH
    while batch > 1 and batch * image_bytes > _MEMORY_SHARE * memory:
        batch //= 2
    return batch


def image_bytes(stored: int, transient: int, pixels: int, itemsize: int, workers: int = 1) -> int:
    """Bytes one image takes at once.

    Args:
        stored: values kept of it at all sites.
        transient: bytes that a forward pass needs besides, see :func:`estimated_transient` and ``memory.measured_growth``.
        pixels: values of its processed image.
        itemsize: bytes of a value in the model's dtype.
        workers: batches computed at once.
    """
    # Stored values exist on the device, while they wait, and as float32 while they are compressed.
    kept = stored * (itemsize * (workers + AHEAD) + 4)
    return kept + workers * transient + 4 * pixels * (workers + AHEAD)


def estimated_transient(vision_values: int, language_values: int, itemsize: int) -> int:
    """Bytes around one block for one image, from above.

    Args:
        vision_values: positions × width in the vision encoder, and ``language_values`` in the language model.
    """
    return _TRANSIENT * itemsize * max(vision_values, language_values)


@contextmanager
def side_by_side(device: torch.device) -> Iterator[int]:
    """How many batches to compute at once; while the context lasts, torch's threads are shared out among them.

    On a CPU two batches of half the threads each are faster than one batch on all of them: the Python between the
    operations of one runs beside the operations of the other, and fewer threads wait for each other.
    """
    threads = torch.get_num_threads()
    workers = 2 if device.type == "cpu" and threads >= 2 else 1
    torch.set_num_threads(threads // workers)
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)


def overlapped(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    compute: Callable[[Item, Loaded], Computed],
    store: Callable[[Item, Computed], None],
    workers: int = 1,
) -> Iterator[Item]:
    """Load, compute and store every item in order, storing in a thread of its own; yields an item once it is computed.

    One worker computes while another thread loads. Several ``workers`` each load their own item, then compute it: a loader beside
    them would only take turns with them. At most ``AHEAD`` items are loaded and ``AHEAD`` wait to be stored besides, whatever
    their number. When the iteration ends, everything is stored; the first error of any part ends it.
    """
    threads = torch.get_num_threads()
    loader, storer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    # A thread has its own number of torch threads until it is told.
    computers = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
    loading: deque[tuple[Item, Callable[[], Loaded]]] = deque()
    computing: deque[tuple[Item, Future[Computed]]] = deque()
    storing: deque[Future[None]] = deque()
    coming = iter(items)

    def load_next() -> None:
        for item in coming:
            loading.append((item, loader.submit(load, item).result if workers == 1 else partial(load, item)))
            return

    def compute_next() -> None:
        item, loaded = loading.popleft()
        computing.append((item, computers.submit(lambda: compute(item, loaded()))))
        load_next()

    try:
        for _ in range(AHEAD):
            load_next()
        for _ in range(workers):
            if loading:
                compute_next()
        while computing:
            item, future = computing.popleft()
            computed = future.result()
            del future
            while len(storing) >= AHEAD:
                storing.popleft().result()
            if loading:
                compute_next()
            storing.append(storer.submit(store, item, computed))
            del computed
            yield item
        while storing:
            storing.popleft().result()
    finally:
        for pool in (loader, computers, storer):
            pool.shutdown(wait=True, cancel_futures=True)
