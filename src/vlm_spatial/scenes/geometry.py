"""Where the objects of a scene stand: boxes for each layout of the canvas."""

from functools import cache
from itertools import combinations

import numpy as np
from jaxtyping import Float

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.scene import CANVAS
from vlm_spatial.scenes.sources.drawn import Difficulty
from vlm_spatial.scenes.sources.layouts import Blocks
from vlm_spatial.tokens import SLOTS, Axis, Box, TokenGrid, coverage, matched_blocks, scene_tokens

SLOT_CENTRES = (1 / 6, 3 / 6, 5 / 6)

# Token grids of the families and organisms at hand. On all of them aligned objects cover the same cells of their slots,
# and little of any other cell: what an object spills into its rim would be moved by a patch of the rim.
ALIGNED_GRIDS = (16, 6)
# Side in pixels (a share of 0.27) and centres that do so at five places across, found by trying all.
ALIGNED_SIZE = 120
ALIGNED_CENTRES = (3 / 16, 8 / 16, 13 / 16)
# Largest share of a cell outside its object's set that an aligned object may cover.
ALIGNED_SPILL = 0.15
# And the exchange of two strips moves at least this share of either.
_SHARED = 0.6
# Of pairs whose objects stand anywhere along the axis: side and smallest gap in pixels, and least share of an object's cell along the
# axis, or across it. Two such shares multiplied are half a cell.
_ALIKE_SIZE, _ALIKE_GAP = 76, 4
_ALIKE_SHARE = 0.708
# Share of the room across the axis that full jitter uses, so that the axis stays the plain direction of the row.
_ACROSS = 0.6
# Decorrelated scenes: smallest gap between objects, and sizes relative to the smallest, as small ones can travel furthest.
_GAP = 0.02
_TRAVEL_SIZES = (0.8, 1.1)
_GAP_SHARES = (0.6, 0.15, 0.15, 0.6)


def place(along: float, across: float, length: float, breadth: float, axis: Axis) -> Box:
    """A box of whole pixels around a centre, ``length`` along the axis and ``breadth`` across it.

    Half pixels are rounded away from the canvas's middle line, so that mirrored centres give mirrored boxes.
    """
    start, side = _span(along, length), _span(across, breadth)
    if axis == "horizontal":
        return (start[0], side[0], start[1], side[1])
    return (side[0], start[0], side[1], start[1])


def _span(centre: float, size: float) -> tuple[float, float]:
    whole = round(size)
    if centre > CANVAS / 2:
        low, high = _span(CANVAS - centre, size)
        return CANVAS - high, CANVAS - low
    # The small allowance makes 0.5 - rounding error go the same way as 0.5.
    low = float(np.ceil(centre - whole / 2 - 0.5 - 1e-9))
    return low, low + whole


def slotted_boxes(difficulty: Difficulty, axis: Axis, generator: np.random.Generator) -> tuple[Box, Box, Box]:
    """Objects in the three thirds of the axis, never leaving them, each of its own size and place."""
    boxes = []
    for centre in SLOT_CENTRES:
        size = CANVAS * generator.uniform(*difficulty.object_size)
        # One pixel less, as rounding to whole pixels may move an edge by up to one.
        along = CANVAS * centre + _jitter(max(0.0, (CANVAS / 3 - size) / 2 - 1), difficulty, generator)
        across = CANVAS / 2 + _jitter(_ACROSS * (CANVAS - size) / 2, difficulty, generator)
        boxes.append(place(along, across, size, size, axis))
    return boxes[0], boxes[1], boxes[2]


def travelling_boxes(difficulty: Difficulty, axis: Axis, generator: np.random.Generator) -> tuple[Box, Box, Box]:
    """Objects anywhere along the axis, in order, with a small gap: the slot is not the absolute position.

    The free room is dealt to the four gaps by a Dirichlet draw that favours the outer two: rows huddle, and stand anywhere.
    With the default sizes the best rule that knows an object's centre only finds its slot for 64% of objects.
    """
    smallest = difficulty.object_size[0] * CANVAS
    sizes = np.round(smallest * generator.uniform(*_TRAVEL_SIZES, size=3))
    room = CANVAS - sizes.sum() - 2 * np.ceil(_GAP * CANVAS)
    gaps = np.floor(room * generator.dirichlet(_GAP_SHARES)[:3])
    gaps[1:] += np.ceil(_GAP * CANVAS)
    starts = np.cumsum(gaps) + np.cumsum(sizes) - sizes
    boxes = []
    for start, size in zip(starts, sizes, strict=True):
        across = CANVAS / 2 + _jitter(_ACROSS * (CANVAS - size) / 2, difficulty, generator)
        boxes.append(place(start + size / 2, across, size, size, axis))
    return boxes[0], boxes[1], boxes[2]


