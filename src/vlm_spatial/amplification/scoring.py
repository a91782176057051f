"""Answers to questions under corrections, as rows of ``amplification.parquet``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlm_spatial.amplification.answers import answered
from vlm_spatial.amplification.questions import OF_QUESTION
from vlm_spatial.amplification.sweep import Asked, Following, Setting, Sweep, by_scene
from vlm_spatial.interventions.answers import AnswerReader, mass, wrote
from vlm_spatial.interventions.patch import Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.finite import require_finite
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

NAMING = ("slot_to_object", "relation_to_object")
"""Templates that are answered with the name of an object."""
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    **{name: kind for name, kind in OF_QUESTION.items() if not name.endswith("_before")},
    "site": pl.String,
    "method": pl.String,
    "draw": pl.Int32,
    "alpha": pl.Float64,
    "predicted": pl.String,
    "correct": pl.Boolean,
    "top1_correct": pl.Boolean,
    "correct_before": pl.Boolean,
    "answer_probability": pl.Float64,
    "candidates": pl.List(pl.String),
    "log_probabilities": pl.List(pl.Float32),
    "candidate_mass": pl.Float64,
    "whole_words": pl.Boolean,
    "confidence_before": pl.Float64,
    "confidence": pl.Float64,
    "brier_before": pl.Float64,
    "brier": pl.Float64,
    "present_before": pl.Boolean,
    "present": pl.Boolean,
}
ITEMS_SCHEMA = {"item": pl.String, **SCHEMA}
"""Columns of ``amplification_items.parquet``: an item is a scene and the object asked about, in both orders of the options."""


def score(sweep: Sweep, dataset: Dataset, asked: pl.DataFrame, settings: Sequence[Setting], what: str) -> pl.DataFrame:
    """Rows of ``amplification.parquet``: every question of ``asked`` under every setting that knows its scene's axis.

    Args:
        asked: as :func:`~vlm_spatial.amplification.questions.sample_questions` gives them.
        what: named in the progress bar.
    """
    if asked.is_empty() or not settings:
        return pl.DataFrame(schema=SCHEMA)
    questions = asked.rows(named=True)
    readers = [AnswerReader.of(sweep.adapter, row["candidates"], row["template"]) for row in questions]
    named = object_words(sweep.adapter, dataset.questions)
    rows: list[dict[str, Any]] = []
    scenes = list(by_scene(asked["scene_id"].to_list()))

    def read(of_scene: tuple[str, list[int]]) -> Image.Image:
        return pictures(sweep.adapter, dataset, [of_scene[0]])[of_scene[0]]

    for (scene, places), picture in progress(prefetch(scenes, read), what, len(scenes)):
        image = Run(picture, questions[places[0]]["prompt"])
        posed = [each for place in places for each in _posed(questions[place], readers[place], named)]
        known = [setting for setting in settings if setting.axes is None or questions[places[0]]["axis"] in setting.axes]
        # Untouched once more, for what it names: one of many settings, and controls come without their own.
        every = sweep.scores(image, scene, posed, [*known, Setting("connector", "projection", 0, 1.0, lambda _scene: _unchanged)])
        for each, of_run in zip(posed, every, strict=True):
            _require_finite(sweep.adapter, of_run.scores, picture, each)
        following = iter(every)
        for place in places:
            of_question = [next(following) for _ in readers[place].beginnings]
            rows += list(_rows(questions[place], readers[place], named, known, of_question, sweep.adapter.processor.tokenizer.decode))
    return pl.DataFrame(rows, schema=SCHEMA)


def _require_finite(adapter: Adapter, scores: Float[Tensor, "settings tokens"], picture: Image.Image, asked: Asked) -> None:
    require_finite(adapter, scores, lambda _setting: (picture, asked.prompt, {}), f"question {asked.question_id} under corrections")


def _posed(question: dict[str, Any], reader: AnswerReader, named: Sequence[int]) -> Iterator[Asked]:
    """The question with each beginning of its answers; at the first, all object words are of interest."""
    for beginning, prompt in zip(reader.beginnings, reader.prompts(question["prompt"]), strict=True):
        yield Asked(question["question_id"], prompt, (*reader.wanted(beginning), *(() if beginning else named)))


def object_words(adapter: Adapter, questions: pl.DataFrame) -> list[int]:
    """First tokens of every form of every object word of the dataset."""
    words = questions.filter(pl.col("template").is_in(NAMING)).select("template", "candidates").explode("candidates").drop_nulls().unique()
    return sorted({form[0] for template, word in words.rows() for form in adapter.cache.answer_forms(word, template)})


def _unchanged(values: Float[Tensor, "cells patches features"]) -> Float[Tensor, "cells patches features"]:
    return values


def answer_row(
    question: Mapping[str, Any],
    reader: AnswerReader,
    scores: Float[np.ndarray, " candidates"],
    written: str | None,
    site: str,
    method: str,
    alpha: float,
    draw: int = 0,
) -> dict[str, Any]:
    """One question's row of ``amplification.parquet`` under one method.

    Args:
        scores: log-probabilities of its candidates.
        written: the candidate that the model writes if nothing constrains it; None if it is none.
    """
    given = answered(scores, reader.candidates, question["answer"])
    return {
        **{key: question[key] for key in OF_QUESTION},
        "site": site,
        "method": method,
        "draw": draw,
        "alpha": alpha,
        "predicted": given.predicted,
        "correct": given.predicted == question["answer"],
        "top1_correct": written == question["answer"],
        "answer_probability": given.answer_probability,
        "candidates": list(reader.candidates),
        "log_probabilities": scores.tolist(),
        "candidate_mass": mass(scores),
        "whole_words": reader.whole_words,
        "confidence": given.confidence,
        "brier": given.brier,
    }


def _rows(
    question: dict[str, Any],
    reader: AnswerReader,
    named: Sequence[int],
    settings: Sequence[Setting],
    following: Sequence[Following],
    decode: Callable[[list[int]], str],
) -> Iterator[dict[str, Any]]:
    wanted = reader.wanted(())
    of_tokens = [of_run.scores.numpy() for of_run in following]
    likeliest = [of_run.likeliest.tolist() for of_run in following]
    # The candidates of such a question are the objects of its picture.
    there = None
    if question["template"] in NAMING:
        there = np.isin(np.asarray(named)[of_tokens[0][:, len(wanted) :].argmax(axis=1)], wanted)
    for number, setting in enumerate(settings):
        scores = reader.added_up([of_tokens[0][number, : len(wanted)], *(of_run[number] for of_run in of_tokens[1:])])
        written = wrote(reader, [of_run[number] for of_run in likeliest], decode)[1]
        yield {
            **answer_row(question, reader, scores, written, setting.site, setting.method, setting.alpha, setting.draw),
            "present": None if there is None else bool(there[number]),
            "present_before": None if there is None else bool(there[-1]),
        }
