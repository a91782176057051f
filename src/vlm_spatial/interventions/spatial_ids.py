"""Spatial IDs: what the last token of an object's name holds of the object's slot, as a vector that is added to other objects' names.

Of questions that name an object and ask for its slot, the residual at the name is taken apart by least squares into a part of the object
and a part of the slot. The slots' parts are the IDs. They are learned from one half of the objects and used on the other half.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.token_groups import word_position
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SLOTS

TEMPLATE = "object_to_slot"
Ids = Float[np.ndarray, "sites slots features"]


@dataclass(frozen=True)
class Added:
    """Adds a vector at every position: the transform of a patch."""

    vector: Float[np.ndarray, " features"]

    def __call__(self, values: Tensor, _source: Tensor) -> Tensor:
        return values + torch.as_tensor(self.vector, dtype=values.dtype, device=values.device)


def half_of(word: str, words: Sequence[str]) -> int:
    """Which half of the objects a word belongs to: every other one in alphabetical order."""
    return sorted(words).index(word) % 2


def slot_parts(values: Float[np.ndarray, "rows features"], objects: Sequence[str], slots: Int[np.ndarray, " rows"]) -> np.ndarray | None:
    """``[slots, features]``: what the slot adds, whatever the object; sums to zero. None where rows cannot tell the slots apart."""
    names = sorted(set(objects))
    design = np.zeros((len(objects), len(names) + SLOTS))
    design[np.arange(len(objects)), [names.index(name) for name in objects]] = 1
    design[np.arange(len(objects)), len(names) + np.asarray(slots)] = 1
    if np.linalg.matrix_rank(design) < len(names) + SLOTS - 1:
        return None
    found = np.linalg.lstsq(design, values, rcond=None)[0][len(names) :]
    centred: np.ndarray = found - found.mean(axis=0)
    return centred


def fit_ids(adapter: Adapter, dataset: Dataset, sites: Sequence[Site], limit: int, seed: int) -> dict[tuple[str, int], Ids]:
    """The IDs of an axis, to be used on objects of a half; learned from the other half's, in ``limit`` training questions an axis.

    An axis and half whose questions do not show objects in different slots has none; said on stderr.
    """
    words = every_word(dataset)
    asked = dataset.questions.filter(template=TEMPLATE, variant="main", split="train")
    found: dict[tuple[str, int], Ids] = {}
    for axis in sorted(asked["axis"].unique()):
        questions = asked.filter(axis=axis)
        order = np.random.default_rng(seed).permutation(questions.height)[:limit]
        rows = questions[order.tolist()].select("scene_id", "slot", "prompt").rows()
        values, objects, slots = [], [], []
        for scene, slot, prompt in progress(rows, f"spatial IDs, {axis}", len(rows)):
            row = dataset.row(scene)
            names: dict[int, str] = dict(zip(row["slots"], row["objects"], strict=True))  # type: ignore[call-overload]
            image = pictures(adapter, dataset, [scene])[scene]
            position = word_position(adapter, image, prompt, list(names.values()))
            if position is None:
                continue
            with Hooks(adapter, sites) as hooks:
                held = hooks.run(adapter.prepare([image], [prompt]), capture_text=sites)[1].text
            values.append(np.stack([held[site][0, position].float().cpu().numpy() for site in sites]))
            objects.append(names[slot])
            slots.append(slot)
        for half in (0, 1):
            kept = [row for row, name in enumerate(objects) if half_of(name, words) != half]
            of_half = np.stack([values[row] for row in kept]) if kept else np.zeros((0, len(sites), adapter.width))
            parts = [
                slot_parts(of_half[:, site], [objects[row] for row in kept], np.array([slots[row] for row in kept], dtype=int))
                for site in range(len(sites))
            ]
            if not kept or any(part is None for part in parts):
                print(f"spatial IDs: {len(kept)} training questions do not tell the slots apart, {axis}, half {half}", file=sys.stderr)
            else:
                found[axis, half] = np.stack(parts)  # type: ignore[arg-type]
    return found


def every_word(dataset: Dataset) -> list[str]:
    """Every object word of a dataset."""
    return sorted(dataset.scenes.select(pl.col("objects").explode()).to_series().drop_nulls().unique().to_list())


def matched_random(vector: Float[np.ndarray, " features"], generator: np.random.Generator) -> Float[np.ndarray, " features"]:
    """A random vector as long as another."""
    drawn = generator.standard_normal(len(vector))
    found: np.ndarray = drawn / np.linalg.norm(drawn) * np.linalg.norm(vector)
    return found
