"""Stage: next-token scoring of the untouched model on every question of the splits asked."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from vlm_spatial.config import BehaviourSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.answers import Readout, margin, probability
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "question_id": pl.String,
    "scene_id": pl.String,
    "variant": pl.String,
    "split": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "slot": pl.Int32,
    "answer": pl.String,
    "predicted": pl.String,
    "correct": pl.Boolean,
    "top1": pl.String,
    "top1_correct": pl.Boolean,
    "answer_probability": pl.Float64,
    "margin": pl.Float64,
    "candidates": pl.List(pl.String),
    "logits": pl.List(pl.Float32),
}


def behaviour(job: Job) -> None:
    """Write ``behaviour.parquet``: the model's answer to every question, among its candidates and unconstrained."""
    settings = section(job, BehaviourSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    questions = dataset.questions.filter(pl.col("split").is_in(settings.splits))
    if questions.is_empty():
        raise UserError(f"behaviour.splits: {list(settings.splits)} hold no question of {job.inputs['scenes']}; allowed are those that do")
    adapter = load_adapter(**job.settings["model"])
    batches = list(_batches(dataset, questions, settings.batch))
    rows = [row for batch in progress(batches, "behaviour") for row in score(adapter, dataset, batch)]
    write_parquet(pl.DataFrame(rows, schema=SCHEMA), job.outputs["behaviour"])


def _batches(dataset: Dataset, questions: pl.DataFrame, size: int) -> Iterator[list[dict[str, Any]]]:
    """At most ``size`` consecutive questions about images of one size, so that all rows of a batch have the same token grid."""
    rows = questions.sort("scene_id", maintain_order=True).iter_rows(named=True)
    for _, alike in groupby(rows, key=lambda row: dataset.size(row["scene_id"])):
        group = list(alike)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def score(adapter: Adapter, dataset: Dataset, questions: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of ``behaviour.parquet`` for one batch of rows of ``questions.parquet``."""
    images = {scene: dataset.image(scene) for scene in dict.fromkeys(row["scene_id"] for row in questions)}
    prepared = adapter.prepare([images[row["scene_id"]] for row in questions], [row["prompt"] for row in questions])
    logits = adapter.run(prepared)[0].cpu()
    for row, of_row in zip(questions, logits, strict=True):
        readout = Readout.of(adapter, row["candidates"])
        scores = readout.logits(of_row)
        answer = readout.candidates.index(row["answer"])
        best = int(of_row.argmax())
        predicted = readout.best(scores)
        yield {
            **{key: row[key] for key in ("question_id", "scene_id", "variant", "split", "axis", "template", "slot", "answer")},
            "predicted": predicted,
            "correct": predicted == row["answer"],
            "top1": adapter.processor.tokenizer.decode([best]),
            # Compared as a token: decoded text may differ from the answer by a blank or by what follows its first token.
            "top1_correct": best == readout.tokens[answer],
            "answer_probability": probability(scores, answer),
            "margin": margin(scores, answer),
            "candidates": list(readout.candidates),
            "logits": scores.tolist(),
        }


if __name__ == "__main__":
    run_stage("behaviour", behaviour)
