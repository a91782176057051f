"""Spatial IDs: what the last token of an object's name holds of the object's slot, as a vector that is added to other objects' names.

Of questions that name an object and ask for its slot, the residual at the name is taken apart by least squares into a part of the object
and a part of the slot. The slots' parts are the IDs. They are learned from one half of the objects and used on the other half. From the
same residuals LEACE learns to remove the slot.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.token_groups import word_position
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SLOTS

if TYPE_CHECKING:
    # Not at run time: amplification uses the IDs, and no result of it depends on how a slot is removed.
    from vlm_spatial.interventions.erasure import Erasure

TEMPLATE = "object_to_slot"
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "axis": pl.String,
    "site": pl.String,
    "layer": pl.Int32,
    "half": pl.Int32,
    "slot": pl.Int32,
    "vector": pl.List(pl.Float32),
}
"""Columns of spatial_ids.parquet; see docs/formats.md."""
Ids = Float[np.ndarray, "sites slots features"]


@dataclass(frozen=True)
class Fitted:
    """What one axis and half of the objects tell.

    Attributes:
        slots: the IDs.
        objects: by name what the residual at it is without its slot, ``[sites, features]``.
        erasures: of each site, what removes the slot from a residual.
    """

    slots: Ids
    objects: Mapping[str, Float[np.ndarray, "sites features"]]
    erasures: "Sequence[Erasure]" = ()


@dataclass(frozen=True)
class AtName:
    """One question that names an object: the residual at the name, ``[sites, features]``."""

    question_id: str
    scene_id: str
    name: str
    slot: int
    values: Float[np.ndarray, "sites features"]


@dataclass(frozen=True)
class Added:
    """Adds a vector at every position: the transform of a patch."""

    vector: Float[np.ndarray, " features"]

    def __call__(self, values: Tensor, _source: Tensor) -> Tensor:
        return values + torch.as_tensor(self.vector, dtype=values.dtype, device=values.device)


@dataclass(frozen=True)
class Stepped:
    """Adds a step along a direction, ``norms`` times as long as the residual that is there."""

    direction: Float[np.ndarray, " features"]
    norms: float

    def __call__(self, values: Tensor, _source: Tensor) -> Tensor:
        unit = torch.as_tensor(self.direction / np.linalg.norm(self.direction), dtype=values.dtype, device=values.device)
        return values + self.norms * values.norm(dim=-1, keepdim=True) * unit


def half_of(word: str, words: Sequence[str]) -> int:
    """Which half of the objects a word belongs to: every other one in alphabetical order."""
    return sorted(words).index(word) % 2


def parts_of(
    values: Float[np.ndarray, "rows features"], objects: Sequence[str], slots: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "slots features"], dict[str, Float[np.ndarray, " features"]]] | None:
    """What the slot adds, whatever the object, and the rest of each object; None where rows cannot tell the slots apart.

    The slots' parts sum to zero. Slots that no row has are ``nan``.
    """
    names, known = sorted(set(objects)), sorted({int(slot) for slot in slots})
    design = np.zeros((len(objects), len(names) + len(known)))
    design[np.arange(len(objects)), [names.index(name) for name in objects]] = 1
    design[np.arange(len(objects)), [len(names) + known.index(slot) for slot in slots]] = 1
    if len(known) < 2 or np.linalg.matrix_rank(design) < len(names) + len(known) - 1:
        return None
    found = np.linalg.lstsq(design, values, rcond=None)[0]
    of_slots = np.full((SLOTS, values.shape[1]), np.nan)
    of_slots[known] = found[len(names) :] - found[len(names) :].mean(axis=0)
    rest = found[: len(names)] + found[len(names) :].mean(axis=0)
    return of_slots, dict(zip(names, rest, strict=True))


def at_names(adapter: Adapter, dataset: Dataset, sites: Sequence[Site], split: str, axis: str, limit: int, seed: int) -> list[AtName]:
    """Residuals at the names of objects, of ``limit`` random main questions of a split and axis that ask for a named object's slot."""
    questions = dataset.questions.filter(template=TEMPLATE, variant="main", split=split, axis=axis)
    order = np.random.default_rng(seed).permutation(questions.height)[:limit]
    rows = questions[order.tolist()].select("question_id", "scene_id", "slot", "prompt").rows()
    found = []
    for question, scene, slot, prompt in progress(rows, f"spatial IDs, {split}, {axis}", len(rows)):
        row = dataset.row(scene)
        names: dict[int, str] = dict(zip(row["slots"], row["objects"], strict=True))  # type: ignore[call-overload]
        image = pictures(adapter, dataset, [scene])[scene]
        position = word_position(adapter, image, prompt, list(names.values()))
        if position is None:
            continue
        found.append(AtName(question, scene, names[slot], slot, held_at(adapter, sites, image, prompt, [position])[0]))
    return found


