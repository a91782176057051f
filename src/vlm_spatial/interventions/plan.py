"""Which positions a patch makes necessary to compute again, and which patches are computed together.

Three shortcuts, all exact. A patch of the last block's output cannot reach the last position. Positions before the first
patched one keep the clean run's keys and values. Where the patch covers the image from its first token on with another
run's own values, these positions follow that run from there on: its keys and values are taken over.
The last two hold token by token where image tokens attend backwards only; where attention inside the image is
bidirectional, the image follows another run as a whole or is computed again as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_spatial.interventions.decoder import Layout
from vlm_spatial.interventions.patch import CLEAN, Patch

# Rows of one batch start at its earliest start; this share of positions may be computed in vain.
_WASTE = 0.08


@dataclass(frozen=True)
class Row:
    """One patched run of the language model.

    Attributes:
        patch: number of the patch.
        entry: first block to run.
        start: first position to compute.
        follows_source: whether the positions before ``start`` are the source run's rather than the clean run's.
    """

    patch: int
    entry: int
    start: int
    follows_source: bool


def is_copy(patch: Patch) -> bool:
    """Whether the patch lays the source's values, as they are, on the cells they come from."""
    return patch.transform is None and (patch.from_cells is None or np.array_equal(patch.from_cells, patch.to_cells))


def changes_nothing(patch: Patch, depth: int) -> bool:
    """Whether the patched run is the clean run."""
    return (patch.source == CLEAN and is_copy(patch)) or patch.site == f"language.{depth - 1}"


def plan(number: int, patch: Patch, layout: Layout, causal_image: bool) -> Row:
    """The row of a patch at the connector or in the language model."""
    entry = 0 if patch.site == "connector" else int(patch.site.split(".")[1]) + 1
    followed = 0
    if is_copy(patch):
        covered = np.sort(patch.to_cells)
        followed = int((covered == np.arange(len(covered))).cumprod().sum())
    if not causal_image and followed < layout.cells:
        return Row(number, entry, layout.first, follows_source=False)
    return Row(number, entry, layout.first + (followed or int(patch.to_cells.min())), follows_source=followed > 0)


def batches(rows: Sequence[Row], layout: Layout, size: Callable[[int], int]) -> Iterator[list[Row]]:
    """Rows with nearly equal starts together, by entry, as many as ``size(positions)`` allows."""
    left = sorted(rows, key=lambda row: row.start)
    while left:
        positions = layout.length - left[0].start
        alike = [row for row in left if row.start - left[0].start <= _WASTE * positions]
        left = left[len(alike) :]
        alike.sort(key=lambda row: row.entry)
        most = size(positions)
        # Evenly filled batches: a last one of a few rows would waste the machine.
        count = -(-len(alike) // most)
        for part in np.array_split(np.arange(len(alike)), count):
            yield [alike[index] for index in part]
