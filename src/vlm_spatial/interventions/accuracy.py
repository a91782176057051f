"""Questions asked of a model whose activations are edited: the accuracy under an ablation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image

from vlm_spatial.interventions.answers import Readout, margin
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter, Edit, Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

EditsOf = Callable[[str], Mapping[Site, Edit]]
"""Scene id → the edits of a run of that scene."""

ACCURACY_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "question_id": pl.String,
    "scene_id": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "condition": pl.String,
    "site": pl.String,
    "layer": pl.Int32,
    "predicted": pl.String,
    "correct": pl.Boolean,
    "log_odds": pl.Float64,
}
"""Columns of ablation_accuracy.parquet; see docs/formats.md."""


def sample_questions(dataset: Dataset, limit: int, seed: int, *, variant: str = "main", split: str = "test") -> pl.DataFrame:
    """Questions of whole scenes, drawn at random until an axis has about ``limit``: at least one scene an axis, if the split has any."""
    asked = dataset.questions.filter(pl.col("variant") == variant, pl.col("split") == split)
    generator = np.random.default_rng(seed)
    parts = []
    for _, group in sorted(asked.partition_by("axis", as_dict=True).items()):
        scenes = generator.permutation(group["scene_id"].unique().sort().to_numpy())
        a_scene = group.height / len(scenes)
        parts.append(group.filter(pl.col("scene_id").is_in(list(scenes[: max(1, int(limit / a_scene))]))))
    return pl.concat(parts) if parts else asked


def merged(of_rows: Sequence[Mapping[Site, Edit]]) -> dict[Site, Edit]:
    """The edits of a batch, each doing to a row what the row's own edit does; all rows name the same sites."""
    return {site: _by_row([edits[site] for edits in of_rows]) for site in of_rows[0]}


def _by_row(edits: Sequence[Edit]) -> Edit:
    return lambda values: torch.cat([edit(values[row : row + 1]) for row, edit in enumerate(edits)])


def ask(
    adapter: Adapter,
    dataset: Dataset,
    questions: pl.DataFrame,
    condition: str,
    edits_of: EditsOf,
    *,
    site: Site = CONNECTOR,
    batch: int = 32,
) -> pl.DataFrame:
    """One row a question (columns: ``ACCURACY_SCHEMA``); ``log_odds`` is the margin of the right answer over the best other candidate.

    Args:
        site: the deepest site that the condition edits, for the table.
        edits_of: must name the same sites for every scene.
    """
    rows: list[dict[str, Any]] = []
    asked = list(questions.sort("scene_id", maintain_order=True).iter_rows(named=True))
    groups = [asked[start : start + batch] for start in range(0, len(asked), batch)]

    def read(group: Sequence[dict[str, Any]]) -> dict[str, Image.Image]:
        return pictures(adapter, dataset, (row["scene_id"] for row in group))

    for group, images in progress(prefetch(groups, read), f"accuracy, {condition}", len(groups)):
        of_scene = {scene: edits_of(scene) for scene in images}
        edits = merged([of_scene[row["scene_id"]] for row in group])
        prepared = adapter.prepare([images[row["scene_id"]] for row in group], [row["prompt"] for row in group])
        logits = adapter.run(prepared, edits=edits)[0].cpu()
        rows += [_row(adapter, row, of_row, condition, site) for row, of_row in zip(group, logits, strict=True)]
    return pl.DataFrame(rows, schema=ACCURACY_SCHEMA)


def _row(adapter: Adapter, question: dict[str, Any], logits: torch.Tensor, condition: str, site: Site) -> dict[str, Any]:
    readout = Readout.of(adapter, question["candidates"])
    scores = readout.logits(logits)
    predicted = readout.best(scores)
    return {
        "question_id": question["question_id"],
        "scene_id": question["scene_id"],
        "axis": question["axis"],
        "template": question["template"],
        "condition": condition,
        "site": site,
        "layer": None if site == CONNECTOR else int(site.split(".")[1]),
        "predicted": predicted,
        "correct": predicted == question["answer"],
        "log_odds": margin(scores, readout.candidates.index(question["answer"])),
    }
