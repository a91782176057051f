"""Two-object items under the published correction: its formula, its count, and what that count cannot see."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from natural_set import write_natural_set
from stage_inputs import job
from test_natural_items import settings as hand_made
from test_natural_items import write_hand_made
from vlm_spatial.activations.store import Store
from vlm_spatial.amplification.columns import MATCHED, PROBE, RANDOM, Columns, MatchedColumns, item_probes
from vlm_spatial.amplification.questions import item_questions
from vlm_spatial.amplification.scoring import ITEMS_SCHEMA
from vlm_spatial.amplification.sweep import Sweep
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.measures import items as measured
from vlm_spatial.measures.items import Swept, items
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.questions import split_words
from vlm_spatial.stages.activations import activations
from vlm_spatial.stages.amplification import amplified_items
from vlm_spatial.stages.behaviour import behaviour
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import coverage

pytestmark = pytest.mark.model


def test_the_formula_column_by_column() -> None:
    generator = np.random.default_rng(0)
    values, weights = generator.standard_normal((4, 1, 6)), generator.standard_normal((2, 6))
    expected = values.copy()
    for cell in range(4):
        for w in weights:
            expected[cell, 0] += 3.0 * (values[cell, 0] @ w) / (w @ w + 1e-8) * w
    found = Columns(weights, 3.0)(torch.from_numpy(values))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert torch.equal(Columns(weights, 0.0)(torch.from_numpy(values)), torch.from_numpy(values))
    # As far for every token, elsewhere.
    matched = MatchedColumns(weights, generator.standard_normal((2, 6)), 3.0)(torch.from_numpy(values))
    moved = [(other - torch.from_numpy(values)).norm(dim=-1) for other in (found, matched)]
    torch.testing.assert_close(*moved)
    assert (found - matched).abs().max() > 0.1


def test_opposite_columns_are_twice_the_projection() -> None:
    """As of two classes: a softmax probe that starts at 0 has w₂ = −w₁, and α then adds 2 α of the projection."""
    w, h = torch.randn(5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    found = Columns(np.stack([w, -w]), 1.5)(h)
    torch.testing.assert_close(found, h + 2 * 1.5 * (h @ w)[:, None] * w / (w @ w), rtol=1e-6, atol=1e-7)


def _table(after: dict[str, dict[float, str]], before: str, method: str = PROBE, draw: int = 0) -> pl.DataFrame:
    """Items by letter: of each the two questions, ``+`` right and ``-`` wrong, such as ``+- ++``."""
    rows = []
    for number, (old, item) in enumerate(zip(before.split(), after, strict=True)):
        for alpha, new in after[item].items():
            for order in (0, 1):
                rows.append(
                    {
                        "item": item,
                        "scene_id": f"s{number}",
                        "question_id": f"{item}/{order}",
                        "axis": "horizontal",
                        "method": method,
                        "draw": draw,
                        "alpha": alpha,
                        "correct_before": old[order] == "+",
                        "correct": new[order] == "+",
                    }
                )
    return pl.DataFrame(rows)


AFTER = {
    # Fixed at 1 as published, as its failed question becomes right; the other one is lost, so it is not right.
    "a": {0.0: "+-", 1.0: "-+", 2.0: "--"},
    "b": {0.0: "--", 1.0: "+-", 2.0: "++"},
    # Right before, broken from 1 on, which the published count cannot see.
    "c": {0.0: "++", 1.0: "+-", 2.0: "--"},
    "d": {0.0: "++", 1.0: "++", 2.0: "++"},
}
BEFORE = "+- -- ++ ++"


def test_the_published_count_and_what_it_cannot_see() -> None:
    swept = Swept(_table(AFTER, BEFORE))
    assert swept.before.tolist() == [False, False, True, True]
    assert swept.fixed.tolist() == [[False, True, False], [False, False, True], [False] * 3, [False] * 3]
    assert swept.after.tolist() == [[False] * 3, [False, False, True], [True, False, False], [True] * 3]
    # One item is fixed at 1 and one at 2: the smaller α.
    assert swept.best() == 1
    # Halves a, c and b, d: each at the α that leaves most of the other right (0 for b, d; 2 for a, c).
    right, chosen = swept.held_out()
    assert chosen == [2.0, 0.0]
    assert right.tolist() == [False, False, False, True]
    found = items(_table(AFTER, BEFORE)).filter(axis="horizontal")
    of = {(row["measure"], row["correction"]): row for row in found.iter_rows(named=True)}
    assert of["strict_accuracy", None]["estimate"] == 0.5
    assert (of["published_best_alpha", PROBE]["estimate"], of["published_best_alpha", PROBE]["corrected"]) == (0.75, 1)
    assert (of["published_any_alpha", PROBE]["estimate"], of["published_any_alpha", PROBE]["corrected"]) == (1.0, 2)
    honest = of["strict_accuracy", PROBE]
    assert (honest["estimate"], honest["corrected"], honest["broken"], honest["difference"]) == (0.25, 0, 1, -0.25)


def test_draws_are_averaged_and_stand_beside_the_probe() -> None:
    nothing = {item: dict.fromkeys((0.0, 1.0, 2.0), old) for item, old in zip(AFTER, BEFORE.split(), strict=True)}
    draws = [_table(AFTER, BEFORE, MATCHED, 0), _table(nothing, BEFORE, MATCHED, 1)]
    found = items(pl.concat([_table(AFTER, BEFORE), *draws])).filter(axis="horizontal", measure="strict_accuracy")
    matched = found.filter(correction=MATCHED).row(0, named=True)
    assert (matched["estimate"], matched["low"], matched["high"]) == (0.375, 0.25, 0.5)
    probe = found.filter(correction=PROBE).row(0, named=True)
    assert (probe["control_estimate"], probe["control_low"], probe["control_high"]) == (0.375, 0.25, 0.5)
    assert items(None).is_empty()
    assert (measured.PROBE, measured.RANDOM, measured.MATCHED) == (PROBE, RANDOM, MATCHED)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of photographs with a list of two-object items, and a random model that knows its words."""
    root = tmp_path_factory.mktemp("items")
    truth = write_natural_set(root / "set", 6)
    listed = []
    for number, boxes in enumerate(truth.values()):
        first, _, last = boxes
        relation, other = (("to the left of", "to the right of"), ("above", "below"))[number % 2]
        captions = [f"A photo of a {first} {one} a {last}" for one in (relation, other)]
        listed.append([1000 + number, *captions])
    (root / "list.json").write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
    dataset = {
        "kind": "coco",
        "images": str(root / "set/photos"),
        "annotations": str(root / "set/instances.json"),
        "questions": str(root / "list.json"),
        "pairs": {"vision": 0, "language": 0, "conflict": 0},
        "templates": ["relation_to_object"],
    }
    scenes(Job({"dataset": dataset, "name": "coco"}, {}, {"folder": root / "scenes"}))
    asked = Dataset.open(root / "scenes").questions
    words = sorted(split_words([*asked["prompt"], *asked["candidates"].explode()]))
    reader = new_checkpoint(root / "reader", "qwen2_vl", words, seed=3)
    behaviour(job(reader, root / "scenes", root, "behaviour", {"splits": ["test"]}))
    return {"scenes": root / "scenes", "reader": reader, "behaviour": root / "behaviour.parquet"}


