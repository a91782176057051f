"""The published amplification of two-object items: what the two weight columns of the asked axis's probe read is added once more.

At the input of language layer 0, for every image token: ``h + α Σₖ (h·wₖ) / (|wₖ|² + 1e-8) wₖ``, k over the two columns, which are not
orthogonal. The probe tells the first object along an axis from the second. It learns from items that the model answers right in both orders
of the options, one row an object: the mean of the cells that its box touches. Items without boxes teach nothing, nor do those whose cells
are centred otherwise than their caption says.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.amplification.sweep import Correction, Setting
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.probes.fitting import one_hot
from vlm_spatial.probes.published import fit_published
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import coverage

PROBE, RANDOM, MATCHED = "probe_columns", "random_columns", "matched_columns"
"""Methods: the published one, its published control, and random columns that move every token as far as the published one."""
_SMALL = 1e-8
_HELD_OUT = 0.05

Weights = Float[np.ndarray, "columns features"]


@dataclass(frozen=True)
class Columns:
    """``alpha = 0`` changes nothing."""

    weights: Weights
    alpha: float

    def __call__(self, values: Float[Tensor, "*any features"]) -> Float[Tensor, "*any features"]:
        return values + self.alpha * read_by(values, self.weights)


@dataclass(frozen=True)
class MatchedColumns:
    """A control: each token moves as far as ``reference`` would move it, along what random columns read."""

    reference: Weights
    weights: Weights
    alpha: float

    def __call__(self, values: Float[Tensor, "*any features"]) -> Float[Tensor, "*any features"]:
        length = read_by(values, self.reference).norm(dim=-1, keepdim=True)
        move = read_by(values, self.weights)
        return values + self.alpha * length * move / move.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


def read_by(values: Float[Tensor, "*any features"], weights: Weights) -> Float[Tensor, "*any features"]:
    """``Σₖ (h·wₖ) / (|wₖ|² + 1e-8) wₖ``."""
    columns = torch.as_tensor(weights, dtype=values.dtype, device=values.device)
    return (values @ columns.T) / (columns.square().sum(dim=1) + _SMALL) @ columns


def item_probes(adapter: Adapter, dataset: Dataset, asked: pl.DataFrame, seed: int) -> dict[str, Weights]:
    """By axis the two weight columns, learned from the items that are right in both orders; 5% of them are left out, as published.

    An axis without such an item has none. That, and how many items teach nothing, is said on stderr.

    Args:
        asked: questions with ``item``, ``scene_id``, ``axis``, ``prompt`` and ``correct_before``.
    """
    right = asked.group_by("item", maintain_order=True).agg(pl.col("correct_before").all(), pl.col("scene_id", "axis", "prompt").first())
    right = right.filter("correct_before").unique("scene_id", keep="first", maintain_order=True)
    found = {}
    for number, axis in enumerate(sorted(asked["axis"].unique())):
        generator = np.random.default_rng([seed, number])
        of_axis = right.filter(axis=axis)
        teaching = [_stand_as_said(adapter, dataset, scene, str(axis)) for scene in of_axis["scene_id"]]
        scenes = of_axis.filter(pl.Series(teaching, dtype=pl.Boolean))
        if scenes.height < of_axis.height:
            without = of_axis.height - scenes.height
            print(
                f"items, {axis}: {without} of {of_axis.height} have no boxes that stand as their caption says; no probe learns from them",
                file=sys.stderr,
            )
        kept = generator.permutation(scenes.height)[round(_HELD_OUT * scenes.height) :]
        if not len(kept):
            print(f"items: none along the {axis} axis is right in both orders, so there is no probe to amplify with", file=sys.stderr)
            continue
        rows = scenes[np.sort(kept).tolist()].select("scene_id", "prompt").rows()
        x = np.concatenate([_object_means(adapter, dataset, *row) for row in progress(rows, f"items, {axis}", len(rows))])
        found[axis] = fit_published(x, one_hot(np.tile([0, 1], len(rows)), 2), generator).weight
    return found


def _stand_as_said(adapter: Adapter, dataset: Dataset, scene: str, axis: str) -> bool:
    """Whether the cells that the boxes touch are centred in slot order."""
    if not dataset.boxes(scene):
        return False
    size = dataset.size(scene)
    grid = adapter.grid(*size)
    place = grid.centres("horizontal" if axis == "horizontal" else "vertical")
    first, second = (place[coverage(box, grid, *size) > 0].mean() for box in dataset.boxes(scene))
    return bool(first < second)


def _object_means(adapter: Adapter, dataset: Dataset, scene: str, prompt: str) -> Float[np.ndarray, "objects features"]:
    """Mean connector output over the cells that each object's box touches, in slot order."""
    image = pictures(adapter, dataset, [scene])[scene]
    values = adapter.run_vision(adapter.prepare([image], [prompt]))[CONNECTOR][0, :, 0].float().cpu().numpy()
    touched = [coverage(box, adapter.grid(*image.size), *image.size) > 0 for box in dataset.boxes(scene)]
    return np.stack([values[cells].mean(axis=0) for cells in touched])


def item_settings(probes: Mapping[str, Weights], features: int, alphas: Sequence[float], draws: int, seed: int) -> list[Setting]:
    """The published correction at every α, one random pair of columns an axis, and ``draws`` random pairs matched in movement."""
    generator = np.random.default_rng([seed, len(probes)])

    def random_columns() -> dict[str, Weights]:
        columns = {axis: generator.standard_normal((2, features)) for axis in probes}
        return {axis: found / np.linalg.norm(found, axis=1, keepdims=True) for axis, found in columns.items()}

    published, others = random_columns(), [random_columns() for _ in range(draws)]
    settings = []
    for axis, weights in probes.items():
        for alpha in alphas:
            made: list[tuple[str, int, Correction]] = [
                (PROBE, 0, Columns(weights, alpha)),
                (RANDOM, 0, Columns(published[axis], alpha)),
                *((MATCHED, draw, MatchedColumns(weights, other[axis], alpha)) for draw, other in enumerate(others)),
            ]
            settings += [Setting(CONNECTOR, method, draw, alpha, _always(made_by), frozenset([axis])) for method, draw, made_by in made]
    return settings


def _always(correction: Correction) -> Callable[[str], Correction]:
    return lambda _scene: correction
