"""How a photograph is shown: as large as it can be on its canvas, its boxes with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from vlm_spatial.scenes.chosen import Chosen
from vlm_spatial.scenes.natural_questions import content_named
from vlm_spatial.scenes.opening import open_upright
from vlm_spatial.scenes.scene import CANVAS, Scene, Variant

PADDING = (127, 127, 127)
"""What surrounds a photograph on its canvas."""


CELL = 28
"""Pixels along a side of a visual token of the models that keep the aspect ratio; a native canvas has whole cells of it."""

SQUEEZED = 896
"""Side of the square that a photograph is squeezed to: that of the largest images that families which make a square see."""

Canvas = Literal["square", "native", "squeezed", "as_is"]


@dataclass(frozen=True)
class PictureDrawing:
    """A photograph at its place on a canvas of ``size`` pixels, mirrored last."""

    path: Path
    size: tuple[int, int]
    place: tuple[int, int, int, int]
    flipped: bool = False


def letterbox(size: tuple[int, int], canvas: Canvas = "square") -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Width and height of the canvas for a picture of this size, and where it lies there: its longer side ``CANVAS``, centred.

    A ``native`` canvas is the smallest of whole cells that holds it, so that less than a cell of padding is left. A ``squeezed`` picture
    fills a square of ``SQUEEZED`` pixels. A picture ``as_is`` is its own canvas.
    """
    if canvas == "squeezed":
        return (SQUEEZED, SQUEEZED), (0, 0, SQUEEZED, SQUEEZED)
    if canvas == "as_is":
        return size, (0, 0, *size)
    scale = CANVAS / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    across, down = (CANVAS, CANVAS) if canvas == "square" else (-(-width // CELL) * CELL, -(-height // CELL) * CELL)
    left, top = (across - width) // 2, (down - height) // 2
    return (across, down), (left, top, left + width, top + height)


def draw_picture(drawing: PictureDrawing) -> Image.Image:
    """The RGB image of a planned scene."""
    left, top, right, bottom = drawing.place
    # Decoded no smaller than it is shown.
    picture = open_upright(drawing.path, (max(2 * CANVAS, right - left), max(2 * CANVAS, bottom - top)))
    canvas = Image.new("RGB", drawing.size, PADDING)
    canvas.paste(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS, reducing_gap=3.0), (left, top))
    return canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawing.flipped else canvas


def natural_scene(chosen: Chosen, kind: str, variant: Variant, number: int, canvas: Canvas = "square") -> Scene:
    """The scene that a photograph shows on its canvas."""
    size, place = letterbox(chosen.size, canvas)
    scale = [(place[2] - place[0]) / chosen.size[0], (place[3] - place[1]) / chosen.size[1]]
    boxes = [
        (place[0] + x * scale[0], place[1] + y * scale[1], place[0] + right * scale[0], place[1] + bottom * scale[1])
        for x, y, right, bottom in chosen.boxes
    ]
    left, top, right, bottom = map(float, place)
    return Scene(
        kind=kind,
        variant=variant,
        axis=chosen.axis,
        contents=tuple(map(content_named, chosen.labels)),
        slots=(0, 1, 2) if len(chosen.labels) == 3 else (0, 2),
        boxes=tuple(boxes),
        background=chosen.image,
        photograph=chosen.image,
        seed=number,
        middle_reference=2 * (number % 2),
        vocabulary=tuple(map(content_named, chosen.absent)),
        named=True,
        picture=None if place == (0, 0, *size) else (left, top, right, bottom),
        width=size[0],
        height=size[1],
    )
