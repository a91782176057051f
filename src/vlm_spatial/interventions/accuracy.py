"""Questions asked of a model whose activations are edited: the accuracy under an ablation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from PIL import Image

from vlm_spatial.interventions.answers import AnswerReader, margin, mass, runs_needed, wrote
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.interventions.patch import PairRuns, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.finite import require_finite
from vlm_spatial.models.values import Edit, Site
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
    "top1_correct": pl.Boolean,
    "log_odds": pl.Float64,
    "candidates": pl.List(pl.String),
    "log_probabilities": pl.List(pl.Float32),
    "candidate_mass": pl.Float64,
    "whole_words": pl.Boolean,
}
"""Columns of ablation_accuracy.parquet; see docs/formats.md."""


def sample_questions(
    dataset: Dataset, limit: int | Literal["all"], seed: int, *, variant: str = "main", split: str = "test"
) -> pl.DataFrame:
    """Questions of whole scenes, drawn at random until an axis has about ``limit``: at least one scene an axis, if the split has any.

    ``all`` is every one of the variant, whatever the split, in the order of the table.
    """
    asked = dataset.questions.filter(pl.col("variant") == variant)
    if limit == "all":
        return asked
    asked = asked.filter(pl.col("split") == split)
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
    engine: PatchEngine,
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
        edits_of: at the connector and behind language blocks.
        batch: scenes whose questions are asked together.
    """
    adapter = engine.adapter
    asked = list(questions.sort("scene_id", maintain_order=True).iter_rows(named=True))
    names = list(dict.fromkeys(row["scene_id"] for row in asked))
    groups = [names[start : start + batch] for start in range(0, len(names), batch)]
    rows: list[dict[str, Any]] = []

    def read(group: Sequence[str]) -> dict[str, Image.Image]:
        return pictures(adapter, dataset, group)

    for group, images in progress(prefetch(groups, read), f"accuracy, {condition}", len(groups)):
        of_scene = {scene: dict(edits_of(scene)) for scene in group}
        at_connector = {scene: edits.pop(CONNECTOR, None) for scene, edits in of_scene.items()}
        part = [row for row in asked if row["scene_id"] in of_scene]
        readers = [AnswerReader.of(adapter, row["candidates"], row["template"]) for row in part]
        posed, own = runs_needed(readers, [row["prompt"] for row in part])
        scenes = [part[number]["scene_id"] for number, _ in posed]
        runs = [Run(images[scene], prompt, at_connector[scene], of_scene[scene]) for scene, (_, prompt) in zip(scenes, posed, strict=True)]
        logits = engine.clean([PairRuns(scene, run) for scene, run in zip(scenes, runs, strict=True)])
        require_finite(adapter, logits, [run.shown for run in runs].__getitem__, f"accuracy, {condition}")
        decode = adapter.processor.tokenizer.decode
        rows += [_row(row, reader, logits[which], condition, site, decode) for row, reader, which in zip(part, readers, own, strict=True)]
    return pl.DataFrame(rows, schema=ACCURACY_SCHEMA)


def _row(
    question: dict[str, Any], reader: AnswerReader, logits: torch.Tensor, condition: str, site: Site, decode: Callable[[list[int]], str]
) -> dict[str, Any]:
    scores = reader.log_probabilities(logits)
    predicted = reader.best(scores)
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
        "top1_correct": wrote(reader, logits.argmax(dim=-1).tolist(), decode)[1] == question["answer"],
        "log_odds": margin(scores, reader.candidates.index(question["answer"])),
        "candidates": list(reader.candidates),
        "log_probabilities": scores.tolist(),
        "candidate_mass": mass(scores),
        "whole_words": reader.whole_words,
    }
