"""Roles and spatial IDs strengthened at names, against hooks of PyTorch's own on random models that know the words."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from natural_set import write_natural_set
from stage_inputs import make_reader
from vlm_spatial.amplification.edited import score_edited
from vlm_spatial.amplification.role import ROLE, SPATIAL_ID, Strengthened, role_directions
from vlm_spatial.amplification.scoring import SCHEMA
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.spatial_ids import every_word, fit_ids, half_of
from vlm_spatial.measures.corrections import sweep as measured
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.natural_questions import relation_wordings
from vlm_spatial.scenes.questions import split_words
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.model

SITES = ("language.0", "language.1")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Photographs of two objects; their questions name both."""
    root, folder = tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("two") / "out"
    write_natural_set(root, 16)
    values = {
        "kind": "coco",
        "images": str(root / "photos"),
        "annotations": str(root / "instances.json"),
        "objects": 2,
        "axes": ["horizontal"],
        "scenes": {"train": 6, "validation": 2, "test": 2},
        "pairs": {"vision": 0, "language": 0, "conflict": 0},
    }
    scenes_stage(Job({"dataset": values, "name": "test"}, {}, {"folder": folder}))
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def reader(two: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    wordings = [text for pair in (("a", "b"), ("scissors", "b")) for text in relation_wordings("horizontal", *pair)]
    words = sorted(split_words([*two.questions["prompt"], *two.questions["candidates"].explode(), *wordings]))
    return load_adapter(new_checkpoint(tmp_path_factory.mktemp("reader") / "m", "llava", words, 3), device="cpu")


def asked_of(dataset: Dataset, template: str) -> pl.DataFrame:
    questions = dataset.questions.filter(pl.col("split").is_in(["validation", "test"]), variant="main", template=template)
    before = {"correct_before": pl.lit(value=True), "confidence_before": pl.lit(0.6), "brier_before": pl.lit(0.3)}
    return questions.with_columns(**before)


def position(adapter: Adapter, prepared_ids: torch.Tensor, word: str) -> int:
    """Where the last token of a word stands that a prompt names once."""
    token = adapter.processor.tokenizer.convert_tokens_to_ids(word.split()[-1])
    found: list[int] = (prepared_ids == token).nonzero()[:, 0].tolist()
    assert len(found) == 1
    return found[0]


def held(adapter: Adapter, dataset: Dataset, scene: str, prompt: str, word: str) -> np.ndarray:
    """Outputs of the first two language blocks at a word, ``[sites, features]``."""
    kept = []
    handles = [
        block.register_forward_hook(lambda _block, _inputs, output: kept.append(output.detach().clone()))
        for block in adapter.language_blocks[:2]
    ]
    prepared = adapter.prepare([dataset.image(scene)], [prompt])
    with torch.no_grad():
        adapter.model(**prepared.inputs)
    for handle in handles:
        handle.remove()
    return np.stack([output[0, position(adapter, prepared.inputs["input_ids"][0], word)].numpy() for output in kept])


def added(adapter: Adapter, dataset: Dataset, question: dict[str, object], layer: int, steps: dict[str, np.ndarray]) -> np.ndarray:
    """Log-probabilities of a question's candidates where vectors are added at words behind a block."""
    reader = AnswerReader.of(adapter, question["candidates"], question["template"])  # type: ignore[arg-type]
    assert reader.beginnings == ((),)
    prepared = adapter.prepare([dataset.image(str(question["scene_id"]))], [str(question["prompt"])])
    places = {position(adapter, prepared.inputs["input_ids"][0], word): step for word, step in steps.items()}

    def edit(_block: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        for place, step in places.items():
            changed[0, place] += torch.as_tensor(step, dtype=output.dtype)
        return changed

    handle = adapter.language_blocks[layer].register_forward_hook(edit)
    with torch.no_grad():
        logits = adapter.model(**prepared.inputs).logits[0, -1:]
    handle.remove()
    return reader.log_probabilities(logits)


@pytest.mark.slow
def test_the_role_direction_is_target_minus_reference(two: Dataset, reader: Adapter) -> None:
    steps = []
    rows = two.questions.filter(variant="main", split="train", template="relation_to_object").unique("scene_id")
    for scene in rows["scene_id"]:
        first, second = two.row(scene)["objects"]  # type: ignore[misc]
        for target, reference in ((first, second), (second, first)):
            for prompt in relation_wordings("horizontal", target, reference):
                steps.append(held(reader, two, scene, prompt, target) - held(reader, two, scene, prompt, reference))
    found = role_directions(reader, two, SITES, 100, 0)
    assert list(found) == ["horizontal"]
    assert found["horizontal"] == pytest.approx(np.mean(steps, axis=0), abs=1e-5)
    assert len(steps) == 24


def test_two_wordings_name_the_target_first_and_second() -> None:
    for axis in ("horizontal", "vertical"):
        first, second = relation_wordings(axis, "cup", "fork")
        assert first.index("cup") < first.index("fork")
        assert second.index("fork") < second.index("cup")
    assert relation_wordings("horizontal", "scissors", "cup") == (
        "Are the scissors to the left or to the right of the cup?",
        "If one looks at the cup, are the scissors to the left or to the right of it?",
    )


@pytest.mark.slow
def test_roles_are_added_at_both_names(two: Dataset, reader: Adapter) -> None:
    asked = asked_of(two, "relation_to_object")
    assert asked.height == 8
    strengthened = Strengthened.of(reader, two, SITES, (0.0, 4.0), 100, 0)
    table = score_edited(PatchEngine(reader), two, asked, strengthened.edits, "names")
    assert dict(table.schema) == SCHEMA
    assert table.select("method", "site", "alpha").unique().height == 4
    assert table.height == 4 * asked.height
    direction = role_directions(reader, two, SITES, 100, 0)["horizontal"]
    moved = 0.0
    for question in asked.iter_rows(named=True):
        row = two.row(question["scene_id"])
        of_slots = dict(zip(row["slots"], row["objects"], strict=True))  # type: ignore[call-overload]
        target, reference = of_slots.pop(question["slot"]), *of_slots.values()
        clean = added(reader, two, question, 0, {})
        for layer, site in enumerate(SITES):
            both = {target: 2 * direction[layer], reference: -2 * direction[layer]}
            found = table.filter(question_id=question["question_id"], site=site, method=ROLE)
            of_alpha = {alpha: np.array(values) for alpha, values in found.select("alpha", "log_probabilities").iter_rows()}
            edited = added(reader, two, question, layer, both)
            assert of_alpha[4.0] == pytest.approx(edited, abs=1e-5)
            assert of_alpha[0.0] == pytest.approx(clean, abs=1e-5)
            moved = max(moved, float(np.abs(edited - clean).max()))
    assert moved > 0.01


def test_alpha_zero_is_the_untouched_run_bit_for_bit(two: Dataset, reader: Adapter) -> None:
    asked = asked_of(two, "relation_to_object")
    engine = PatchEngine(reader)
    strengthened = Strengthened.of(reader, two, ("language.0",), (0.0, 1.0), 2, 0)
    seen = []
    engine_clean = engine.clean

    def clean(runs: object) -> torch.Tensor:
        seen.append(engine_clean(runs))  # type: ignore[arg-type]
        return seen[-1]

    engine.clean = clean  # type: ignore[method-assign, assignment]
    table = score_edited(engine, two, asked, strengthened.edits, "names").filter(alpha=0.0)
    logits = torch.cat(seen)
    assert len(logits) == table.height == asked.height
    for question, row in zip(asked.iter_rows(named=True), logits, strict=True):
        expected = AnswerReader.of(reader, question["candidates"], question["template"]).log_probabilities(row[None])
        found = table.filter(question_id=question["question_id"])["log_probabilities"].item().to_numpy()
        assert np.array_equal(found, expected.astype(np.float32))


@pytest.mark.slow
def test_of_one_named_object_the_slots_id_is_added(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "llava"), device="cpu")
    asked = asked_of(tiny, "object_to_slot")
    strengthened = Strengthened.of(adapter, tiny, SITES, (3.0,), 100, 0)
    table = score_edited(PatchEngine(adapter), tiny, asked, strengthened.edits, "names")
    assert table["method"].unique().to_list() == [SPATIAL_ID]
    ids, words = fit_ids(adapter, tiny, SITES, 100, 0), every_word(tiny)
    checked = 0
    for question in asked.iter_rows(named=True):
        name = tiny.row(question["scene_id"])["objects"][question["slot"]]  # type: ignore[index]
        fitted = ids.get((question["axis"], half_of(name, words)))
        found = table.filter(question_id=question["question_id"])
        if fitted is None:
            assert found.is_empty()
            continue
        for layer, site in enumerate(SITES):
            expected = added(adapter, tiny, question, layer, {name: 3 * fitted.slots[layer, question["slot"]]})
            assert found.filter(site=site)["log_probabilities"].item().to_numpy() == pytest.approx(expected, abs=1e-5)
            checked += 1
    assert checked >= 4


def test_questions_that_name_otherwise_have_no_rows(tiny: Dataset, two: Dataset, reader: Adapter, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "llava"), device="cpu")
    strengthened = Strengthened.of(adapter, tiny, ("language.0",), (1.0,), 100, 0)
    for template in ("slot_to_object", "relation_to_object"):
        assert not any(strengthened.edits(question) for question in asked_of(tiny, template).iter_rows(named=True))
    with pytest.raises(UserError, match=r"amplification.role_sites: connector holds visual tokens only; allowed are language layers"):
        Strengthened.of(reader, two, ("connector",), (1.0,), 1, 0)


@pytest.mark.slow
def test_answers_broken_are_counted(two: Dataset, reader: Adapter) -> None:
    """All answers are said to have been right before: what is wrong now is broken."""
    asked = asked_of(two, "relation_to_object")
    strengthened = Strengthened.of(reader, two, ("language.0",), (4.0,), 100, 0)
    table = score_edited(PatchEngine(reader), two, asked, strengthened.edits, "names")
    test = table.filter(split="test")
    row = measured(table).filter(axis="both axes", measure="net_accuracy", correction=ROLE).row(0, named=True)
    assert (row["errors"], row["corrected"], row["broken"]) == (0, 0, int((~test["correct"]).sum()))
    assert row["broken"] > 0