@pytest.mark.slow
def test_every_item_is_asked_in_both_orders_under_every_correction(made: dict[str, Path]) -> None:
    dataset, adapter = Dataset.open(made["scenes"]), load_adapter(made["reader"], device="cpu")
    answers = pl.read_parquet(made["behaviour"])
    asked = item_questions(answers, dataset)
    assert asked.height == 6 * 2 * 2
    assert asked.group_by("item").len()["len"].to_list() == [2] * 12
    # A random model is right in both orders by chance only; two items an axis are said to be.
    known = pl.col("scene_id").is_in(asked.unique("scene_id", maintain_order=True).group_by("axis").head(2)["scene_id"].implode())
    asked = asked.with_columns(correct_before=pl.when(known).then(True).otherwise("correct_before"))
    probes = item_probes(adapter, dataset, asked, 0)
    assert set(probes) == {"horizontal", "vertical"}
    assert all(weights.shape == (2, adapter.site_shape("connector")[1]) for weights in probes.values())

    answers = answers.with_columns(correct=pl.lit(True))
    settings = AmplificationSettings(item_alphas=(0.0, 2.0), item_random_draws=2)
    table = amplified_items(Sweep(adapter), dataset, answers, settings, 0)
    assert dict(table.schema) == ITEMS_SCHEMA
    assert table.height == 24 * 2 * (1 + 1 + 2)
    # α = 0 is a replay: the answers of the behaviour stage.
    replayed = table.filter(alpha=0.0).join(answers.select("question_id", untouched="predicted"), on="question_id")
    assert (replayed["predicted"] == replayed["untouched"]).all()
    # By a plain run with the formula laid on the connector's output.
    row = table.filter(method=PROBE, alpha=2.0).row(0, named=True)
    [question] = dataset.questions.filter(question_id=row["question_id"]).rows(named=True)
    weights = item_probes(adapter, dataset, item_questions(answers, dataset), 0)[row["axis"]]
    prepared = adapter.prepare([dataset.image(question["scene_id"])], [question["prompt"]])
    logits = adapter.run(prepared, edits={"connector": Columns(weights, 2.0)})[0][0].double().log_softmax(-1)
    expected = [np.logaddexp.reduce([float(logits[form[0]]) for form in _forms(adapter, word)]) for word in row["candidates"]]
    np.testing.assert_allclose(row["log_probabilities"], expected, atol=1e-4)
    assert items(table).filter(measure="published_any_alpha").height == 3 * 2
    written = adapter.processor.tokenizer.decode([int(logits.argmax())]).strip().lower()
    assert row["top1_correct"] == (written == row_answer(dataset, row["question_id"]))
    # As published, right is what the likeliest token of all says: untouched as the behaviour stage found, and under each correction.
    strict = settings.model_copy(update={"items_right_by": "top1_word"})
    some = answers.with_columns(top1_correct=pl.int_range(pl.len()) % 3 > 0)
    counted = amplified_items(Sweep(adapter), dataset, some, strict, 0)
    assert counted["correct"].equals(counted["top1_correct"])
    said = dict(some.select("question_id", "top1_correct").rows())
    assert counted["correct_before"].to_list() == [said[name] for name in counted["question_id"]]
    assert set(counted["correct_before"]) == {True, False}
    assert amplified_items(Sweep(adapter), dataset, answers, AmplificationSettings(), 0).is_empty()


