"""Consistency and the prior of categories: counts made by hand, and answerers whose consistency is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from natural_set import write_natural_set
from vlm_spatial.measures.behaviour import accuracies, chance
from vlm_spatial.measures.consistency import AGREE, BOTH_RIGHT, MIRROR, REVERSAL, STRICT, consistency
from vlm_spatial.measures.prior import beyond_prior, beyond_text, prior_accuracy, right_answer
from vlm_spatial.measures.table import BOTH
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.unit

Answerer = Callable[[dict[str, Any]], str]


def made(folder: Path, root: Path, **changes: Any) -> Dataset:
    values = {
        "kind": "coco",
        "images": str(root / "photos"),
        "annotations": str(root / "instances.json"),
        "scenes": {"train": 6, "validation": 2, "test": 8},
        "pairs": {"vision": 0, "language": 0, "conflict": 0},
        **changes,
    }
    scenes_stage(Job({"dataset": values, "name": "test"}, {}, {"folder": folder}))
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_natural_set(folder, 24)
    return folder


@pytest.fixture(scope="module")
def two(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made(tmp_path_factory.mktemp("two") / "out", root, objects=2)


@pytest.fixture(scope="module")
def three(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made(tmp_path_factory.mktemp("three") / "out", root)


def asked(dataset: Dataset, answers: Answerer) -> dict[str, pl.DataFrame]:
    """The tables that an answerer leaves, which is shown a row of questions.parquet."""
    rows = [row | {"predicted": answers(row)} for row in dataset.questions.filter(pl.col("variant") != "pair").iter_rows(named=True)]
    behaviour = pl.DataFrame(rows).with_columns(correct=pl.col("predicted") == pl.col("answer")).drop("prompt", "option_order")
    return {"behaviour": behaviour, "questions": dataset.questions, "scenes": dataset.scenes}


def found(tables: dict[str, pl.DataFrame], measure: str, kind: str, template: str) -> dict[str, Any]:
    table = consistency(tables).filter(measure=measure, condition=kind, template=template, axis=BOTH)
    return table.row(0, named=True)


def test_who_answers_right_is_consistent(two: Dataset) -> None:
    tables = asked(two, lambda row: row["answer"])
    for kind, template in (
        (MIRROR, "slot_to_object"),
        (MIRROR, "object_to_slot"),
        (MIRROR, "relation_to_object"),
        (REVERSAL, "relation_to_object"),
    ):
        for measure in (BOTH_RIGHT, AGREE):
            row = found(tables, measure, kind, template)
            assert row["estimate"] == 1.0
            assert row["n"] > 0
        assert found(tables, BOTH_RIGHT, kind, template)["control_estimate"] == pytest.approx(0.25)
        assert found(tables, AGREE, kind, template)["control_estimate"] == pytest.approx(0.5)


def test_who_always_says_the_same_is_right_half_of_the_time_and_never_twice(two: Dataset) -> None:
    """Blind to the picture: 'left', whatever is shown."""
    tables = asked(two, lambda row: sorted(row["candidates"])[0])
    relations = tables["behaviour"].filter(template="relation_to_object", split="test")
    assert relations["correct"].mean() == pytest.approx(0.5)
    for kind in (MIRROR, REVERSAL):
        for measure in (BOTH_RIGHT, AGREE):
            assert found(tables, measure, kind, "relation_to_object")["estimate"] == 0.0


def test_who_is_always_wrong_agrees_with_itself(two: Dataset) -> None:
    tables = asked(two, lambda row: next(word for word in row["candidates"] if word != row["answer"]))
    for kind in (MIRROR, REVERSAL):
        assert found(tables, BOTH_RIGHT, kind, "relation_to_object")["estimate"] == 0.0
        assert found(tables, AGREE, kind, "relation_to_object")["estimate"] == 1.0


@pytest.mark.slow
def test_mirror_pairs_ask_the_same_of_both_pictures_and_have_two_answers(three: Dataset) -> None:
    """One mirror image a horizontal test scene; what is asked of the middle object has one answer to both, and does not count."""
    tables = asked(three, lambda row: row["answer"])
    scenes = three.scenes.filter(axis="horizontal", split="test", variant="main").height
    row = found(tables, BOTH_RIGHT, MIRROR, "slot_to_object")
    assert (row["n"], row["clusters"]) == (2 * scenes, scenes)
    # Three candidates: two guesses are both right once in nine times, and may both be right twice in three.
    assert row["control_estimate"] == pytest.approx(1 / 9)
    assert found(tables, AGREE, MIRROR, "slot_to_object")["control_estimate"] == pytest.approx(2 / 3)
    assert consistency(tables).filter(condition=REVERSAL).is_empty()


def test_strict_counts_items_with_both_orders_right_and_clusters_by_photograph() -> None:
    """Two items of one photograph, one of another: right in both orders, in one, in both."""
    right = {("a", 0): True, ("a", 1): True, ("b", 0): True, ("b", 1): False, ("c", 0): True, ("c", 1): True}
    of = {"a": "photo 1", "b": "photo 1", "c": "photo 2"}
    known = {"split": "test", "axis": "horizontal", "template": "slot_to_object", "slot": 0, "variant": "photo"}
    behaviour = pl.DataFrame(
        [
            {
                **known,
                "question_id": f"{scene}/{order}",
                "scene_id": scene,
                "answer": "cup",
                "predicted": "cup" if correct else "plate",
                "correct": correct,
                "candidates": ["cup", "plate"],
            }
            for (scene, order), correct in right.items()
        ]
    )
    questions = pl.DataFrame(
        [{"question_id": f"{scene}/{order}", "prompt": f"in order {order}", "option_order": order} for scene, order in right]
    )
    scenes = pl.DataFrame(
        [
            {"scene_id": scene, "mirrored_from": None, "objects": ["cup", "plate"], "slots": [0, 2], "photograph": photo}
            for scene, photo in of.items()
        ],
        schema_overrides={"mirrored_from": pl.String},
    )
    tables = {"behaviour": behaviour.with_columns(top1_correct="correct"), "questions": questions, "scenes": scenes}
    for measure in (BOTH_RIGHT, AGREE):
        row = found(tables, measure, STRICT, "slot_to_object")
        assert (row["estimate"], row["n"], row["clusters"]) == (pytest.approx(2 / 3), 3, 2)
    assert found(tables, BOTH_RIGHT, STRICT, "slot_to_object")["control_estimate"] == pytest.approx(0.25)
    [accuracy] = accuracies(tables).filter(axis=BOTH, slot="all slots", measure="accuracy").iter_rows(named=True)
    assert (accuracy["n"], accuracy["clusters"]) == (6, 2)


def test_a_guess_among_named_options_is_one_in_two() -> None:
    """Of a drawn scene the object that is referred to is among the three candidates; in a photograph's question it is not."""
    row = {"template": "relation_to_object", "candidates": ["a", "b", "c"]}
    assert chance(pl.DataFrame([row])) == pytest.approx(0.5)
    assert chance(pl.DataFrame([row | {"candidates": ["a", "b"]}])) == pytest.approx(0.5)


