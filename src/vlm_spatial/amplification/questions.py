"""Which questions the corrections are tried on: the amplification stage draws them, the transfer stage takes the same ones."""

import numpy as np
import polars as pl

from vlm_spatial.amplification.answers import answered
from vlm_spatial.config.pool import RightBy
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.dataset import Dataset

OF_QUESTION: dict[str, pl.DataType | type[pl.DataType]] = {
    "question_id": pl.String,
    "scene_id": pl.String,
    "split": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "slot": pl.Int32,
    "correct_before": pl.Boolean,
    "confidence_before": pl.Float64,
    "brier_before": pl.Float64,
}
"""Columns that say what was asked and how the untouched model answered."""


def sample_questions(behaviour: pl.DataFrame, dataset: Dataset, limit: int, seed: int) -> pl.DataFrame:
    """Questions of whole main scenes, drawn at random until an axis and split have about ``limit``.

    Returns:
        :data:`OF_QUESTION`, ``prompt``, ``candidates`` and ``answer``.

    Raises:
        UserError: if ``behaviour`` has no question of main scenes in the validation or test split.
    """
    rows = behaviour.filter((pl.col("variant") == "main") & pl.col("split").is_in(["validation", "test"]))
    if rows.is_empty():
        raise UserError("behaviour table: has no questions of main scenes in the validation and test splits; add both to behaviour.splits")
    generator = np.random.default_rng(seed)
    parts = []
    for _, group in sorted(rows.partition_by("split", "axis", as_dict=True).items()):
        scenes = generator.permutation(group["scene_id"].unique().sort().to_numpy())
        a_scene = group.height / len(scenes)
        parts.append(group.filter(pl.col("scene_id").is_in(list(scenes[: max(1, round(limit / a_scene))]))))
    return _posed(_with_certainty(pl.concat(parts)), dataset)


def item_questions(behaviour: pl.DataFrame, dataset: Dataset, right_by: RightBy = "candidates") -> pl.DataFrame:
    """Relations of two objects that are asked in both orders of the options, as :func:`sample_questions` gives them, and ``item``.

    An item is a scene and the object asked about: its two questions differ in the order only.

    Args:
        right_by: as ``amplification.items_right_by``; what ``correct_before`` says.
    """
    twice = dataset.questions.filter(pl.col("option_order").is_not_null(), variant="photo", template="relation_to_object")
    rows = behaviour.filter(pl.col("question_id").is_in(twice["question_id"].implode()))
    if right_by == "top1_word":
        rows = rows.with_columns(correct=pl.col("top1_correct"))
    posed = _posed(_with_certainty(rows), dataset)
    return posed.with_columns(item=pl.format("{}/{}", "scene_id", "slot"))


def _with_certainty(drawn: pl.DataFrame) -> pl.DataFrame:
    certainty = [answered(*row) for row in drawn.select("log_probabilities", "candidates", "answer").iter_rows()]
    return drawn.rename({"correct": "correct_before"}).with_columns(
        confidence_before=pl.Series([one.confidence for one in certainty], dtype=pl.Float64),
        brier_before=pl.Series([one.brier for one in certainty], dtype=pl.Float64),
    )


def questions_of(swept: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The test questions that ``amplification.parquet`` was made with, as :func:`sample_questions` gives them."""
    return _posed(swept.filter(pl.col("split") == "test").unique("question_id"), dataset)


def _posed(known: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    asked = dataset.questions.select("question_id", "prompt", "candidates", "answer")
    return (
        known.select(pl.col(name).cast(kind) for name, kind in OF_QUESTION.items())
        .join(asked, on="question_id", how="left", maintain_order="left")
        .sort("split", "axis", "question_id")
    )