def row_answer(dataset: Dataset, question_id: str) -> str:
    """The right answer of a question."""
    return str(dataset.questions.filter(question_id=question_id)["answer"].item())


def _forms(adapter, word: str):  # type: ignore[no-untyped-def]
    return dict.fromkeys(form[:1] for form in adapter.cache.answer_forms(word, "relation_to_object"))


@pytest.mark.slow
def test_a_probe_learns_from_every_cell_that_a_box_touches(made: dict[str, Path]) -> None:
    dataset, adapter = Dataset.open(made["scenes"]), load_adapter(made["reader"], device="cpu")
    from vlm_spatial.amplification.columns import _object_means

    scene = dataset.scenes.filter(variant="photo")["scene_id"][0]
    image = dataset.image(scene)
    values = adapter.run_vision(adapter.prepare([image], ["?"]))["connector"][0, :, 0]
    found = _object_means(adapter, dataset, scene, "?")
    for mean, box in zip(found, dataset.boxes(scene), strict=True):
        cells = [cell for cell, share in enumerate(coverage(box, adapter.grid(*image.size), *image.size)) if share > 0]
        np.testing.assert_allclose(mean, values[cells].mean(dim=0), rtol=1e-5, atol=1e-6)


def test_an_axis_without_a_right_item_has_no_probe(made: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    dataset, adapter = Dataset.open(made["scenes"]), load_adapter(made["reader"], device="cpu")
    asked = item_questions(pl.read_parquet(made["behaviour"]), dataset).with_columns(correct_before=pl.lit(False))
    assert item_probes(adapter, dataset, asked, 0) == {}
    assert "no probe to amplify with" in capsys.readouterr().err


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Adapter]:
    """The items of test_natural_items.py, asked with the largest boxes, and a random model that knows their words."""
    root = tmp_path_factory.mktemp("doubtful")
    write_hand_made(root)
    scenes(Job({"dataset": hand_made(root, items_boxes="largest"), "name": "coco"}, {}, {"folder": root / "scenes"}))
    dataset = Dataset.open(root / "scenes")
    words = sorted(split_words([*dataset.questions["prompt"], *dataset.questions["candidates"].explode()]))
    return dataset, load_adapter(new_checkpoint(root / "reader", "qwen2_vl", words, seed=3), device="cpu")