def travelling_blocks(blocks: Blocks, generator: np.random.Generator) -> tuple[int, int, int]:
    """First cells of three blocks anywhere along the axis, in order, at least a cell apart where there is room: the slot is not the place.

    The room is dealt as in :func:`travelling_boxes`, in whole cells.
    """
    apart = 1 if blocks.grid > SLOTS * blocks.side + 1 else 0
    room = blocks.grid - SLOTS * blocks.side - 2 * apart
    gaps = generator.multinomial(room, generator.dirichlet(_GAP_SHARES))
    first = int(gaps[0])
    second = first + blocks.side + apart + int(gaps[1])
    return first, second, second + blocks.side + apart + int(gaps[2])


def aligned_boxes(difficulty: Difficulty, axis: Axis, generator: np.random.Generator) -> tuple[Box, Box, Box]:
    """Objects of ``ALIGNED_SIZE`` at ``ALIGNED_CENTRES`` and one place across, covering the same cells of their slots.

    No cell outside an object's set is covered by more than ``ALIGNED_SPILL``, and :func:`vlm_spatial.tokens.matched_blocks`
    is defined for any two of them, on every grid of ``ALIGNED_GRIDS``.
    """
    wanted = CANVAS / 2 + _jitter(_ACROSS * (CANVAS - ALIGNED_SIZE) / 2, difficulty, generator)
    for step in range(CANVAS):
        # Nearest whole pixel first, then alternately to either side.
        across = round(wanted) + (step + 1) // 2 * (-1) ** step
        if ALIGNED_SIZE / 2 <= across <= CANVAS - ALIGNED_SIZE / 2:
            boxes = _aligned_row(across, axis)
            if boxes is not None:
                return boxes
    raise AssertionError(f"objects of {ALIGNED_SIZE} px align at some place across, whatever the axis")


@cache
def _aligned_row(across: int, axis: Axis) -> tuple[Box, Box, Box] | None:
    """Three objects at ``across``, or None if their cells differ on some grid."""
    first, second, third = (place(CANVAS * centre, across, ALIGNED_SIZE, ALIGNED_SIZE, axis) for centre in ALIGNED_CENTRES)
    boxes = (first, second, third)
    for side in ALIGNED_GRIDS:
        grid = TokenGrid(side, side)
        tokens = scene_tokens(boxes, grid, CANVAS, CANVAS, axis)
        if any(coverage(box, grid, CANVAS, CANVAS)[~own].max() > ALIGNED_SPILL for box, own in zip(boxes, tokens.objects, strict=True)):
            return None
        for one, other in combinations(range(3), 2):
            try:
                shared = len(matched_blocks(tokens, one, other, "strip")[0])
            except UserError:
                return None
            if shared < _SHARED * max(tokens.strips[one].sum(), tokens.strips[other].sum()):
                return None
    return boxes


def travelling_aligned_boxes(difficulty: Difficulty, axis: Axis, generator: np.random.Generator) -> tuple[Box, Box, Box]:
    """Objects of one size anywhere along the axis, in order, that cover the same cells of their slots: the slot is not the place.

    Each covers one cell of the coarsest grid of ``ALIGNED_GRIDS``. Every choice of three of its cells is as frequent that leaves a gap and
    has an object in another third of the canvas than its slot's. A rule of thirds finds 60% of the slots.
    """
    rows = list(_alike_rows().values())
    starts = generator.choice(rows[int(generator.integers(len(rows)))])
    room = CANVAS - _ALIKE_SIZE
    wanted = room / 2 + _jitter(_ACROSS * room / 2, difficulty, generator)
    across = min(_alike_starts(), key=lambda start: abs(start - wanted)) + _ALIKE_SIZE / 2
    first, second, third = (place(start + _ALIKE_SIZE / 2, across, _ALIKE_SIZE, _ALIKE_SIZE, axis) for start in starts.tolist())
    return first, second, third


@cache
def _alike_rows() -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Starts of three objects with a gap between them, by the cells that they cover."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for row in combinations(_alike_starts(), 3):
        cells = tuple(_alike_starts()[start] for start in row)
        in_thirds = all(cell * SLOTS // ALIGNED_GRIDS[-1] == slot for slot, cell in enumerate(cells))
        if min(row[1] - row[0], row[2] - row[1]) >= _ALIKE_SIZE + _ALIKE_GAP and not in_thirds:
            found.setdefault(cells, []).append(row)
    return found


@cache
def _alike_starts() -> dict[int, int]:
    """Starts along one side at which an object covers the same cells on every grid of ``ALIGNED_GRIDS``; its cell of the coarsest."""
    found = {}
    for start in range(CANVAS - _ALIKE_SIZE + 1):
        covered = [coverage((start, 0, start + _ALIKE_SIZE, CANVAS), TokenGrid(1, side), CANVAS, CANVAS) for side in ALIGNED_GRIDS]
        if all(_stands_alike(of_grid) for of_grid in covered):
            found[start] = int(np.argmax(covered[-1]))
    return found


def _stands_alike(covered: Float[np.ndarray, " cells"]) -> bool:
    own = covered >= _ALIKE_SHARE
    return bool(own.sum() == round(_ALIKE_SIZE * len(covered) / CANVAS) and covered[~own].max() <= ALIGNED_SPILL)


def _jitter(room: float, difficulty: Difficulty, generator: np.random.Generator) -> float:
    return float(generator.uniform(-1, 1)) * difficulty.jitter * room
