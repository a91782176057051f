"""Mechanisms of how a model reads: what their masks and position ids do, against plain runs that say the same another way."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.organisms import Mechanism as Planted
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.patch import InBlocks, PairRuns, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.interventions.token_groups import text_groups, word_position
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import Knockout
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms import training
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.organisms.lessons import lesson_words
from vlm_spatial.models.organisms.mechanism import Given
from vlm_spatial.models.organisms.planted import MECHANISMS
from vlm_spatial.models.organisms.reading import CLOSED, READING, Gated, Order, Rotary, Route, masks_by_layer, thirds
from vlm_spatial.models.organisms.sight import text_rows, whole_mask, with_other_names
from vlm_spatial.models.organisms.training import Course, be_worker
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.questions import ask
from vlm_spatial.scenes.scene import Scene

pytestmark = pytest.mark.model

SQUARES = dataset_settings(kind="squares")
FAMILIES = ("llava", "qwen2_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    folder = tmp_path_factory.mktemp(request.param)
    return load_adapter(new_checkpoint(folder / "m", request.param, lesson_words([SQUARES]), 3), device="cpu")


def scenes(count: int) -> list[Scene]:
    generator = np.random.default_rng(1)
    return [sample_scene(SQUARES, ("horizontal", "vertical")[number % 2], "main", generator) for number in range(count)]


def prompts_of(shown: Sequence[Scene]) -> list[str]:
    return [ask(scene, SQUARES.templates[number % 3], number % 3).prompt for number, scene in enumerate(shown)]


def asked(adapter: Adapter, shown: Sequence[Scene]) -> Given:
    """Questions of different length, one of each kind, about each scene."""
    prepared = adapter.prepare([render(scene) for scene in shown], prompts_of(shown))
    inputs = dict(prepared.inputs)
    inputs["attention_mask"] = whole_mask(inputs["attention_mask"])
    return Given(inputs, shown, adapter, adapter.processor.tokenizer)


@torch.inference_mode()
def logits(adapter: Adapter, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    found: torch.Tensor = adapter.model(**inputs, use_cache=False).logits[:, -1]
    return found


def second_images(adapter: Adapter, shown: Sequence[Scene]) -> dict[str, torch.Tensor]:
    return dict(adapter.processor.image_processor(images=[render(scene) for scene in shown], return_tensors="pt"))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(((found - expected).abs().max() / expected.abs().max()) < 1e-5)


def test_rows_of_text_are_the_token_groups_of_the_analysis(adapter: Adapter) -> None:
    given = asked(adapter, scenes(3))
    ids = given.inputs["input_ids"]
    visual = ids == adapter.model.config.image_token_id
    found = text_rows(ids, given.tokenizer, adapter.recipe.turns, visual)
    for row, (scene, prompt) in enumerate(zip(given.scenes, prompts_of(given.scenes), strict=True)):
        groups = text_groups(adapter, render(scene), prompt)
        padding = ids.shape[1] - groups["last"][0] - 1
        assert found["question"][row].nonzero()[:, 0].tolist() == (groups["question"] + padding).tolist()
        assert found["answer"][row].nonzero()[:, 0].tolist() == (groups["answer"] + padding).tolist()


def test_a_second_image_is_seen_instead_of_the_own_one(adapter: Adapter) -> None:
    """All text sees the second image: the logits are those of the second image alone. Or its own: those without the second."""
    given, others = asked(adapter, scenes(3)), scenes(6)[3:]
    second = second_images(adapter, others)
    for sight, shown in (("own", given.scenes), ("other", others)):
        made = Route({(sight, sight): 1.0}).arranged(given, np.random.default_rng(0), second)  # type: ignore[dict-item]
        expected = adapter.run(adapter.prepare([render(scene) for scene in shown], prompts_of(given.scenes)))[0]
        assert close(logits(adapter, made), expected), sight
    mixed = Route({("own", "other"): 1.0}).arranged(given, np.random.default_rng(0), second)
    assert not close(logits(adapter, mixed), expected)


@pytest.mark.parametrize("condition", ["image closed to question", "image closed to answer", "image closed to both"])
def test_closed_routes_are_the_knockouts_of_the_analysis(adapter: Adapter, condition: str) -> None:
    given = asked(adapter, scenes(3))
    found = logits(adapter, Route({("own", "own"): 1.0}).conditions()[condition](given, np.random.default_rng(0)))
    for row, (scene, prompt) in enumerate(zip(given.scenes, prompts_of(given.scenes), strict=True)):
        image = render(scene)
        groups = text_groups(adapter, image, prompt)
        queries = np.concatenate([groups[name] for name in ("question", "answer") if name in CLOSED[condition]])
        edit = Knockout(queries, groups["image"], 0, len(adapter.language_blocks) - 1)
        expected = run_plain(adapter, [PairRuns("p", Run(image, prompt))], [(InBlocks(0, edit),)])[0]
        assert close(found[row], expected)


def where(shown: Sequence[Scene]) -> list[str]:
    """Questions that name the object that they ask for."""
    return [ask(scene, "object_to_slot", number % 3).prompt for number, scene in enumerate(shown)]


def asked_where(adapter: Adapter, shown: Sequence[Scene]) -> Given:
    prepared = adapter.prepare([render(scene) for scene in shown], where(shown))
    return Given(
        prepared.inputs | {"attention_mask": whole_mask(prepared.inputs["attention_mask"])}, shown, adapter, adapter.processor.tokenizer
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_gate_is_knockouts_in_windows_of_layers(adapter: Adapter, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below it the name alone sees the image, above it no text; the name is seen above it only, or, at first, everywhere."""
    monkeypatch.setattr(Gated, "GATE", 1)
    monkeypatch.setattr(Gated, "BLIND", 1.0)
    gated, given = Gated(), replace(asked_where(adapter, scenes(3)), share=share)
    handles = masks_by_layer(adapter)
    found = logits(adapter, gated.arranged(given, np.random.default_rng(0)))
    for handle in handles:
        handle.remove()
    last = len(adapter.language_blocks) - 1
    for row, (scene, prompt) in enumerate(zip(given.scenes, where(given.scenes), strict=True)):
        image = render(scene)
        groups = text_groups(adapter, image, prompt)
        position = word_position(adapter, image, prompt, scene.objects)
        assert position is not None
        name, text = np.array([position]), np.concatenate([groups["question"], groups["answer"]])
        rest = text[text != position]
        edits = [Knockout(rest, groups["image"], 0, last), Knockout(name, groups["image"], 1, last)]
        if share:
            edits.append(Knockout(rest[rest > position], name, 0, 0))
        expected = run_plain(adapter, [PairRuns("p", Run(image, prompt))], [tuple(InBlocks(0, edit) for edit in edits)])[0]
        assert close(found[row], expected)