def held_at(
    adapter: Adapter, sites: Sequence[Site], image: Image.Image, prompt: str, positions: Sequence[int]
) -> Float[np.ndarray, "positions sites features"]:
    """Residuals at positions of a prompt, by a plain pass."""
    with Hooks(adapter, sites) as hooks:
        held = hooks.run(adapter.prepare([image], [prompt]), capture_text=sites)[1].text
    return np.stack([[held[site][0, position].float().cpu().numpy() for site in sites] for position in positions])


def fit_ids(
    adapter: Adapter,
    dataset: Dataset,
    sites: Sequence[Site],
    limit: int,
    seed: int,
    fit_erasure: "Callable[[np.ndarray, np.ndarray], Erasure] | None" = None,
) -> dict[tuple[str, int], Fitted]:
    """The IDs of an axis, to be used on objects of a half; learned from the other half's, in ``limit`` training questions an axis.

    An axis and half whose questions do not show objects in different slots has none; said on stderr.

    Args:
        fit_erasure: fits what removes the slot on rows and the slot of each; without it there are no ``erasures``.
    """
    words = every_word(dataset)
    found: dict[tuple[str, int], Fitted] = {}
    for axis in sorted(dataset.questions.filter(template=TEMPLATE, variant="main", split="train")["axis"].unique()):
        every = at_names(adapter, dataset, sites, "train", axis, limit, seed)
        for half in (0, 1):
            kept = [one for one in every if half_of(one.name, words) != half]
            names, slots = [one.name for one in kept], np.array([one.slot for one in kept], dtype=int)
            of_site = [np.array([one.values[site] for one in kept]) for site in range(len(sites))]
            parts = [parts_of(values, names, slots) if kept else None for values in of_site]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                print(f"spatial IDs: {len(kept)} training questions do not tell the slots apart, {axis}, half {half}", file=sys.stderr)
            else:
                objects = {name: np.stack([part[1][name] for part in known]) for name in known[0][1]}
                erasures = [] if fit_erasure is None else [fit_erasure(values, slots) for values in of_site]
                found[axis, half] = Fitted(np.stack([part[0] for part in known]), objects, erasures)
    return found


def table_of(ids: Mapping[tuple[str, int], Fitted], sites: Sequence[Site]) -> pl.DataFrame:
    """One row an ID, for reuse (columns: ``SCHEMA``); ``half`` says from which half of the objects it was learned."""
    rows = [
        {"axis": axis, "site": site, "layer": int(site.split(".")[1]), "half": 1 - used_on, "slot": slot, "vector": vector.tolist()}
        for (axis, used_on), fitted in ids.items()
        for site, of_site in zip(sites, fitted.slots, strict=True)
        for slot, vector in enumerate(of_site)
        if np.isfinite(vector).all()
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def nearest_slots(one: AtName, rest: Float[np.ndarray, "sites features"], ids: Ids) -> list[int]:
    """At each site the slot whose ID is nearest to what the residual is beyond the object's own part."""
    distance = np.linalg.norm((one.values - rest)[:, None] - ids, axis=-1)
    return [int(slot) for slot in np.nanargmin(distance, axis=1)]


def every_word(dataset: Dataset) -> list[str]:
    """Every object word of a dataset."""
    return sorted(dataset.scenes.select(pl.col("objects").explode()).to_series().drop_nulls().unique().to_list())


def matched_random(vector: Float[np.ndarray, " features"], generator: np.random.Generator) -> Float[np.ndarray, " features"]:
    """A random vector as long as another."""
    drawn = generator.standard_normal(len(vector))
    found: np.ndarray = drawn / np.linalg.norm(drawn) * np.linalg.norm(vector)
    return found
