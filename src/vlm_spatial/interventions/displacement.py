"""Which scenes tell a slot from an absolute place, and which cells of one object stand for those of another. No torch here."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Int

from vlm_spatial.tokens import SLOTS, SceneTokens, TokenGrid

_SAME_PLACE = 0.5
"""Objects stand at the same place if their centres along the axis are at most this many cells apart."""


def apart(
    clean: str, sources: Sequence[str], tokens: Mapping[str, SceneTokens], contents: Mapping[str, frozenset[str]], axis: str
) -> Iterator[tuple[str, int, int]]:
    """Scenes without a content of ``clean``, the slot to ask about, and the slot of such a scene that stands where it stands.

    Args:
        contents: what each scene shows.
    """
    for source in sources:
        if source == clean or tokens[source].grid != tokens[clean].grid or contents[clean] & contents[source]:
            continue
        here, elsewhere = (_along(tokens[name], axis) for name in (clean, source))
        for slot, there in permutations(range(SLOTS), 2):
            if abs(here[slot] - elsewhere[there]) <= _SAME_PLACE:
                yield source, slot, there


def permuted(slot: int, laid: int, others: Sequence[int]) -> dict[int, int]:
    """Which of the source's slots is laid on each of the clean scene's: ``laid`` on ``slot``, and the rest, in order, on ``others``."""
    rest = [each for each in range(SLOTS) if each != laid]
    return {**dict(zip(others, rest, strict=True)), slot: laid}


def _along(tokens: SceneTokens, axis: str) -> list[float]:
    """Centre of each object's cells along the axis, in cells."""
    rows, cols = zip(*(np.divmod(np.flatnonzero(mask), tokens.grid.cols) for mask in tokens.objects), strict=True)
    return [float(np.mean(cells)) for cells in (cols if axis == "horizontal" else rows)]


def laid_on(
    target: Bool[np.ndarray, " cells"], source: Bool[np.ndarray, " cells"], grid: TokenGrid
) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
    """Cells of an object, and for each the cell of another one that lies at the same share of its height and width."""
    to, of = (np.stack(np.divmod(np.flatnonzero(mask), grid.cols)) for mask in (target, source))
    low, size = to.min(axis=1, keepdims=True), np.ptp(to, axis=1, keepdims=True) + 1
    wanted = ((to - low + 0.5) / size * (np.ptp(of, axis=1, keepdims=True) + 1)).astype(int) + of.min(axis=1, keepdims=True)
    # Where the other object is no rectangle of cells, the nearest of its cells.
    nearest = np.abs(wanted[:, :, None] - of[:, None, :]).sum(axis=0).argmin(axis=1)
    return to[0] * grid.cols + to[1], of[0][nearest] * grid.cols + of[1][nearest]