def test_the_name_that_is_seen_below_the_gate_is_any_turns() -> None:
    """Two turns of three tokens, the name in the middle; by hand what changes."""
    seen = torch.ones(6, 6, dtype=torch.bool).tril() & (torch.arange(6)[:, None] // 3 == torch.arange(6)[None, :] // 3)
    names = torch.tensor([[False, True, False, False, True, False]])
    turns = torch.tensor([[0, 0, 0, 1, 1, 1]])
    for ahead in (None, 0, 1):
        made = with_other_names(seen[None, None], names, ~names, turns, [ahead])[0, 0]
        expected = seen.clone()
        # What the last token of each turn sees of the names: none, its own, the other's.
        expected[2, 1] = expected[5, 4] = ahead == 0
        expected[2, 4] = expected[5, 1] = ahead == 1
        assert torch.equal(made, expected)


def test_a_name_sees_the_image_alone_or_everything_else_does(adapter: Adapter) -> None:
    given = asked_where(adapter, scenes(2))
    conditions = Gated().conditions()
    last = len(adapter.language_blocks) - 1
    for condition, blind_to_name in (("image closed to all but the name", False), ("image closed to the name", True)):
        found = logits(adapter, conditions[condition](given, np.random.default_rng(0)))
        for row, (scene, prompt) in enumerate(zip(given.scenes, where(given.scenes), strict=True)):
            image = render(scene)
            groups = text_groups(adapter, image, prompt)
            text = np.concatenate([groups["question"], groups["answer"]])
            position = word_position(adapter, image, prompt, scene.objects)
            edit = Knockout(text[(text == position) == blind_to_name], groups["image"], 0, last)
            expected = run_plain(adapter, [PairRuns("p", Run(image, prompt))], [(InBlocks(0, edit),)])[0]
            assert close(found[row], expected)


def test_visual_tokens_in_another_order_are_permuted_tokens_that_keep_their_ids(adapter: Adapter) -> None:
    given = asked(adapter, scenes(2))
    made = Rotary().arranged(given, np.random.default_rng(4))
    visual = given.inputs["input_ids"] == adapter.model.config.image_token_id
    turns = np.random.default_rng(4).random((2, int(visual[0].sum()))).argsort(axis=1)
    permuted = torch.as_tensor(turns.argsort(axis=1))
    ids = given.inputs["position_ids"].clone()
    for row in range(2):
        at = visual[row].nonzero()[:, 0]
        ids[..., row, at] = ids[..., row, at[permuted[row]]]
    plain = adapter.prepare([render(scene) for scene in given.scenes], prompts_of(given.scenes))
    plain.inputs["position_ids"] = ids
    moved = {"connector": lambda values: values.gather(1, permuted[:, :, None, None].expand_as(values))}
    expected = adapter.run(plain, edits=moved)[0]
    assert close(logits(adapter, made), expected)
    assert not close(logits(adapter, given.inputs), expected)


def test_ids_are_those_of_other_cells_or_all_the_same(adapter: Adapter) -> None:
    given = asked(adapter, scenes(1) * 60)
    made = Order().arranged(given, np.random.default_rng(0))
    assert set(made) == set(given.inputs)
    before, after = given.inputs["position_ids"], made["position_ids"]
    visual = given.inputs["input_ids"] == adapter.model.config.image_token_id
    assert torch.equal(before[..., ~visual], after[..., ~visual])
    of_rows = zip(before.movedim(-2, 0), after.movedim(-2, 0), visual, strict=True)
    rows = [(old[..., seen].reshape(-1, 36), new[..., seen].reshape(-1, 36)) for old, new, seen in of_rows]
    same = [bool((new == new[:, :1]).all()) for _, new in rows]
    assert 4 <= sum(same) <= 22
    for (old, new), collapsed in zip(rows, same, strict=True):
        if collapsed:
            assert (new[:, 0] - old.double().mean(dim=1)).abs().max() <= 0.5
        else:
            assert sorted(map(tuple, new.T.tolist())) == sorted(map(tuple, old.T.tolist()))


def test_thirds_of_rows_and_columns_change_places() -> None:
    grid = thirds(36, np.random.default_rng(3)).reshape(6, 6)
    assert sorted(grid.ravel().tolist()) == list(range(36))
    assert grid.ravel().tolist() != list(range(36))
    for lines in (grid // 6, (grid % 6).T):
        assert (lines == lines[:, :1]).all()
        assert (lines[::2, 0] + 1 == lines[1::2, 0]).all()
        assert (lines[::2, 0] % 2 == 0).all()


def test_a_second_image_shows_the_same_objects_anywhere() -> None:
    scene, generator = scenes(1)[0], np.random.default_rng(0)
    seconds = [READING["direct"]().second_image(scene, generator) for _ in range(60)]
    assert len({second.contents for second in seconds if second}) == 6
    assert {second.boxes for second in seconds if second} == {scene.boxes}
    assert READING["redundant"]().second_image(scene, generator) is None


def test_every_mechanism_of_the_configuration_is_there_once() -> None:
    assert sorted([*MECHANISMS, *READING]) == sorted(get_args(Planted))


@pytest.mark.parametrize("name", READING)
def test_a_family_that_is_not_taught_by_masks_is_refused(name: str, tmp_path: Path) -> None:
    folder = new_checkpoint(tmp_path / "g", "gemma3", lesson_words([SQUARES]))
    with pytest.raises(UserError, match="gemma3 cannot be taught by masks; start from llava"):
        READING[name]().construct(load_adapter(folder, device="cpu"))


@pytest.mark.parametrize("name", ["direct", "gated", "order"])
def test_workers_make_the_batches_that_training_would(adapter: Adapter, name: str) -> None:
    recipe = adapter.recipe.organism
    assert recipe is not None
    course = Course({"squares": SQUARES}, 3, 2, 0, replace(recipe.teaching, by_errors=False, captions_later=0.0, captions_only=0.0))
    with ThreadPoolExecutor(1, initializer=be_worker, initargs=(lambda: adapter, course, READING[name])) as pool:
        made = list(training._made_by(pool, range(1, 3)))
    assert [step for step, _ in made] == [1, 2]
    for step, batches in made:
        (expected,) = training._batches(adapter, adapter.processor, course, READING[name](), step, [])
        assert [batch.lessons for batch in batches] == [expected.lessons]
        assert all(torch.equal(value, batches[0].inputs[key]) for key, value in expected.inputs.items())


def test_a_batch_with_second_images_is_learned_from(adapter: Adapter) -> None:
    recipe = adapter.recipe.organism
    assert recipe is not None
    course = Course({"squares": SQUARES}, 3, 2, 0, replace(recipe.teaching, by_errors=False, captions_later=0.0, captions_only=0.0))
    direct = READING["direct"]()
    batches = training._batches(adapter, adapter.processor, course, direct, 0, [])
    assert [len(lesson.shown) for lesson in batches[0].lessons] == [2, 2]
    adapter.model.requires_grad_(True)
    try:
        assert np.isfinite(training._learn(adapter, direct, batches, course, 0))
        assert all(parameter.grad.abs().sum() > 0 for parameter in adapter.language_blocks[0].parameters())
    finally:
        adapter.model.requires_grad_(False).zero_grad()
