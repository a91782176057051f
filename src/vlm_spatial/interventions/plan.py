"""Which positions an intervention makes necessary to compute again, and which runs are computed together.

Three shortcuts, all exact. A patch of the last block's output matters at the last position only. Positions before the first
one that a patch reaches keep the clean run's keys and values. Where a patch covers the image from its first token on with another
run's own values, these positions follow that run from there on: its keys and values are taken over.

What a patch reaches depends on the model. Where image tokens attend backwards only, it is every later position; where attention inside
the image is bidirectional, the image follows another run as a whole or is computed again as a whole; where the whole prompt is, everything
is computed again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_spatial.interventions.patch import CLEAN, Indices, Patch, boundary
from vlm_spatial.models.decoder import Layout
from vlm_spatial.models.values import Reach

# Rows of one batch start at its earliest start; this share of positions, or of vision blocks, may be computed in vain.
WASTE = 0.08


@dataclass(frozen=True)
class Row:
    """One patched run of the language model.

    Attributes:
        number: of the intervention.
        entry: first block to run; the number of blocks if only the last block's output is changed.
        start: first position to compute.
        follows_source: whether the positions before ``start`` are the source run's rather than the clean run's.
    """

    number: int
    entry: int
    start: int
    follows_source: bool


@dataclass(frozen=True)
class Attention:
    """What of a model decides how far a patch reaches; see :class:`vlm_spatial.models.adapter.Adapter`."""

    reach: Reach
    late_entries: int = 0


def is_copy(patch: Patch) -> bool:
    """Whether the patch lays the source's values, as they are, on the cells or positions they come from."""
    written, read = (patch.to_positions, patch.from_positions) if patch.of_text else (patch.to_cells, patch.from_cells)
    return patch.transform is None and (read is None or (written is not None and np.array_equal(read, written)))


def is_idle(patch: Patch, layout: Layout, depth: int) -> bool:
    """Whether the patch is of the last block's output and leaves out the last position, which alone is read."""
    return patch.site == f"language.{depth - 1}" and layout.length - 1 not in patch.to_places(layout.length, layout.cells_at)


def is_clean(patches: Sequence[Patch]) -> bool:
    """Whether the patches only lay the clean run's values on themselves."""
    return all(patch.source == CLEAN and is_copy(patch) for patch in patches)


def plan(
    number: int,
    patches: Sequence[Patch],
    layout: Layout,
    attention: Attention,
    same_prompt: bool = True,
    edits: Sequence[tuple[int, Indices]] = (),
) -> Row:
    """The row of an intervention.

    Args:
        same_prompt: whether the only patch's source asks what the clean run asks.
        edits: of each edit inside the blocks, the first block and the positions that change there.
    """
    entry = min([boundary(patch.site) for patch in patches] + [first for first, _ in edits])
    followed = _followed(patches[0], layout, attention) if len(patches) == 1 and same_prompt and not edits else 0
    if followed:
        return Row(number, entry, layout.positions[followed - 1] + 1, follows_source=True)
    starts = [_first_changed(patch, layout, attention.reach) for patch in patches]
    starts += [_first_reached(places, layout, attention.reach) for _, places in edits]
    return Row(number, entry, min(starts), follows_source=False)


def _first_changed(patch: Patch, layout: Layout, reach: Reach) -> int:
    """The first position that changes, at the patch's site or behind it."""
    if patch.site.startswith("vision."):
        # A change anywhere in the vision encoder reaches every visual token.
        return 0 if reach == "prompt" else layout.first
    return _first_reached(patch.to_places(layout.length, layout.cells_at), layout, reach)


def _first_reached(places: Indices, layout: Layout, reach: Reach) -> int:
    """The first position that changes, behind a block at which ``places`` do."""
    if reach == "prompt":
        return 0
    in_image = reach == "image" and np.isin(places, layout.cells_at).any()
    return min(int(places.min()), layout.first) if in_image else int(places.min())


def _followed(patch: Patch, layout: Layout, attention: Attention) -> int:
    """How many first cells, and with them every position up to there, are from here on those of the source's run."""
    if patch.site.startswith("vision.") or not is_copy(patch) or patch.to_cells is None:
        return 0
    covered = np.sort(patch.to_cells)
    followed = int((covered == np.arange(len(covered))).cumprod().sum())
    if boundary(patch.site) > 0:
        # Positions between the cells have seen the image already, and more of the clean image may enter later.
        followed = min(followed, layout.unbroken)
        if attention.reach == "prompt" or boundary(patch.site) <= attention.late_entries:
            return 0
    return followed if attention.reach == "causal" or followed == layout.cells else 0


def batches(rows: Sequence[Row], layout: Layout, size: Callable[[int], int]) -> Iterator[list[Row]]:
    """Rows with nearly equal starts together, by entry, as many as ``size(positions)`` allows."""
    left = sorted(rows, key=lambda row: row.start)
    while left:
        positions = layout.length - left[0].start
        alike = [row for row in left if row.start - left[0].start <= WASTE * positions]
        left = left[len(alike) :]
        alike.sort(key=lambda row: row.entry)
        most = size(positions)
        # Evenly filled batches: a last one of a few rows would waste the machine.
        count = -(-len(alike) // most)
        for part in np.array_split(np.arange(len(alike)), count):
            yield [alike[index] for index in part]


def near_layers(layers: Mapping[int, int], depth: int, most: int) -> Iterator[tuple[int, list[int]]]:
    """Runs that the vision encoder computes together, and the block they start from: the first at which one of them is patched.

    Args:
        layers: the first patched vision block of each run, by its number.
        depth: blocks of the vision encoder.
        most: runs in one batch.
    """
    left = sorted(layers, key=lambda number: layers[number])
    while left:
        first = layers[left[0]]
        part = [number for number in left[:most] if layers[number] - first <= WASTE * (depth - 1 - first)]
        yield first, part
        left = left[len(part) :]
