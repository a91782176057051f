"""Stage: next-token scoring of the untouched model on every question of the splits asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from PIL import Image

from vlm_spatial.config.behaviour import BehaviourSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.answers import Readout, margin, probability
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
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
    # Scenes made for pairs are asked by the experiments that use them.
    questions = dataset.questions.filter(pl.col("split").is_in(settings.splits), pl.col("variant") != "pair")
    if questions.is_empty():
        raise UserError(f"behaviour.splits: {list(settings.splits)} hold no question of {job.inputs['scenes']}; allowed are those that do")
    engine = PatchEngine(load_adapter(**job.settings["model"]), memory_gb=settings.memory_gb)
    asked = questions.sort("scene_id", maintain_order=True).rows(named=True)
    batches = [asked[start : start + settings.batch] for start in range(0, len(asked), settings.batch)]

    def read(batch: Sequence[dict[str, Any]]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, (row["scene_id"] for row in batch))

    shown = progress(prefetch(batches, read), "behaviour", len(batches))
    rows = [row for batch, images in shown for row in score(engine, images, batch)]
    write_parquet(pl.DataFrame(rows, schema=SCHEMA), job.outputs["behaviour"])


def score(engine: PatchEngine, images: Mapping[str, Image.Image], questions: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of ``behaviour.parquet`` for some rows of ``questions.parquet``, whose scenes' images are given."""
    adapter = engine.adapter
    runs = [PairRuns(row["question_id"], Run(images[row["scene_id"]], row["prompt"])) for row in questions]
    for row, of_row in zip(questions, engine.clean(runs), strict=True):
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
