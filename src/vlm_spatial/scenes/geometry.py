"""Where the objects of a scene stand: boxes for each layout of the canvas."""

from functools import cache
from itertools import combinations

import numpy as np

from vlm_spatial.config import Difficulty
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.scene import CANVAS
from vlm_spatial.tokens import Axis, Box, TokenGrid, matched_blocks, scene_tokens

SLOT_CENTRES = (1 / 6, 3 / 6, 5 / 6)

# Token grids of the families and organisms at hand; aligned objects cover the same cells of their slots on all of them.
ALIGNED_GRIDS = (14, 16, 6)
# Share of the room across the axis that full jitter uses, so that the axis stays the plain direction of the row.
_ACROSS = 0.6
# Decorrelated scenes: smallest gap between objects, and sizes relative to the smallest, as small ones can travel furthest.
_GAP = 0.02
_TRAVEL_SIZES = (0.8, 1.1)


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

    The free room is dealt to the four gaps by a Dirichlet draw of concentration one half, which favours huddled rows.
    """
    smallest = difficulty.object_size[0] * CANVAS
    sizes = np.round(smallest * generator.uniform(*_TRAVEL_SIZES, size=3))
    room = CANVAS - sizes.sum() - 2 * np.ceil(_GAP * CANVAS)
    gaps = np.floor(room * generator.dirichlet([0.5] * 4)[:3])
    gaps[1:] += np.ceil(_GAP * CANVAS)
    starts = np.cumsum(gaps) + np.cumsum(sizes) - sizes
    boxes = []
    for start, size in zip(starts, sizes, strict=True):
        across = CANVAS / 2 + _jitter(_ACROSS * (CANVAS - size) / 2, difficulty, generator)
        boxes.append(place(start + size / 2, across, size, size, axis))
    return boxes[0], boxes[1], boxes[2]


def aligned_boxes(difficulty: Difficulty, axis: Axis, generator: np.random.Generator) -> tuple[Box, Box, Box]:
    """Objects of one size at the slots' centres and one place across, covering the same cells of their slots.

    :func:`vlm_spatial.tokens.matched_blocks` is defined for any two of them on every grid of ``ALIGNED_GRIDS``.
    """
    size = int(generator.choice(aligned_sizes(*difficulty.object_size)))
    wanted = CANVAS / 2 + _jitter(_ACROSS * (CANVAS - size) / 2, difficulty, generator)
    for step in range(CANVAS):
        # Nearest whole pixel first, then alternately to either side.
        across = round(wanted) + (step + 1) // 2 * (-1) ** step
        if size / 2 <= across <= CANVAS - size / 2:
            boxes = _row(size, across, axis)
            if _aligned(boxes, axis):
                return boxes
    raise AssertionError(f"size {size} was found to align somewhere")


@cache
def aligned_sizes(smallest: float, largest: float) -> tuple[int, ...]:
    """Sides in pixels that can align on every grid of ``ALIGNED_GRIDS``, inside the range asked for or next to it.

    A third of the canvas is not a whole number of cells, so objects sit at different phases in their cells, and
    only some sizes cover equally many cells in all three slots.
    """
    low, high = smallest * CANVAS, largest * CANVAS
    places = range(CANVAS // 2 - 16, CANVAS // 2 + 17, 2)
    can = np.array([size for size in range(24, CANVAS // 3) if any(_aligned(_row(size, at, "horizontal"), "horizontal") for at in places)])
    distance = np.maximum(0, np.maximum(low - can, can - high))
    return tuple(int(size) for size in can[distance <= distance.min() + 3])


def _row(size: int, across: float, axis: Axis) -> tuple[Box, Box, Box]:
    first, second, third = (place(CANVAS * centre, across, size, size, axis) for centre in SLOT_CENTRES)
    return first, second, third


def _aligned(boxes: tuple[Box, Box, Box], axis: Axis) -> bool:
    for side in ALIGNED_GRIDS:
        tokens = scene_tokens(boxes, TokenGrid(side, side), CANVAS, CANVAS, axis)
        for first, second in combinations(range(3), 2):
            try:
                matched_blocks(tokens, first, second, "object")
            except UserError:
                return False
    return True


def _jitter(room: float, difficulty: Difficulty, generator: np.random.Generator) -> float:
    return float(generator.uniform(-1, 1)) * difficulty.jitter * room
