"""Position-neutral re-encoding: every object encoded alone, where its slot does not show, its tokens laid back in its slot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter, Edit, Prepared, SiteValues
from vlm_spatial.models.inputs import SHOWN_ONCE, as_rgb
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import Box, TokenGrid

Colour = tuple[int, int, int]


def background_colour(image: Image.Image, boxes: Sequence[Box]) -> Colour:
    """Median colour of the pixels outside every box, rounded down; of all pixels if the boxes cover the image."""
    outside = Image.new("L", image.size, 255)
    for box in boxes:
        outside.paste(0, _whole_pixels(box))
    pixels = as_rgb(image)
    red, green, blue = np.reshape(pixels.histogram(outside if outside.getbbox() else None), (3, -1)).cumsum(axis=1)
    return _median(red), _median(green), _median(blue)


def _median(below: Int[np.ndarray, " levels"]) -> int:
    """Median of levels, the mean of the two in the middle rounded down; ``below`` counts values up to each level."""
    low, high = np.searchsorted(below, [(below[-1] - 1) // 2, below[-1] // 2], side="right")
    return int(low + high) // 2


Place = Literal["random", "centre", "own"]
"""Where an object is encoded: at the place of a slot drawn at random, at the canvas centre (as published), or where it stands (a control).

At the centre its tokens do say a place, the middle one, and questions for it are then answered with the middle whatever is asked.
"""


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


@dataclass(frozen=True)
class _Drawn:
    """Scenes taken apart: canvases of single objects as model inputs, in batches, and what is needed to lay their tokens back.

    Attributes:
        colours: of each scene's plain canvas, with its size.
        moves: rows and columns by which each object of each scene was moved.
    """

    canvases: list[Prepared]
    colours: list[tuple[Colour, tuple[int, int]]]
    moves: list[list[tuple[int, int]]]


@dataclass(frozen=True)
class Replaced:
    """An edit that puts fixed values in place of all visual tokens."""

    values: Float[Tensor, "cells patches features"]

    def __call__(self, values: SiteValues) -> SiteValues:
        return self.values.to(values).expand_as(values).clone()


class NeutralEncoder:
    """Makes and remembers the connector's output of position-neutral scenes.

    An object's cells hold what the connector makes of it alone on a plain canvas, at ``place``; all other cells hold what it makes of the
    plain canvas. Unless the place is its own, nothing in the object tokens then tells where in the scene they stand.

    Args:
        prompt: any prompt; the vision encoder does not see it.
        seed: of random places, which are drawn for every object by itself.
    """

    def __init__(self, adapter: Adapter, dataset: Dataset, prompt: str, batch: int = 16, *, place: Place = "random", seed: int = 0) -> None:
        self.adapter = adapter
        self.dataset = dataset
        self.prompt = prompt
        self.batch = batch
        self.place = place
        self.seed = seed
        self._made: dict[str, Float[Tensor, "cells 1 features"]] = {}
        self._plain: dict[tuple[Colour, tuple[int, int]], Float[Tensor, "cells 1 features"]] = {}

    def edit(self, scene_id: str) -> Edit:
        """What puts the scene's neutral values in place of the connector's output."""
        if scene_id not in self._made:
            self._lay([scene_id], self._draw([scene_id]))
        return Replaced(self._made[scene_id])

    def make(self, scene_ids: Sequence[str]) -> None:
        """Encode the scenes that are not there yet, many canvases at a time; the next ones are drawn meanwhile."""
        missing = [scene for scene in dict.fromkeys(scene_ids) if scene not in self._made]
        groups = [missing[start : start + self.batch] for start in range(0, len(missing), self.batch)]
        if groups:
            for group, drawn in progress(prefetch(groups, self._draw), "position-neutral encoding", len(groups)):
                self._lay(group, drawn)

    def _draw(self, scene_ids: Sequence[str]) -> _Drawn:
        canvases: list[Image.Image] = []
        colours, moves = [], []
        for scene in scene_ids:
            image, boxes = self.dataset.image(scene), self.dataset.boxes(scene)
            colour, grid = background_colour(image, boxes), self.adapter.grid(*image.size)
            moves.append(self._moves(scene, boxes, grid, image.size))
            canvases += [alone(image, box, grid, colour, move) for box, move in zip(boxes, moves[-1], strict=True)]
            colours.append((colour, image.size))
        for canvas in canvases:
            canvas.info[SHOWN_ONCE] = True
        return _Drawn(self._prepared(canvases), colours, moves)

    def _moves(self, scene_id: str, boxes: Sequence[Box], grid: TokenGrid, size: tuple[int, int]) -> list[tuple[int, int]]:
        if self.place == "own":
            return [(0, 0) for _ in boxes]
        if self.place == "centre":
            return [centring(box, grid, *size) for box in boxes]
        slots = np.random.default_rng([self.seed, *scene_id.encode()]).integers(len(boxes), size=len(boxes))
        return [moving(box, boxes, grid, *size, int(slot)) for box, slot in zip(boxes, slots, strict=True)]

    def _lay(self, scene_ids: Sequence[str], drawn: _Drawn) -> None:
        plain = [self._plain_canvas(colour, size) for colour, size in drawn.colours]
        encoded = iter(self._encode(drawn.canvases))
        for scene, scene_moves, empty in zip(scene_ids, drawn.moves, plain, strict=True):
            grid = self.adapter.grid(*self.dataset.size(scene))
            values = empty.clone()
            for mask, (rows, cols) in zip(self.dataset.tokens(scene, grid).objects, scene_moves, strict=True):
                cells = np.flatnonzero(mask)
                values[cells] = next(encoded)[cells + rows * grid.cols + cols]
            self._made[scene] = values

    def _plain_canvas(self, colour: Colour, size: tuple[int, int]) -> Float[Tensor, "cells 1 features"]:
        if (colour, size) not in self._plain:
            self._plain[colour, size] = self._encode(self._prepared([Image.new("RGB", size, colour)]))[0]
        return self._plain[colour, size]

    def _prepared(self, images: Sequence[Image.Image]) -> list[Prepared]:
        parts = [images[start : start + self.batch] for start in range(0, len(images), self.batch)]
        return [self.adapter.prepare(part, [self.prompt] * len(part)) for part in parts]

    def _encode(self, batches: Sequence[Prepared]) -> Float[Tensor, "images cells 1 features"]:
        return torch.cat([self.adapter.run_vision(prepared)["connector"].cpu() for prepared in batches])
