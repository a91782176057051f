"""Position-neutral re-encoding: every object encoded alone at the canvas centre, its tokens laid back in its slot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


def centring(box: Box, grid: TokenGrid, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of cells by which ``box`` is moved so that its centre comes as close to the canvas centre as whole cells allow.

    Whole cells, so that the object lies on the cell borders as it did; never so far that the box leaves the canvas. Boxes that lie
    alike within their cells come to lie on the same cells, wherever they were.
    """
    left, top, right, bottom = box
    return _steps(top, bottom, height / grid.rows, grid.rows), _steps(left, right, width / grid.cols, grid.cols)


def _steps(start: float, stop: float, cell: float, cells: int) -> int:
    # The small number makes a tie fall to the same side for boxes that differ by rounding only.
    wanted = math.floor(cells / 2 - (start + stop) / 2 / cell + 0.5 + 1e-6)
    lowest, highest = math.ceil(-start / cell - 1e-6), math.floor(cells - stop / cell + 1e-6)
    return min(max(wanted, lowest), highest)


def alone(image: Image.Image, box: Box, grid: TokenGrid, colour: Colour) -> tuple[Image.Image, tuple[int, int]]:
    """The box's pixels moved to the centre of a plain canvas, and by how many rows and columns of cells they moved.

    Where a cell is no whole number of pixels, the move is rounded to the nearest pixel.
    """
    rows, cols = centring(box, grid, image.width, image.height)
    left, top, right, bottom = _whole_pixels(box)
    x = min(max(round(left + cols * image.width / grid.cols), 0), image.width - (right - left))
    y = min(max(round(top + rows * image.height / grid.rows), 0), image.height - (bottom - top))
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(image.crop((left, top, right, bottom)), (x, y))
    return canvas, (rows, cols)


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

    An object's cells hold what the connector makes of it at the canvas centre, alone on a plain canvas; all other cells hold what it
    makes of the plain canvas. Nothing in the object tokens then tells where in the scene they stand.

    Args:
        prompt: any prompt; the vision encoder does not see it.
    """

    def __init__(self, adapter: Adapter, dataset: Dataset, prompt: str, batch: int = 16) -> None:
        self.adapter = adapter
        self.dataset = dataset
        self.prompt = prompt
        self.batch = batch
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
            colour = background_colour(image, boxes)
            made = [alone(image, box, self.adapter.grid(*image.size), colour) for box in boxes]
            canvases += [canvas for canvas, _ in made]
            colours.append((colour, image.size))
            moves.append([move for _, move in made])
        for canvas in canvases:
            canvas.info[SHOWN_ONCE] = True
        return _Drawn(self._prepared(canvases), colours, moves)

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
