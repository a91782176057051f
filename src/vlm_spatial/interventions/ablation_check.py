"""Did an ablation do what it says? The slot read off the connector's output by linear probes, under each condition."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from vlm_spatial.activations.store import Store
from vlm_spatial.interventions.ablation import GridScenes
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.interventions.sweep import Condition
from vlm_spatial.probes.fitting import Rows, fit_probes, one_hot
from vlm_spatial.probes.probe import Probe
from vlm_spatial.progress import progress
from vlm_spatial.tokens import SLOTS, TokenSet

SETS: tuple[TokenSet, ...] = ("object", "rim")

CHECK_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "scene_id": pl.String,
    "slot": pl.Int32,
    "axis": pl.String,
    "condition": pl.String,
    "site": pl.String,
    "token_set": pl.String,
    "probe": pl.String,
    "predicted": pl.Int32,
    "correct": pl.Boolean,
}
"""Columns of ablation_check.parquet; see docs/formats.md."""


def read_slots(scenes: GridScenes, store: Store, saved: dict[str, Probe], conditions: Sequence[Condition], limit: int) -> pl.DataFrame:
    """One row a test scene, slot, token set, condition and probe (columns: ``CHECK_SCHEMA``).

    What a probe reads is the mean over the slot's object or rim tokens. ``probe`` is ``saved`` (the probe of the probes stage,
    trained on the intact model) or ``refitted`` (one fitted on training scenes under the condition, with the same regularisation): an
    ablation that only moves the slot elsewhere fools the first, not the second.

    Args:
        saved: the connector's probe of each axis.
        limit: training scenes and test scenes an axis.
    """
    rows: list[dict[str, Any]] = []
    for condition in progress(conditions, "slots after ablation"):
        for axis, probe in saved.items():
            names = {split: scenes.of(axis, split, limit) for split in ("train", "test")}
            means = {split: _means(scenes, store, names[split], condition) for split in names}
            for number, token_set in enumerate(SETS):
                train, test = (means[split][:, number] for split in ("train", "test"))
                for name, reader in (
                    ("saved", probe),
                    ("refitted", _refitted(train, scenes.tokens(names["train"][0]).slots, probe.strength)),
                ):
                    predicted = reader.predict(test)
                    rows += [
                        _row(scene, axis, condition.name, token_set, name, slot, int(predicted[index, place]))
                        for index, scene in enumerate(names["test"])
                        for place, slot in enumerate(scenes.tokens(scene).slots)
                    ]
    return pl.DataFrame(rows, schema=CHECK_SCHEMA)


def _means(scenes: GridScenes, store: Store, names: Sequence[str], condition: Condition) -> Float[np.ndarray, "scenes sets slots features"]:
    """Mean activation of each slot's tokens; of the object's own where a strip has no rim."""
    found = []
    for batch, values in store.batches(CONNECTOR, names, 32):
        for name, of_scene in zip(batch, values, strict=True):
            tokens = scenes.tokens(name)
            of_scene = of_scene[tokens.grid.within(store.grid)]
            edit = None if condition.edit is None else condition.edit(name)
            if edit is not None:
                of_scene = edit(torch.as_tensor(of_scene)[None, :, None]).float().cpu().numpy()[0, :, 0]
            masks = [[tokens.mask(token_set, [slot]) for slot in tokens.slots] for token_set in SETS]
            found.append(
                [[of_scene[mask if mask.any() else masks[0][slot]].mean(axis=0) for slot, mask in enumerate(kind)] for kind in masks]
            )
    return np.array(found, dtype=np.float32)


def _refitted(means: Float[np.ndarray, "scenes slots features"], slots: Sequence[int], strength: float | None) -> Probe:
    scenes, _, features = means.shape
    rows = Rows(means.reshape(-1, features), one_hot(np.tile(slots, scenes), SLOTS), scenes)
    return fit_probes(rows, rows, [1.0 if strength is None else strength], {})["logistic"]


def _row(scene: str, axis: str, condition: str, token_set: str, probe: str, slot: int, predicted: int) -> dict[str, Any]:
    return {
        "scene_id": scene,
        "slot": slot,
        "axis": axis,
        "condition": condition,
        "site": CONNECTOR,
        "token_set": token_set,
        "probe": probe,
        "predicted": predicted,
        "correct": predicted == slot,
    }
