"""Boxes of equal size around two objects of a photo, so that their blocks of visual tokens can be exchanged one to one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vlm_spatial.scenes.merge import FRAME
from vlm_spatial.tokens import Box, TokenGrid, coverage

# Token grids that a frame has in the families at hand, and in organisms of these families.
PHOTO_GRIDS = (TokenGrid(16, 24), TokenGrid(16, 16), TokenGrid(6, 6), TokenGrid(4, 7))
# Places and widths are tried in steps of this many pixels; a box is widened by at most so many.
_STEP, _WIDEST = 4, 120
# A cell half covered counts as covered; the small allowance is that of tokens.object_tokens.
_HALF = 0.5 - 1e-9


def aligned_boxes_around(first: Sequence[Box], second: Sequence[Box], others: Sequence[Box] = ()) -> tuple[Box, Box] | None:
    """Two boxes of one size and height in the frame, around everything in ``first`` and in ``second``, or None if there are none.

    They cover the same cells relative to their first cell on each of ``PHOTO_GRIDS``, keep clear of ``others`` and of each other, and
    are as narrow as that allows. ``first`` lies left of ``second``.
    """
    left, right = _hull(first), _hull(second)
    top, bottom = float(np.floor(min(left[1], right[1]))), float(np.ceil(max(left[3], right[3])))
    rooms = [_room(hull, [*others, twin]) for hull, twin in ((left, right), (right, left))]
    narrowest = int(np.ceil(max(hull[2] - hull[0] for hull in (left, right))))
    for width in range(narrowest, narrowest + _WIDEST, _STEP):
        places = [_places(hull, room, width, top, bottom) for hull, room in zip((left, right), rooms, strict=True)]
        if not all(places):
            # A wider box has no more room.
            return None
        for pattern, start in places[0].items():
            other = places[1].get(pattern)
            if other is not None and start + width <= other:
                return (start, top, start + width, bottom), (other, top, other + width, bottom)
    return None


def _hull(boxes: Sequence[Box]) -> Box:
    edges = np.array(boxes)
    low, high = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _room(hull: Box, others: Sequence[Box]) -> tuple[float, float]:
    """The columns around ``hull`` that no other object stands in."""
    low = max((box[2] for box in others if box[0] < hull[0]), default=0.0)
    high = min((box[0] for box in others if box[0] >= hull[0]), default=float(FRAME[0]))
    return low, high


def _places(hull: Box, room: tuple[float, float], width: int, top: float, bottom: float) -> dict[tuple[bytes, ...], float]:
    """Where a box of this width holds ``hull`` and stays in ``room``: by the cells that it covers, the most central left edge."""
    low, high = np.ceil(max(room[0], hull[2] - width)), np.floor(min(hull[0], room[1] - width))
    starts = np.arange(low, high + 1, _STEP)
    central = starts[np.argsort(np.abs(starts - (hull[0] + hull[2] - width) / 2), kind="stable")]
    patterns = zip(*(_patterns(central, width, top, bottom, grid) for grid in PHOTO_GRIDS), strict=True)
    found: dict[tuple[bytes, ...], float] = {}
    for start, pattern in zip(central, patterns, strict=True):
        found.setdefault(pattern, float(start))
    return found


def _patterns(starts: Float[np.ndarray, " places"], width: int, top: float, bottom: float, grid: TokenGrid) -> list[bytes]:
    """For each left edge the columns of cells that the box covers, relative to the first; rows are the same for all of them."""
    rows = coverage((0, top, FRAME[0], bottom), TokenGrid(grid.rows, 1), *FRAME)
    edges = np.arange(grid.cols)
    scale = grid.cols / FRAME[0]
    across = np.clip(np.minimum((starts[:, None] + width) * scale, edges + 1) - np.maximum(starts[:, None] * scale, edges), 0, 1)
    # As in tokens.object_tokens, but for all places at once; a cell that no box half covers is left to its rule.
    masks = across[:, None, :] * rows[None, :, None] >= _HALF
    firsts = masks.any(axis=1).argmax(axis=1)
    return [np.roll(mask, -first, axis=1).tobytes() for mask, first in zip(masks, firsts, strict=True)]
