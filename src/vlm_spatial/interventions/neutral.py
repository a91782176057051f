"""Position-neutral re-encoding: every object encoded alone, where its slot does not show, its tokens laid back in its slot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.activations.batching import alike
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import SHOWN_ONCE
from vlm_spatial.models.values import Edit, Prepared, SiteValues
from vlm_spatial.progress import progress
from vlm_spatial.scenes.alone import Colour, alone, background_colour, centring, moving
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import Box, TokenGrid

Place = Literal["random", "centre", "middle", "own"]
"""Where an object is encoded: at the place of a slot drawn at random, at the canvas centre, at the middle slot (as published), or where it
stands (a control).

At the centre its tokens do say a place, the middle one, and questions for it are then answered with the middle whatever is asked.
"""


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
    """An edit that puts fixed values in place of visual tokens.

    Attributes:
        kept: cells that keep their own.
    """

    values: Float[Tensor, "cells patches features"]
    kept: Int[np.ndarray, " cells"]

    def __call__(self, values: SiteValues) -> SiteValues:
        edited = self.values.to(values).expand_as(values).clone()
        edited[:, self.kept] = values[:, self.kept]
        return edited


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
        self._made: dict[str, Replaced] = {}
        self._plain: dict[tuple[Colour, tuple[int, int]], Float[Tensor, "cells 1 features"]] = {}

    def edit(self, scene_id: str) -> Edit:
        """What puts the scene's neutral values in place of the connector's output."""
        if scene_id not in self._made:
            self._lay([scene_id], self._draw([scene_id]))
        return self._made[scene_id]

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
        middle = np.full(len(boxes), len(boxes) // 2)
        drawn = np.random.default_rng([self.seed, *scene_id.encode()]).integers(len(boxes), size=len(boxes))
        slots = middle if self.place == "middle" else drawn
        return [moving(box, boxes, grid, *size, int(slot)) for box, slot in zip(boxes, slots, strict=True)]

    def _lay(self, scene_ids: Sequence[str], drawn: _Drawn) -> None:
        plain = [self._plain_canvas(colour, size) for colour, size in drawn.colours]
        encoded = self._encode(drawn.canvases)
        for scene, scene_moves, empty in zip(scene_ids, drawn.moves, plain, strict=True):
            grid = self.adapter.grid(*self.dataset.size(scene))
            objects = self.dataset.tokens(scene, grid).objects
            steps = [rows * grid.cols + cols for rows, cols in scene_moves]
            self._made[scene] = self._laid(objects, steps, empty, [next(encoded) for _ in steps])

    def _laid(
        self,
        objects: Bool[np.ndarray, "slots cells"],
        steps: Sequence[int],
        empty: Float[Tensor, "cells 1 features"],
        alone: Sequence[Float[Tensor, "cells 1 features"]],
    ) -> Replaced:
        """What stands ``steps`` cells further on the object's own canvas, and the plain canvas elsewhere.

        With ``shifted_cells`` every token read and written is so many further; what would lie behind the image is left out.
        """
        shift, last = self.adapter.quirks.shifted_cells, objects.shape[1]
        values, free = empty.clone(), np.logical_not(np.any(objects, axis=0))
        free &= np.arange(last) < (self.adapter.quirks.background_cells or last)
        written = [np.flatnonzero(free) + shift]
        for mask, step, encoded in zip(objects, steps, alone, strict=True):
            cells = np.flatnonzero(mask) + shift
            cells = cells[(cells < last) & (cells + step < last)]
            values[cells] = encoded[cells + step]
            written.append(cells)
        return Replaced(values, np.setdiff1d(np.arange(last), np.concatenate(written)))

    def _plain_canvas(self, colour: Colour, size: tuple[int, int]) -> Float[Tensor, "cells 1 features"]:
        if (colour, size) not in self._plain:
            self._plain[colour, size] = next(self._encode(self._prepared([Image.new("RGB", size, colour)])))
        return self._plain[colour, size]

    def _prepared(self, images: Sequence[Image.Image]) -> list[Prepared]:
        parts = alike(images, self.batch, lambda image: self.adapter.grid(*image.size))
        return [self.adapter.prepare(part, [self.prompt] * len(part)) for part in parts]

    def _encode(self, batches: Sequence[Prepared]) -> Iterator[Float[Tensor, "cells 1 features"]]:
        for prepared in batches:
            yield from self.adapter.run_vision(prepared)["connector"].cpu()
