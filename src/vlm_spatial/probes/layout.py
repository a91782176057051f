"""Which slot each visual token of each scene belongs to: the labels that probes are trained on and scored against."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from vlm_spatial.tokens import SLOTS, SceneTokens, TokenGrid, TokenSet

TRAINED_ON = ("main", "decorrelated")
"""Variants whose training scenes probes learn from."""


class Kept(Protocol):
    """Which tokens of some scenes are stored, and how many each stands for."""

    @property
    def tokens(self) -> Int[np.ndarray, "scenes sample"]: ...
    @property
    def weights(self) -> Float[np.ndarray, "scenes sample"]: ...


class Features(Protocol):
    """Where activations come from: the store, or a baseline that looks like one."""

    def kept(self, site: str, scene_ids: Sequence[str]) -> Kept | None:
        """The tokens that :meth:`batches` gives of each scene, ascending; None: all of them."""

    def batches(
        self, site: str, scene_ids: Sequence[str], size: int
    ) -> Iterator[tuple[Sequence[str], Float[np.ndarray, "scene token feature"]]]: ...


class Activations(Features, Protocol):
    """What is asked of a store."""

    def read(self, site: str, scene_ids: Sequence[str]) -> Float[np.ndarray, "scene token feature"]:
        """Every token of some scenes, of :attr:`whole_scenes` in any case."""

    @property
    def whole_scenes(self) -> Sequence[str]: ...

    @property
    def sites(self) -> Sequence[str]: ...
    @property
    def grid(self) -> TokenGrid: ...
    @property
    def own_grids(self) -> Mapping[str, TokenGrid]: ...
    @property
    def scenes(self) -> pl.DataFrame: ...


class TokensOf(Protocol):
    """What is asked of a dataset here."""

    @property
    def scenes(self) -> pl.DataFrame: ...

    def tokens(self, scene_id: str, grid: TokenGrid) -> SceneTokens: ...


@dataclass(frozen=True)
class Group:
    """The scenes of one axis, variant and split, with a label for every token.

    Attributes:
        strips: ``[scenes, tokens]``, slot of the strip the cell lies in, -1 for padding.
        objects: ``[scenes, tokens]``, slot of the object on the cell, -1 where there is none.
        inside: ``[scenes, tokens]``, cells that are no padding.
        words: ``[scenes, slots]``, number of the answer word of each slot's object.
        weights: ``[scenes, tokens]``, how many tokens each stored one stands for, 0 for those that are not stored; None where all are.
        slots: those that the scenes' objects stand in; of scenes of two objects the outer ones.
    """

    scene_ids: tuple[str, ...]
    strips: Int[np.ndarray, "scenes tokens"]
    objects: Int[np.ndarray, "scenes tokens"]
    words: Int[np.ndarray, "scenes slots"]
    inside: Bool[np.ndarray, "scenes tokens"]
    weights: Float[np.ndarray, "scenes tokens"] | None = None
    slots: tuple[int, ...] = tuple(range(SLOTS))

    @property
    def size(self) -> int:
        return len(self.scene_ids)

    def mask(self, token_set: TokenSet) -> Bool[np.ndarray, "scenes tokens"]:
        """Cells of ``token_set``, over all slots: the strips then cover the image, and the rim is the background."""
        if token_set in ("strip", "all"):
            found = self.inside
        else:
            found = self.objects >= 0 if token_set == "object" else (self.objects < 0) & self.inside
        return found if self.weights is None else found & (self.weights > 0)

    def labels(self, token_set: TokenSet) -> Int[np.ndarray, "scenes tokens"]:
        """Right answer for every cell: the object's slot in the object set, else the slot of the cell's strip."""
        return self.objects if token_set == "object" else self.strips

    def at_objects(self, values: Float[np.ndarray, "scenes tokens ..."]) -> Float[np.ndarray, "rows ..."]:
        """``values`` of the object tokens (those stored), scene by scene."""
        return values[self.mask("object")]

    def at(self, features: Features, site: str) -> "Group":
        """This group with the weights of what ``features`` holds at a site."""
        kept = features.kept(site, self.scene_ids)
        if kept is None:
            return self
        weights = np.zeros(self.objects.shape, dtype=np.float64)
        np.put_along_axis(weights, kept.tokens.astype(np.int64), kept.weights, axis=1)
        return replace(self, weights=weights)

    def among(self, scene_ids: Collection[str]) -> "Group":
        """The scenes that ``scene_ids`` names, every token counted."""
        rows = [row for row, name in enumerate(self.scene_ids) if name in scene_ids]
        parts = {name: getattr(self, name)[rows] for name in ("strips", "objects", "words", "inside")}
        return replace(self, scene_ids=tuple(self.scene_ids[row] for row in rows), weights=None, **parts)


def word_numbers(scenes: pl.DataFrame) -> dict[str, int]:
    """Every answer word of ``scenes``, numbered alphabetically."""
    words = scenes.get_column("objects").explode().drop_nulls().unique().sort().to_list()
    return {word: number for number, word in enumerate(words)}


def group(
    dataset: TokensOf,
    scenes: pl.DataFrame,
    grid: TokenGrid,
    words: dict[str, int],
    slots: int,
    own_grids: Mapping[str, TokenGrid] = MappingProxyType({}),
) -> Group:
    """Label the tokens of ``scenes``, rows of scenes.parquet with at least one object each.

    Scenes with fewer objects than ``slots`` have no bands: only their object labels mean anything.

    Args:
        own_grids: by scene id, of scenes whose token grid is smaller than ``grid``, the store's; the rest of it is padding.
    """
    count = scenes.height
    strips = np.zeros((count, grid.size), dtype=np.int8)
    objects = np.full((count, grid.size), -1, dtype=np.int8)
    numbers = np.zeros((count, slots), dtype=np.int32)
    inside = np.ones((count, grid.size), dtype=bool)
    for index, (scene_id, names, places) in enumerate(scenes.select("scene_id", "objects", "slots").iter_rows()):
        tokens = dataset.tokens(scene_id, own_grids.get(scene_id, grid)).framed(grid)
        strips[index], objects[index], inside[index] = tokens.strip_of_cell, tokens.object_of_cell, tokens.inside
        numbers[index, places] = [words[name] for name in names]
    known = scenes.get_column("slots").explode().drop_nulls().unique().sort().to_list()
    return Group(tuple(scenes.get_column("scene_id")), strips, objects, numbers, inside, slots=tuple(known) or tuple(range(slots)))


def cell_counts(scenes: Group, slots: int) -> Float[np.ndarray, "tokens slots"]:
    """How often an object of each slot covers each cell: all that a position-only baseline can learn from."""
    return np.stack([(scenes.objects == slot).sum(axis=0) for slot in range(slots)], axis=1).astype(float)