def all_right(dataset: Dataset) -> pl.DataFrame:
    asked = dataset.questions.filter(variant="photo")
    return asked.with_columns(correct_before=pl.lit(True), item=pl.col("scene_id"))


@pytest.mark.slow
def test_items_without_boxes_are_asked_and_teach_nothing(doubtful: tuple[Dataset, Adapter], capsys: pytest.CaptureFixture[str]) -> None:
    dataset, adapter = doubtful
    asked = all_right(dataset)
    boxed = dataset.scenes.filter(pl.col("boxes").list.len() == 2, variant="photo")["scene_id"].to_list()
    assert asked.group_by("axis").agg(pl.col("scene_id").n_unique()).sort("axis")["scene_id"].to_list() == [5, 2]
    found = item_probes(adapter, dataset, asked, 0)
    told = capsys.readouterr().err
    assert "items, horizontal: 2 of 5 have no boxes that stand as their caption says; no probe learns from them" in told
    assert "items, vertical: 1 of 2 have no boxes" in told
    # As if they had never been there.
    alone = item_probes(adapter, dataset, asked.filter(pl.col("scene_id").is_in(boxed)), 0)
    assert all(np.array_equal(found[axis], alone[axis]) for axis in ("horizontal", "vertical"))


def test_a_probe_learns_from_items_whose_cells_stand_as_said(doubtful: tuple[Dataset, Adapter], capsys: pytest.CaptureFixture[str]) -> None:
    """Two boxes whose pixels are in order and whose cells are the same: the published check is of cells."""
    dataset, adapter = doubtful
    [same] = dataset.scenes.filter(variant="photo", background="6.png")["scene_id"]
    close = pl.Series([[[0.0, 1.0, 20.0, 9.0], [0.0, 9.0, 20.0, 19.0]]], dtype=dataset.scenes.schema["boxes"])
    moved = replace(dataset, scenes=dataset.scenes.with_columns(boxes=pl.when(scene_id=same).then(close).otherwise("boxes")))
    asked = all_right(dataset).filter(axis="vertical")
    assert set(item_probes(adapter, dataset, asked, 0)) == {"vertical"}
    assert item_probes(adapter, moved, asked, 0) == {}
    assert "items, vertical: 2 of 2 have no boxes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("stored", [{"pooling": "token_set"}, {"tokens": 20}])
def test_a_store_holds_items_without_boxes(doubtful: tuple[Dataset, Adapter], tmp_path: Path, stored: dict[str, object]) -> None:
    dataset, _ = doubtful
    model = {"checkpoint": str(dataset.folder.parent / "reader"), "device": "cpu"}
    outputs = {"store": tmp_path / "activations.zarr", "manifest": tmp_path / "activations.json"}
    wanted = {"sites": ["vision.0", "connector"], **stored}
    activations(Job({"model": model, "seed": 0, "stage": wanted}, {"scenes": dataset.folder}, outputs))
    store = Store.open(outputs["store"])
    store.check_scenes(dataset.scenes)
    known = {row["scene_id"]: row for row in store.scenes.iter_rows(named=True)}
    for row in dataset.scenes.filter(pl.col("variant") != "pair").iter_rows(named=True):
        assert known[row["scene_id"]]["boxes"] == row["boxes"]
        assert (known[row["scene_id"]]["slots"], known[row["scene_id"]]["answers"]) == (row["slots"], row["objects"])
