"""Answers to questions under corrections, as rows of ``amplification.parquet``."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlm_spatial.amplification.answers import answered
from vlm_spatial.amplification.questions import OF_QUESTION
from vlm_spatial.amplification.sweep import Asked, Setting, Sweep, by_scene
from vlm_spatial.interventions.answers import Readout
from vlm_spatial.interventions.patch import Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

NAMING = ("slot_to_object", "relation_to_object")
"""Templates that are answered with the name of an object."""
SCHEMA = {
    **{name: kind for name, kind in OF_QUESTION.items() if not name.endswith("_before")},
    "site": pl.String,
    "method": pl.String,
    "draw": pl.Int32,
    "alpha": pl.Float64,
    "predicted": pl.String,
    "correct": pl.Boolean,
    "correct_before": pl.Boolean,
    "answer_probability": pl.Float64,
    "confidence_before": pl.Float64,
    "confidence": pl.Float64,
    "brier_before": pl.Float64,
    "brier": pl.Float64,
    "present_before": pl.Boolean,
    "present": pl.Boolean,
}


def score(sweep: Sweep, dataset: Dataset, asked: pl.DataFrame, settings: Sequence[Setting], what: str) -> pl.DataFrame:
    """Rows of ``amplification.parquet``: every question of ``asked`` under every setting that knows its scene's axis.

    Args:
        asked: as :func:`~vlm_spatial.amplification.questions.sample_questions` gives them.
        what: named in the progress bar.
    """
    if asked.is_empty() or not settings:
        return pl.DataFrame(schema=SCHEMA)
    questions = asked.rows(named=True)
    readouts = [Readout.of(sweep.adapter, row["candidates"]) for row in questions]
    named = object_tokens(sweep.adapter, dataset.questions)
    rows: list[dict[str, Any]] = []
    scenes = list(by_scene(asked["scene_id"].to_list()))

    def read(of_scene: tuple[str, list[int]]) -> Image.Image:
        return pictures(sweep.adapter, dataset, [of_scene[0]])[of_scene[0]]

    for (scene, places), picture in progress(prefetch(scenes, read), what, len(scenes)):
        image = Run(picture, questions[places[0]]["prompt"])
        posed = [Asked(questions[place]["question_id"], questions[place]["prompt"], (*readouts[place].tokens, *named)) for place in places]
        known = [setting for setting in settings if setting.axes is None or questions[places[0]]["axis"] in setting.axes]
        # Untouched once more, for what it names: one of many settings, and controls come without their own.
        every = sweep.scores(image, scene, posed, [*known, Setting("connector", "projection", 0, 1.0, lambda _scene: _unchanged)])
        for place, scores in zip(places, every, strict=True):
            rows += list(_rows(questions[place], readouts[place], named, known, scores.double().numpy()))
    return pl.DataFrame(rows, schema=SCHEMA)


def object_tokens(adapter: Adapter, questions: pl.DataFrame) -> list[int]:
    """First tokens of every object word of the dataset."""
    named = questions.filter(pl.col("template").is_in(NAMING))["candidates"].explode().drop_nulls().unique().sort()
    return sorted({token for word in named for token in adapter.answer_tokens([word])})


def _unchanged(values: Float[Tensor, "cells patches features"]) -> Float[Tensor, "cells patches features"]:
    return values


def _rows(
    question: dict[str, Any],
    readout: Readout,
    named: Sequence[int],
    settings: Sequence[Setting],
    scores: Float[np.ndarray, "settings tokens"],
) -> Iterator[dict[str, Any]]:
    count = len(readout.candidates)
    # The candidates of such a question are the objects of its picture.
    there = np.isin(np.asarray(named)[scores[:, count:].argmax(axis=1)], readout.tokens) if question["template"] in NAMING else None
    for number, setting in enumerate(settings):
        given = answered(scores[number, :count], readout.candidates, question["answer"])
        yield {
            **{key: question[key] for key in OF_QUESTION},
            "site": setting.site,
            "method": setting.method,
            "draw": setting.draw,
            "alpha": setting.alpha,
            "predicted": given.predicted,
            "correct": given.predicted == question["answer"],
            "answer_probability": given.answer_probability,
            "confidence": given.confidence,
            "brier": given.brier,
            "present": None if there is None else bool(there[number]),
            "present_before": None if there is None else bool(there[-1]),
        }
