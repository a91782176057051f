"""Stage: next-token scoring of the untouched model on every question of the splits asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from PIL import Image

from vlm_spatial.config.behaviour import BehaviourSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.answers import AnswerReader, margin, mass, probability, runs_needed, wrote
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.finite import require_finite
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
    "log_probabilities": pl.List(pl.Float32),
    "candidate_mass": pl.Float64,
    "whole_words": pl.Boolean,
    "blind_predicted": pl.String,
    "blind_correct": pl.Boolean,
}
GREY = (127, 127, 127)
"""What is shown in place of the picture."""


def behaviour(job: Job) -> None:
    """Write ``behaviour.parquet``: the model's answer to every question, among its candidates and unconstrained."""
    settings = section(job, BehaviourSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    # Scenes made for pairs are asked by the experiments that use them.
    questions = dataset.questions.filter(pl.col("split").is_in(settings.splits), pl.col("variant") != "pair")
    if questions.is_empty():
        raise UserError(f"behaviour.splits: {list(settings.splits)} hold no question of {job.inputs['scenes']}; allowed are those that do")
    engine = PatchEngine(load_adapter(**job.settings["model"]), memory_gb=settings.memory_gb)
    engine.adapter.check_shapes(dataset.sizes)
    asked = questions.sort("scene_id", maintain_order=True).rows(named=True)
    batches = [asked[start : start + settings.batch] for start in range(0, len(asked), settings.batch)]

    def read(batch: Sequence[dict[str, Any]]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, (row["scene_id"] for row in batch))

    shown = progress(prefetch(batches, read), "behaviour", len(batches))
    rows = [row for batch, images in shown for row in score(engine, images, batch)]
    blind = blind_answers(engine, dataset, _asked_blind(dataset, questions, settings), settings.batch)
    write_parquet(pl.DataFrame([row | blind.get(row["question_id"], _SEEING) for row in rows], schema=SCHEMA), job.outputs["behaviour"])


_SEEING: dict[str, Any] = {"blind_predicted": None, "blind_correct": None}


def _asked_blind(dataset: Dataset, questions: pl.DataFrame, settings: BehaviourSettings) -> list[dict[str, Any]]:
    if settings.blind == "none":
        return []
    photographs = dataset.scenes.filter(pl.col("photograph").is_not_null())["scene_id"]
    test = questions.filter(pl.col("split") == "test")
    chosen = test if settings.blind == "all" else test.filter(pl.col("scene_id").is_in(photographs.implode()))
    return chosen.sort("scene_id", maintain_order=True).rows(named=True)


def blind_answers(engine: PatchEngine, dataset: Dataset, asked: Sequence[dict[str, Any]], batch: int) -> dict[str, dict[str, Any]]:
    """The answer to each question over a plain grey picture of its scene's size, by ``question_id``: ``blind_predicted, blind_correct``."""
    if not asked:
        return {}
    sizes = {row["scene_id"]: dataset.size(row["scene_id"]) for row in asked}
    grey = {size: Image.new("RGB", size, GREY) for size in set(sizes.values())}
    for image in grey.values():
        # Shown many times: its key is worked out once (see image_key).
        image.readonly = 1
    found = {}
    for start in progress(range(0, len(asked), batch), "behaviour without pictures"):
        part = asked[start : start + batch]
        for row in score(engine, {each["scene_id"]: grey[sizes[each["scene_id"]]] for each in part}, part):
            found[row["question_id"]] = {"blind_predicted": row["predicted"], "blind_correct": row["correct"]}
    return found


def score(engine: PatchEngine, images: Mapping[str, Image.Image], questions: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of ``behaviour.parquet`` for some rows of ``questions.parquet``, whose scenes' images are given."""
    adapter = engine.adapter
    readers = [AnswerReader.of(adapter, row["candidates"], row["template"]) for row in questions]
    posed, own = runs_needed(readers, [row["prompt"] for row in questions])
    runs = [PairRuns(questions[number]["question_id"], Run(images[questions[number]["scene_id"]], prompt)) for number, prompt in posed]
    every = engine.clean(runs)
    require_finite(adapter, every, lambda row: runs[row].clean.shown, f"question {runs[0].pair_id} and others")
    likeliest = every.argmax(dim=-1).tolist()
    for row, reader, which in zip(questions, readers, own, strict=True):
        scores = reader.log_probabilities(every[which])
        text, top1 = wrote(reader, likeliest[which], adapter.processor.tokenizer.decode)
        answer = reader.candidates.index(row["answer"])
        predicted = reader.best(scores)
        yield {
            **{key: row[key] for key in ("question_id", "scene_id", "variant", "split", "axis", "template", "slot", "answer")},
            "predicted": predicted,
            "correct": predicted == row["answer"],
            "top1": text,
            "top1_correct": top1 == row["answer"],
            "answer_probability": probability(scores, answer),
            "margin": margin(scores, answer),
            "candidates": list(reader.candidates),
            "log_probabilities": scores.tolist(),
            "candidate_mass": mass(scores),
            "whole_words": reader.whole_words,
        }


if __name__ == "__main__":
    run_stage("behaviour", behaviour)
