"""What is asked of pixel boxes ``(left, top, right, bottom)`` of photographs."""

from collections.abc import Sequence

from vlm_spatial.tokens import Axis, Box

# Published boxes are rounded to hundredths, and end up to a pixel outside.
_SLACK = 1.0
_HUNDREDTH = 0.01


def inside(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box has an area and lies in an image of this width and height, within a pixel."""
    return box[0] >= -_SLACK and box[1] >= -_SLACK and box[2] <= size[0] + _SLACK and box[3] <= size[1] + _SLACK and area(box) > 0


def clipped(box: Box, size: tuple[int, int]) -> Box:
    """The part of a box that lies in an image of this width and height."""
    return max(0.0, box[0]), max(0.0, box[1]), min(float(size[0]), box[2]), min(float(size[1]), box[3])


def area(box: Box) -> float:
    """Square pixels; 0 for a box with a side of none."""
    return (box[2] - box[0]) * (box[3] - box[1]) if box[2] > box[0] and box[3] > box[1] else 0.0


def overlap_along(axis: Axis, boxes: Sequence[Box]) -> bool:
    """Whether the second box begins before the first one ends."""
    low = 0 if axis == "horizontal" else 1
    return boxes[0][low + 2] > boxes[1][low]


def in_order(axis: Axis, boxes: Sequence[Box]) -> bool:
    """Whether the second box's centre comes after the first one's, by more than boxes are rounded to."""
    low = 0 if axis == "horizontal" else 1
    first, second = ((box[low] + box[low + 2]) / 2 for box in boxes)
    return second - first >= _HUNDREDTH
