"""What a probe is held against: other labels, and features that know nothing of the model."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from vlm_spatial.probes.layout import Group
from vlm_spatial.progress import progress
from vlm_spatial.tokens import TokenGrid


def shuffled_slots(scenes: Group, slots: int, generator: np.random.Generator) -> Int[np.ndarray, "scenes tokens"]:
    """Slot labels of the object tokens with the slots of every scene permuted at random: whole objects change label."""
    order = np.tile(np.arange(slots), (scenes.size, 1))
    order[:, scenes.slots] = generator.permuted(order[:, scenes.slots], axis=1)
    return np.take_along_axis(order, np.maximum(scenes.objects, 0).astype(int), axis=1)


def control_task(words: int, slots: Sequence[int], generator: np.random.Generator) -> Int[np.ndarray, " words"]:
    """A random one of ``slots`` for each answer word, as even as can be (control task; Hewitt and Liang 2019, section 2)."""
    return np.array(slots)[generator.permutation(np.arange(words) % len(slots))]


def control_labels(scenes: Group, labels: Int[np.ndarray, " words"]) -> Int[np.ndarray, "scenes tokens"]:
    """The control task's label of every cell: that of the word of the object in whose strip it lies; meaningless for padding."""
    return np.take_along_axis(labels[scenes.words], np.maximum(scenes.strips, 0).astype(int), axis=1)


def control_labels_at_objects(scenes: Group, labels: Int[np.ndarray, " words"]) -> Int[np.ndarray, "scenes tokens"]:
    """The control task's label of every object token; meaningless on other cells."""
    return np.take_along_axis(labels[scenes.words], np.maximum(scenes.objects, 0).astype(int), axis=1)


def cell_features(grid: TokenGrid) -> Float[np.ndarray, "tokens features"]:
    """One-hot row and one-hot column of every cell: absolute position and nothing else."""
    row, col = np.divmod(np.arange(grid.size), grid.cols)
    return np.concatenate([np.eye(grid.rows)[row], np.eye(grid.cols)[col]], axis=1)


class Images(Protocol):
    def image(self, scene_id: str) -> Image.Image: ...


class PixelFeatures:
    """Mean colour of each cell's pixels, as if it were a site (three features a token)."""

    def __init__(
        self, images: Images, grid: TokenGrid, scene_ids: Sequence[str], own_grids: Mapping[str, TokenGrid] = MappingProxyType({})
    ) -> None:
        def means(scene_id: str) -> Float[np.ndarray, "tokens 3"]:
            own = own_grids.get(scene_id, grid)
            found = np.zeros((grid.size, 3), dtype=np.float32)
            found[own.within(grid)] = cell_means(images.image(scene_id), own)
            return found

        # Decoding releases the interpreter's lock; results are taken in order, so threads change nothing.
        with ThreadPoolExecutor(4) as threads:
            read = threads.map(means, scene_ids)
            self._means = dict(zip(scene_ids, progress(read, "pixels", total=len(scene_ids)), strict=True))

    def kept(self, site: str, scene_ids: Sequence[str]) -> None:  # noqa: ARG002 - every cell has its colour
        return None

    def batches(
        self, site: str, scene_ids: Sequence[str], size: int
    ) -> Iterator[tuple[Sequence[str], Float[np.ndarray, "scene token feature"]]]:
        """As the store's; there is one site, whatever ``site`` says."""
        del site
        for start in range(0, len(scene_ids), size):
            part = scene_ids[start : start + size]
            yield part, np.stack([self._means[scene_id] for scene_id in part])


def cell_means(image: Image.Image, grid: TokenGrid) -> Float[np.ndarray, "tokens 3"]:
    """Mean RGB, in [0, 1], of the pixels whose cell each token is."""
    # Box resampling to the grid's size is the exact mean over each cell, parts of pixels included.
    small = image.convert("RGB").resize((grid.cols, grid.rows), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(grid.size, 3) / 255
