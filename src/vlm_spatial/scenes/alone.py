"""One object of a scene alone on a plain canvas: what position-neutral re-encoding shows the vision encoder."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from PIL import Image

from vlm_spatial.tokens import Box, TokenGrid

Colour = tuple[int, int, int]


def background_colour(image: Image.Image, boxes: Sequence[Box]) -> Colour:
    """Median colour of the pixels outside every box, rounded down; of all pixels if the boxes cover the image."""
    outside = Image.new("L", image.size, 255)
    for box in boxes:
        outside.paste(0, _whole_pixels(box))
    pixels = image.convert("RGB")
    red, green, blue = np.reshape(pixels.histogram(outside if outside.getbbox() else None), (3, -1)).cumsum(axis=1)
    return _median(red), _median(green), _median(blue)


def _median(below: Int[np.ndarray, " levels"]) -> int:
    """Median of levels, the mean of the two in the middle rounded down; ``below`` counts values up to each level."""
    low, high = np.searchsorted(below, [(below[-1] - 1) // 2, below[-1] // 2], side="right")
    return int(low + high) // 2


def moving(box: Box, boxes: Sequence[Box], grid: TokenGrid, width: int, height: int, slot: int) -> tuple[int, int]:
    """Rows and columns of cells by which ``box`` is moved along the axis of ``boxes`` to come as close as it can to the one of ``slot``.

    As in :func:`centring`; across the axis it stays.
    """
    first, last, target = boxes[0], boxes[-1], boxes[slot]
    along = 0 if abs(last[0] + last[2] - first[0] - first[2]) > abs(last[1] + last[3] - first[1] - first[3]) else 1
    cells, side = ((grid.cols, width), (grid.rows, height))[along]
    steps = _steps(box[along], box[along + 2], side / cells, cells, (target[along] + target[along + 2]) / 2 / side * cells)
    return (0, steps) if along == 0 else (steps, 0)


def centring(box: Box, grid: TokenGrid, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of cells by which ``box`` is moved so that its centre comes as close to the canvas centre as whole cells allow.

    Whole cells, so that the object lies on the cell borders as it did; never so far that the box leaves the canvas. Boxes that lie
    alike within their cells come to lie on the same cells, wherever they were.
    """
    left, top, right, bottom = box
    rows = _steps(top, bottom, height / grid.rows, grid.rows, grid.rows / 2)
    return rows, _steps(left, right, width / grid.cols, grid.cols, grid.cols / 2)


def _steps(start: float, stop: float, cell: float, cells: int, to: float) -> int:
    # The small number makes a tie fall to the same side for boxes that differ by rounding only.
    wanted = math.floor(to - (start + stop) / 2 / cell + 0.5 + 1e-6)
    lowest, highest = math.ceil(-start / cell - 1e-6), math.floor(cells - stop / cell + 1e-6)
    return min(max(wanted, lowest), highest)


def alone(image: Image.Image, box: Box, grid: TokenGrid, colour: Colour, move: tuple[int, int]) -> Image.Image:
    """The box's pixels on a plain canvas, moved by some rows and columns of cells.

    Where a cell is no whole number of pixels, the move is rounded to the nearest pixel.
    """
    rows, cols = move
    left, top, right, bottom = _whole_pixels(box)
    x = min(max(round(left + cols * image.width / grid.cols), 0), image.width - (right - left))
    y = min(max(round(top + rows * image.height / grid.rows), 0), image.height - (bottom - top))
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(image.crop((left, top, right, bottom)), (x, y))
    return canvas


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
