"""Joining two photos with the same camera and reference object into one scene of three objects, and framing scenes.

(A left of R) and (B right of R): the second photo is shifted so that its R lies on the first one's, and takes over at a
seam between R and B. The seam is the column of that gap where the photos agree best, so nothing is cut. A
``self merge`` joins a photo with a shifted copy of itself, seam between its objects: all that a merge does but the third object.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.photo_boxes import ObjectBoxes
from vlm_spatial.tokens import Box

FRAME = (672, 448)
"""Width and height of every scene made of photos: 24 × 16 cells of 28 pixels."""

# Pixels between an object and where the seam may lie, and of blending to either side of the seam, at most.
_MARGIN, _FADE = 6, 16
# Brightness is matched row by row, smoothed over this many rows.
_LEVEL_ROWS = 6


@dataclass(frozen=True)
class Join:
    """How two photos (of equal height) become one picture.

    Attributes:
        shift: pixels by which the second photo is moved to the right.
        low, high: columns of the picture between which one photo turns into the other, inclusive.
        width: of the picture.
        boxes: of the objects, in slot order, in the picture.
    """

    shift: int
    low: int
    high: int
    width: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Window:
    """The part of a picture that fills the frame, and how much it is enlarged."""

    left: float
    top: float
    width: float
    height: float

    def box(self, box: Box) -> Box:
        """``box`` of the picture in pixels of the frame."""
        scale = FRAME[0] / self.width
        left, top, right, bottom = box
        return ((left - self.left) * scale, (top - self.top) * scale, (right - self.left) * scale, (bottom - self.top) * scale)


def plan_merge(first: ObjectBoxes, second: ObjectBoxes, width: int) -> Join:
    """Merge (A, R) of ``first`` with (R, B) of ``second``, both ``width`` pixels wide.

    Raises:
        UserError: if no seam fits between R and B.
    """
    shift = round((first.right[0] + first.right[2] - second.left[0] - second.left[2]) / 2)
    low = int(np.ceil(max(first.right[2], second.left[2] + shift))) + _MARGIN
    high = int(np.floor(min(second.right[0] + shift, width))) - _MARGIN
    if high < low:
        raise UserError(f"no room for a seam between the reference and the right object ({high - low + 2 * _MARGIN} px)")
    return Join(shift, low, high, width + shift, (first.left, first.right, _moved(second.right, shift)))


def plan_self_merge(boxes: ObjectBoxes, width: int) -> Join:
    """Merge a photo with itself: the copy is shifted by a third of the gap between its objects.

    Raises:
        UserError: if the gap is too narrow for a seam.
    """
    gap = boxes.right[0] - boxes.left[2]
    shift = int(gap // 3)
    low = int(np.ceil(boxes.left[2])) + shift + _MARGIN
    high = int(np.floor(boxes.right[0])) - _MARGIN
    if shift < 1 or high < low:
        raise UserError(f"no room for a seam between its objects ({gap:.0f} px)")
    return Join(shift, low, high, width + shift, (boxes.left, _moved(boxes.right, shift)))


def _moved(box: Box, shift: int) -> Box:
    return (box[0] + shift, box[1], box[2] + shift, box[3])


def join(
    first: UInt8[np.ndarray, "height width 3"], second: UInt8[np.ndarray, "height width 3"], plan: Join
) -> UInt8[np.ndarray, "height joined 3"]:
    """The joined picture. The second photo is brought to the brightness of the first where they meet."""
    if first.shape != second.shape:
        raise UserError(f"photos of {first.shape[1]}×{first.shape[0]} and {second.shape[1]}×{second.shape[0]} pixels cannot be merged")
    columns = np.arange(plan.low, plan.high + 1)
    ours, theirs = first[:, columns].astype(np.float32), second[:, columns - plan.shift].astype(np.float32)
    # Light falls off differently along a wall and a table, so every row has its own level.
    level = gaussian_filter1d(np.median(ours - theirs, axis=1), _LEVEL_ROWS, axis=0)[:, None]
    mismatch = np.abs(ours - theirs - level).mean(axis=(0, 2))
    fade = min((plan.high - plan.low) // 2, _FADE)
    seam = plan.low + fade + int(np.argmin(mismatch[fade : len(columns) - fade]))
    share = np.clip((np.arange(plan.width) - seam) / (2 * fade + 1) + 0.5, 0, 1)[None, :, None]
    left = np.zeros((first.shape[0], plan.width, 3), dtype=np.float32)
    right = np.zeros_like(left)
    until = min(plan.width, first.shape[1])
    left[:, :until] = first[:, :until]
    start = max(0, plan.shift)
    right[:, start:] = second[:, start - plan.shift : plan.width - plan.shift].astype(np.float32) + level
    return np.clip(np.rint((1 - share) * left + share * right), 0, 255).astype(np.uint8)


def plan_window(boxes: tuple[Box, ...], width: int, height: int) -> Window:
    """The largest window of the frame's shape inside a ``width × height`` picture, centred on the objects.

    Raises:
        UserError: if the objects do not all fit into it.
    """
    scale = min(width / FRAME[0], height / FRAME[1])
    across, down = FRAME[0] * scale, FRAME[1] * scale
    low_x, low_y = min(box[0] for box in boxes), min(box[1] for box in boxes)
    high_x, high_y = max(box[2] for box in boxes), max(box[3] for box in boxes)
    if high_x - low_x > across or high_y - low_y > down:
        raise UserError(f"its objects span {high_x - low_x:.0f}×{high_y - low_y:.0f} px, more than the {across:.0f}×{down:.0f} px window")
    left = float(np.clip((low_x + high_x - across) / 2, 0, width - across))
    top = float(np.clip((low_y + high_y - down) / 2, 0, height - down))
    return Window(left, top, across, down)


def framed(picture: UInt8[np.ndarray, "height width 3"], window: Window) -> Image.Image:
    """The window of ``picture`` as an image of ``FRAME`` size."""
    corners = (window.left, window.top, window.left + window.width, window.top + window.height)
    return Image.fromarray(picture).resize(FRAME, Image.Resampling.BICUBIC, box=corners)
