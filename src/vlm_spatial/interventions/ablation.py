"""Removal of the layout from the vision output, and of the ordering from the language model, each fitted on training scenes."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float
from PIL import Image

from vlm_spatial.activations.batching import alike
from vlm_spatial.activations.store import Store
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.accuracy import EditsOf, merged
from vlm_spatial.interventions.erasure import Erasure, fit_erasure
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import Edit, Prepared, Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SceneTokens

_STORE_BATCH = 32


@dataclass(frozen=True)
class GridScenes:
    """A dataset on one model's token grid: what the ablations must know of a scene."""

    adapter: Adapter
    dataset: Dataset

    def tokens(self, scene_id: str) -> SceneTokens:
        if scene_id not in self._tokens:
            self._tokens[scene_id] = self.dataset.tokens(scene_id, self.adapter.grid(*self.dataset.size(scene_id)))
        return self._tokens[scene_id]

    def axis(self, scene_id: str) -> str:
        return str(self.dataset.row(scene_id)["axis"])

    def of(self, axis: str, split: str, limit: int | None = None) -> list[str]:
        """The first ``limit`` main scenes of a split and axis, in the order of the table (scenes are independent draws)."""
        chosen = self.dataset.scenes.filter(pl.col("variant") == "main", pl.col("split") == split, pl.col("axis") == axis)["scene_id"]
        return chosen.to_list()[:limit]

    @property
    def axes(self) -> list[str]:
        return sorted(set(self.dataset.scenes.filter(pl.col("variant") == "main")["axis"]))

    @cached_property
    def _tokens(self) -> dict[str, SceneTokens]:
        return {}


class SceneInputs:
    """Scenes, each with its first prompt, as model inputs: kept while they take little memory, as the same ones are run many times.

    Args:
        batch: scenes run at once.
        limit: bytes of inputs that are kept.
    """

    def __init__(self, scenes: GridScenes, batch: int, limit: int = 2**29) -> None:
        self._scenes, self._batch, self._limit = scenes, batch, limit
        self._prompts = dict(scenes.dataset.questions.unique("scene_id", keep="first").select("scene_id", "prompt").iter_rows())
        self._kept: dict[tuple[str, ...], Prepared] = {}

    def batches(self, names: Sequence[str], what: str) -> Iterator[tuple[tuple[str, ...], Prepared]]:
        """The scenes in batches, in order; images of the next one are read while this one runs. ``what`` names the progress bar."""
        groups = [tuple(group) for group in alike(names, self._batch, lambda name: self._scenes.tokens(name).grid)]
        for group, images in progress(prefetch(groups, self._images), what, len(groups)):
            prepared = self._kept.get(group)
            if prepared is None:
                prepared = self._scenes.adapter.prepare([images[name] for name in group], [self._prompts[name] for name in group])
                size = sum(value.nbytes for value in prepared.inputs.values())
                if size <= self._limit:
                    self._limit -= size
                    self._kept[group] = prepared
            yield group, prepared

    def _images(self, group: tuple[str, ...]) -> dict[str, Image.Image]:
        return {} if group in self._kept else pictures(self._scenes.adapter, self._scenes.dataset, group)


def check_store(scenes: GridScenes, store: Store) -> None:
    """Refuse a store that is not of this model and dataset, or holds no single tokens.

    Raises:
        UserError: naming what differs.
    """
    store.check_model(asdict(scenes.adapter.identity))
    store.check_scenes(scenes.dataset.scenes)
    store.check_grid(scenes.adapter.grid(*scenes.dataset.size(store.scenes["scene_id"][0])))
    if store.pooling == "token_set":
        raise UserError(f"{store.path}: holds means over token sets; ablation needs tokens: set activations.pooling to cell or none")


def vision_erasures(scenes: GridScenes, store: Store, shuffled: int | None = None) -> dict[str, Erasure] | None:
    """For each axis, the erasure of the slot from the connector's output, fitted on all training scenes of the store.

    Args:
        shuffled: seed of a control, the erasure of slots that are shuffled within each scene: as much is removed, and not the slot.

    None, with a word on stderr, if an axis has no training scene (a handful of photos).
    """
    names = {axis: scenes.of(axis, "train") for axis in scenes.axes}
    if not all(names.values()):
        print(f"erasure left out: no training scene on the {_without(names)} axis to fit it on", file=sys.stderr, flush=True)
        return None
    generator = None if shuffled is None else np.random.default_rng(shuffled)
    return {
        axis: fit_erasure(_stored(scenes, store, of_axis), [_slots(scenes.tokens(name), generator) for name in of_axis], background=True)
        for axis, of_axis in names.items()
    }


def _slots(tokens: SceneTokens, generator: np.random.Generator | None) -> SceneTokens:
    if generator is None:
        return tokens
    order = generator.permutation(len(tokens.objects))
    return replace(tokens, objects=tokens.objects[order], strips=tokens.strips[order])


def _without(names: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(axis for axis, of_axis in names.items() if not of_axis)


def _stored(scenes: GridScenes, store: Store, names: Sequence[str]) -> Iterator[Float[np.ndarray, "cells features"]]:
    for batch, values in store.batches(CONNECTOR, names, _STORE_BATCH):
        for name, of_scene in zip(batch, values, strict=True):
            yield of_scene[scenes.tokens(name).grid.within(store.grid)]


def language_ablation(
    scenes: GridScenes, inputs: SceneInputs, sites: Sequence[Site], edits_of: EditsOf, *, limit: int, condition: str
) -> EditsOf | None:
    """The edits of a vision condition, and the erasure of the slot from the object tokens' residual at language layers.

    For each axis fitted on training scenes run under the same vision condition: with the vision signal gone, the language model may
    write the ordering in other directions. Layers are fitted in turn, each with the earlier ones already erased, so that what a later
    layer writes anew is found. None, with a word on stderr, if an axis has no training scene.
    """
    names = {axis: scenes.of(axis, "train", limit) for axis in scenes.axes}
    if not all(names.values()):
        print(f"ordering is not erased: no training scene on the {_without(names)} axis to fit on", file=sys.stderr, flush=True)
        return None
    fitted: dict[Site, dict[str, Erasure]] = {}

    def edits(scene: str) -> Mapping[Site, Edit]:
        objects = np.any(scenes.tokens(scene).objects, axis=0)
        return {**edits_of(scene), **{site: of_axis[scenes.axis(scene)].at(objects) for site, of_axis in fitted.items()}}

    for site in sites:
        fitted[site] = {
            axis: fit_erasure(
                _residuals(scenes, inputs.batches(of_axis, f"ordering at {site}, {condition}"), site, edits),
                [scenes.tokens(name) for name in of_axis],
                background=False,
            )
            for axis, of_axis in names.items()
        }
    return edits


def _residuals(
    scenes: GridScenes, batches: Iterable[tuple[tuple[str, ...], Prepared]], site: Site, edits_of: EditsOf
) -> Iterator[Float[np.ndarray, "cells features"]]:
    for group, prepared in batches:
        edits = merged([edits_of(name) for name in group])
        captured = scenes.adapter.run(prepared, edits=edits, capture=[site])[1][site]
        yield from captured[:, :, 0].float().cpu().numpy()