@pytest.mark.parametrize("objects", ["two", "three"])
@pytest.mark.slow
def test_the_prior_understands_every_question(objects: str, request: pytest.FixtureRequest) -> None:
    """Told the order of the objects, it gives the right answer."""
    dataset: Dataset = request.getfixturevalue(objects)
    rows = dataset.questions.filter(pl.col("template") != "content").join(
        dataset.scenes.select("scene_id", "objects", "slots"), on="scene_id"
    )
    assert rows.height > 50
    for row in rows.iter_rows(named=True):
        assert right_answer(row, row["objects"], row["slots"], row["objects"]) == row["answer"], row


def test_the_prior_by_hand() -> None:
    """A cup stood left in 3 of 4 training scenes, a plate right in 1 of 1; nothing is known of a fork."""
    counts = {("horizontal", "cup", 0): 3, ("horizontal", "cup", 2): 1, ("horizontal", "plate", 2): 1}
    row = {"axis": "horizontal", "template": "slot_to_object", "slot": 0, "objects": ["cup", "plate"], "slots": [0, 2]}
    row |= {"candidates": ["cup", "plate"], "answer": "cup"}
    # cup left: 4/6 · 2/3; plate left: 1/3 · 2/6.
    assert prior_accuracy(row, counts) == 1.0
    assert prior_accuracy(row | {"objects": ["plate", "cup"], "answer": "plate"}, counts) == 0.0
    unknown = row | {"objects": ["fork", "knife"], "candidates": ["fork", "knife"], "answer": "fork"}
    assert prior_accuracy(unknown, counts) == 0.5
    other_axis = row | {"axis": "vertical"}
    assert prior_accuracy(other_axis, counts) == 0.5


def test_an_answerer_that_is_the_prior_has_nothing_beyond_it(three: Dataset) -> None:
    """Mirror images turn what the prior says round, so its own accuracy over both is that of a guess or worse."""
    tables = asked(three, lambda row: row["answer"])
    right = beyond_prior(tables).filter(axis=BOTH, variant="main").row(0, named=True)
    assert right["estimate"] == 1.0
    assert right["difference"] == pytest.approx(1 - right["control_estimate"], abs=0.05)
    assert 0.2 < right["control_estimate"] < 0.7


def test_what_the_text_gives_is_the_control(three: Dataset) -> None:
    """Right everywhere with the picture, and without it where the answer comes first in the alphabet; content is not counted."""
    tables = asked(three, lambda row: row["answer"])
    first = pl.col("answer") == pl.col("candidates").list.sort().list.first()
    tables["behaviour"] = tables["behaviour"].with_columns(blind_correct=pl.when(pl.col("split") == "test").then(first))
    row = beyond_text(tables).filter(axis=BOTH, variant="main").row(0, named=True)
    test = tables["behaviour"].filter(pl.col("template") != "content", split="test", variant="main")
    assert (row["estimate"], row["n"]) == (1.0, test.height)
    assert row["control_estimate"] == pytest.approx(test["blind_correct"].mean())
    assert row["difference_low"] < row["difference"] <= 1
    assert row["difference"] == pytest.approx(1 - row["control_estimate"], abs=0.05)
    assert beyond_text({**tables, "behaviour": tables["behaviour"].drop("blind_correct")}).is_empty()
