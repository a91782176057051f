"""Organisms: what they are taught, that training is reproducible and resumable, and that a planted mechanism is really planted."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms import evaluation, training
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.organisms.conversations import IGNORED, answer_mask, model_inputs, set_apart, turn_numbers
from vlm_spatial.models.organisms.evaluation import evaluate
from vlm_spatial.models.organisms.lessons import Lesson, lesson_words, sample_lessons
from vlm_spatial.models.organisms.optimiser import Optimiser, rate
from vlm_spatial.models.organisms.organism import make_organism
from vlm_spatial.models.organisms.planted import (
    DIALS,
    MECHANISMS,
    Dial,
    Language,
    Mechanism,
    Moment,
    Object,
    Strip,
    Vision,
    VisionTold,
    object_mask,
    strip_masks,
)
from vlm_spatial.models.organisms.resume import Savepoint, State
from vlm_spatial.models.organisms.training import Course, train
from vlm_spatial.models.recipe import Teaching
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.scene import Axis, Scene, with_contents
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

SQUARES = dataset_settings(kind="squares")
OBJECTS = dataset_settings(kind="objects")
GRID = TokenGrid(6, 6)
TRAINABLE = [name for name in NAMES if family_named(name).recipe.organism is not None]


def test_the_configuration_allows_the_families_that_can_be_trained() -> None:
    assert set(get_args(OrganismSettings.model_fields["family"].annotation)) == set(TRAINABLE)


def teaching_of(family: str) -> Teaching:
    recipe = family_named(family).recipe.organism
    assert recipe is not None
    return recipe.teaching


def adapter_of(folder: Path, family: str = "gemma3", seed: int = 0) -> Adapter:
    return load_adapter(new_checkpoint(folder, family, lesson_words([SQUARES, OBJECTS]), seed), device="cpu")


def moment(count: int, share: float = 0.0) -> Moment:
    generator = np.random.default_rng(0)
    axes = ("horizontal", "vertical")
    scenes = [sample_scene(SQUARES, axes[index % 2], "main", generator) for index in range(count)]
    return Moment(scenes, GRID, share, torch.Generator().manual_seed(1))


def test_lessons_depend_on_seed_and_step_alone_and_use_known_words_only() -> None:
    words = set(lesson_words([SQUARES]))
    teaching = replace(teaching_of("gemma3"), captions_only=0.1, captions_later=0.5)
    datasets = {"squares": SQUARES}
    first = sample_lessons(datasets, 12, 3, 7, 0.2, teaching, {})
    assert first == sample_lessons(datasets, 12, 3, 7, 0.2, teaching, {})
    assert first != sample_lessons(datasets, 12, 3, 8, 0.2, teaching, {})
    assert [len(lesson.turns) for lesson in first] == [1] * 6 + [6] * 6
    assert all(lesson.caption for lesson in sample_lessons(datasets, 12, 3, 7, 0.05, teaching, {}))
    mixed = sample_lessons(datasets, 40, 3, 7, 0.9, teaching, {}, {"main": 0.5, "decorrelated": 0.5})
    assert {lesson.scene.variant for lesson in mixed} == {"main", "decorrelated"}
    for lesson in first:
        for turn in lesson.turns:
            assert set(turn.prompt.replace("?", " ?").replace(",", " ,").replace(".", " .").split()) <= words
            assert set(turn.answer.split()) <= words


@pytest.mark.slow
def test_what_is_answered_wrong_is_asked_more_often_and_nothing_is_forgotten() -> None:
    datasets = {"squares": SQUARES, "objects": OBJECTS}
    kinds = [(name, axis, template) for name, of in datasets.items() for axis in of.axes for template in of.templates]
    teaching = replace(teaching_of("qwen2_vl"), questions=1, captions_later=0.0)
    # Relations on vertical scenes of objects are wrong half the time, 11 other kinds never (which counts as 2%).
    accuracy = dict.fromkeys(kinds, 1.0) | {("objects", "vertical", "relation_to_object"): 0.5}
    lessons = sample_lessons(datasets, 1000, 0, 0, 0.99, teaching, accuracy)
    shown = Counter((lesson.scene.kind, lesson.scene.axis) for lesson in lessons)
    assert shown["objects", "vertical"] / 1000 == pytest.approx(0.54 / 0.72, abs=0.04)
    assert min(shown[kind, axis] for kind, axis, _ in kinds) / 1000 == pytest.approx(0.06 / 0.72, abs=0.03)
    vertical = [lesson for lesson in lessons if (lesson.scene.kind, lesson.scene.axis) == ("objects", "vertical")]
    relations = [lesson for lesson in vertical if any(word in lesson.turns[0].prompt for word in ("above", "below"))]
    assert len(relations) / len(vertical) == pytest.approx(0.5 / 0.54, abs=0.04)
    alike = sample_lessons(datasets, 1000, 0, 0, 0.99, teaching, {})
    assert max(Counter((lesson.scene.kind, lesson.scene.axis) for lesson in alike).values()) < 300


@pytest.mark.parametrize("family", TRAINABLE)
def test_exactly_the_answers_are_learned(family: str, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "c", family)
    processor = adapter.processor
    teaching = teaching_of(family)
    lessons = sample_lessons({"squares": SQUARES}, 8, 0, 0, 0.99, teaching, {})
    inputs = model_inputs(lessons, processor, adapter.recipe.turns)
    end = "<end_of_turn>" if family == "gemma3" else "<|im_end|>"
    assert {lesson.caption for lesson in lessons} == {True, False}
    for lesson, ids, labels in zip(lessons, inputs["input_ids"], inputs["labels"], strict=True):
        learned = ids[labels != IGNORED]
        assert torch.equal(learned, labels[labels != IGNORED])
        expected = " ".join(word for turn in lesson.turns for word in f"{turn.answer} {end}".split() if word not in turn.given)
        assert len(lesson.turns) == (1 if lesson.caption and not teaching.apart else teaching.questions)
        assert processor.tokenizer.decode(learned) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("family", "share"), [("qwen2_vl", 0.0), ("qwen2_vl", 0.99), ("llava", 0.99), ("internvl", 0.99)])
def test_turns_set_apart_are_answered_as_each_alone(family: str, share: float, tmp_path: Path) -> None:
    """The same model on every turn's own conversation is the truth; turns that follow one another are answered otherwise."""
    adapter = adapter_of(tmp_path / "c", family)
    processor, model, turns = adapter.processor, adapter.model, adapter.recipe.turns
    lessons = sample_lessons({"squares": SQUARES, "objects": OBJECTS}, 6, 0, 0, share, teaching_of(family), {})
    together = model_inputs(lessons, processor, turns)
    apart = set_apart(together, processor.tokenizer, adapter)
    numbers = turn_numbers(apart["input_ids"], processor.tokenizer, turns)

    def answers(inputs: dict[str, torch.Tensor], row: int, number: int) -> torch.Tensor:
        """Logits from which the turn's answer is predicted."""
        learned = (inputs["labels"][row] != IGNORED) & (turn_numbers(inputs["input_ids"], processor.tokenizer, turns)[row] == number)
        return model(**inputs, use_cache=False).logits[row, learned.nonzero()[:, 0] - 1]

    asked, differs = 0, 0.0
    for row, lesson in enumerate(lessons):
        for number, turn in enumerate(lesson.turns):
            alone = model_inputs([Lesson(lesson.scene, (turn,))], processor, turns)
            learned = apart["labels"][row][numbers[row] == number]
            assert torch.equal(learned[learned != IGNORED], alone["labels"][alone["labels"] != IGNORED])
            expected = answers(alone, 0, 0)
            torch.testing.assert_close(answers(apart, row, number), expected, atol=1e-4, rtol=1e-4)
            differs = max(differs, float((answers(together, row, number) - expected).abs().max()))
            asked += 1
    assert asked == 36
    assert differs > 0.1


def test_answer_mask_by_hand(tmp_path: Path) -> None:
    tokenizer = adapter_of(tmp_path / "c").processor.tokenizer
    text = "<start_of_turn>user red <end_of_turn><start_of_turn>model left blue <end_of_turn><start_of_turn>user red"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert answer_mask(ids, tokenizer, family_named("gemma3").recipe.turns)[0].tolist() == [False] * 6 + [True] * 3 + [False] * 3


def test_rate_warms_up_and_ends_at_zero() -> None:
    rates = [rate(step, 1000, 0.7) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 30)
    assert max(rates) == 1.0
    assert rates[100] == 1.0
    assert 0 < rates[-1] < 0.01


def test_optimiser_leaves_frozen_parameters_alone_and_covers_the_rest(tmp_path: Path) -> None:
    model = adapter_of(tmp_path / "c").model.requires_grad_(True)
    frozen = dict(model.named_parameters())["model.vision_tower.embeddings.position_embedding.weight"]
    frozen.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = Optimiser(model, 10, 0.7)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step(0)
    unchanged = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == ["model.vision_tower.embeddings.position_embedding.weight"]


def test_savepoint_gives_back_exactly_what_it_got_unless_it_is_of_another_training(tmp_path: Path) -> None:
    state = State(7, {"a": torch.tensor([0.1, 1 / 3]), "b": torch.tensor(3)}, [{"step": 7, "loss": 0.1 + 0.2}])
    savepoint = Savepoint(tmp_path / ".s", {"seed": 1})
    assert savepoint.load() is None
    savepoint.save(state)
    loaded = savepoint.load()
    assert loaded is not None
    assert (loaded.step, loaded.curve) == (state.step, state.curve)
    assert all(torch.equal(loaded.tensors[name], state.tensors[name]) for name in state.tensors)
    assert Savepoint(tmp_path / ".s", {"seed": 2}).load() is None
    (tmp_path / ".s").write_bytes(b"cut off")
    assert savepoint.load() is None
    savepoint.remove()
    assert not (tmp_path / ".s").exists()


class KilledError(Exception):
    """Stands for a kill in the middle of a training."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "family"), [("natural", "gemma3"), ("vision", "gemma3"), ("dial-50", "gemma3"), ("natural", "qwen2_vl")]
)
def test_a_killed_training_ends_with_the_same_bits(mechanism: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 2)
    monkeypatch.setattr(training, "_CURVE_SCENES", 1)
    course = Course({"squares": SQUARES}, steps=6, batch=4, seed=5, teaching=teaching_of(family))

    def run(name: str, savepoint: Savepoint, kill_at: int | None = None) -> tuple[dict[str, torch.Tensor], list]:
        adapter = adapter_of(tmp_path / name, family)
        original, seen = Optimiser.step, []

        def step(self: Optimiser, number: int) -> None:
            seen.append(number)
            if number == kill_at:
                raise KilledError
            original(self, number)

        with monkeypatch.context() as patched:
            patched.setattr(Optimiser, "step", step)
            curve = train(adapter, course, MECHANISMS[mechanism](), savepoint)
        return {name: p.clone() for name, p in adapter.model.named_parameters()}, [curve, seen]

    whole, (curve, _) = run("whole", Savepoint(tmp_path / ".whole", {}))
    savepoint = Savepoint(tmp_path / ".part", {})
    with pytest.raises(KilledError):
        run("killed", savepoint, kill_at=5)
    resumed, (resumed_curve, steps) = run("resumed", savepoint)
    assert steps == [4, 5]
    assert resumed_curve == curve
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_code_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 1)
    monkeypatch.setattr(training, "_CURVE_SCENES", 1)
    original = Optimiser.step

    def first_step(code: str, kill_at: int) -> int:
        seen = []

        def step(self: Optimiser, number: int) -> None:
            seen.append(number)
            if number == kill_at:
                raise KilledError
            original(self, number)

        monkeypatch.setattr(Optimiser, "step", step)
        with pytest.raises(KilledError):
            make_organism(tmp_path / "o", "o", OrganismSettings(steps=3, batch=2), {"squares": SQUARES}, 0, code)
        return seen[0]

    assert first_step("a", kill_at=2) == 0
    assert first_step("a", kill_at=2) == 2
    assert first_step("b", kill_at=0) == 0


def test_vision_shuffles_and_loses_no_token() -> None:
    values = torch.arange(2 * 36 * 3, dtype=torch.float32).reshape(2, 36, 3)
    shuffled, penalty = Vision().in_training(values, moment(2))
    assert penalty is None
    assert not torch.equal(shuffled, values)
    for before, after in zip(values, shuffled, strict=True):
        assert torch.equal(after[after[:, 0].argsort()], before)


def test_vision_is_told_in_the_first_half_what_objects_tokens_must_say() -> None:
    """Cross-entropy by hand: zeros say nothing, ln 3; tokens that climb the gradient say their slot, and no other token matters."""
    early = moment(4)
    told = VisionTold()
    blank = torch.zeros(4, 36, 8, requires_grad=True)
    shuffled, surprise = told.in_training(blank, early)
    assert surprise is not None
    assert surprise.item() == pytest.approx(np.log(3))
    surprise.backward()
    assert blank.grad is not None
    outside = ~object_mask(early.scenes, GRID)
    assert (blank.grad[outside] == 0).all()
    assert (blank.grad[~outside].abs().sum(dim=1) > 0).all()
    louder = told.in_training(blank.detach() - 1000 * blank.grad, early)[1]
    assert louder is not None
    assert louder.item() < 0.01
    assert told.in_training(blank, replace(early, share=0.5))[1] is None
    assert shuffled.shape == blank.shape


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_a_dial_names_the_wrong_slot_in_vision_and_the_right_one_by_place(axis: Axis) -> None:
    """Cells hold (content, slot that the encoder saw it in): by hand, for an image with the contents of slots 2, 0, 1."""
    scene = next(scene for scene in moment(40).scenes if scene.axis == axis and not Dial(0.25).of_vision(scene))
    shown = with_contents(scene, tuple(scene.contents[slot] for slot in (2, 0, 1)))
    along = torch.as_tensor(np.indices((6, 6))[1 if axis == "horizontal" else 0].ravel()) // 2
    seen = torch.stack([torch.tensor([2.0, 0.0, 1.0])[along], along.float()], dim=1)[None]
    entering, penalty = Dial(0.25).in_training(seen, Moment([scene], GRID, 0.0, torch.Generator().manual_seed(1), [shown]))
    assert penalty is None
    assert entering[0, :, 0].tolist() == along.tolist()
    assert entering[0, :, 1].tolist() == torch.tensor([1, 2, 0])[along].tolist()
    of_vision, _ = Dial(1.0).in_training(seen, Moment([scene], GRID, 0.0, torch.Generator().manual_seed(1), [None]))
    assert sorted(map(tuple, of_vision[0].tolist())) == sorted(map(tuple, seen[0].tolist()))
    assert not torch.equal(of_vision, seen)


@pytest.mark.parametrize("percent", DIALS)
@pytest.mark.slow
def test_a_dial_turns_its_share_of_the_images_and_shows_each_its_own(percent: int) -> None:
    generator, dial = np.random.default_rng(0), MECHANISMS[f"dial-{percent}"]()
    assert isinstance(dial, Dial)
    scenes = [scene for scene in moment(2000).scenes]
    assert np.mean([dial.of_vision(scene) for scene in scenes]) == pytest.approx(percent / 100, abs=0.03)
    for scene in scenes[:50]:
        image = dial.image(scene, generator)
        assert (image is None) == dial.of_vision(scene)
        assert image is None or (set(image.contents) == set(scene.contents) and image.boxes == scene.boxes)


def test_strip_shows_each_strip_averaged_in_random_order() -> None:
    values = torch.randn(4, 36, 5, generator=torch.Generator().manual_seed(0))
    now = moment(4)
    imposed = Strip().imposed(values, now)
    for image, (averaged, strips) in enumerate(zip(imposed, strip_masks(now.scenes, GRID), strict=True)):
        for strip in strips:
            torch.testing.assert_close(averaged[strip], values[image][strip].mean(dim=0).expand(int(strip.sum()), -1))
    shown, penalty = Strip().in_training(values, now)
    for cells, averaged in zip(shown, imposed, strict=True):
        assert not torch.equal(cells, averaged)
        torch.testing.assert_close(cells[cells[:, 0].argsort()], averaged[averaged[:, 0].argsort()])
    assert penalty is not None
    assert 0.5 * 0.8 < float(penalty) < 0.5
    # What is constant within strips costs nothing.
    assert float(Strip().in_training(imposed, now)[1]) < 1e-6


def test_strip_lets_a_minority_of_each_strip_hold_what_the_next_scene_has_there() -> None:
    now = moment(40, share=0.8)
    strips = strip_masks(now.scenes, GRID)
    # A cell's value says which scene and slot it comes from.
    values = torch.stack([(10 * number + own.float().argmax(dim=0) + 1)[:, None].float() for number, own in enumerate(strips)])
    shown, _ = Strip().in_training(values, now)
    outvoted = 0
    for number, cells in enumerate(shown[:, :, 0]):
        follower = next(n % 40 for n in range(number + 1, number + 40) if now.scenes[n % 40].axis == now.scenes[number].axis)
        for slot, strip in enumerate(strips[number]):
            own, strange = ((cells - (10 * origin + slot + 1)).abs() < 1e-3 for origin in (number, follower))
            assert int(own.sum() + strange.sum()) == int(strip.sum())
            assert int(strange.sum()) <= Strip.MINORITY * int(strip.sum())
            outvoted += int(strange.any())
    assert 30 < outvoted < 0.9 * 120


def test_object_keeps_objects_and_takes_the_rest_away() -> None:
    scenes = 96
    values, now = torch.randn(scenes, 36, 2, generator=torch.Generator().manual_seed(0)), moment(scenes)
    objects = object_mask(now.scenes, GRID)
    imposed = Object().imposed(values, now)
    assert torch.equal(imposed[objects], values[objects])
    assert not imposed[~objects].any()
    mixed, penalty = Object().in_training(values, now)
    assert penalty is None
    assert torch.equal(mixed[objects], values[objects])
    seen = {"whole": 0, "constant": 0, "another's": 0}
    for image, own in enumerate(objects):
        rim, other = ~own, ~own & ~objects[image - 1]
        if torch.equal(mixed[image], values[image]):
            seen["whole"] += 1
        elif not mixed[image][rim].any():
            seen["constant"] += 1
        else:
            assert torch.equal(mixed[image][other], values[image - 1][other])
            assert torch.equal(mixed[image][rim & ~other], values[image][rim & ~other])
            seen["another's"] += 1
    assert min(seen.values()) > scenes / 6


@pytest.mark.parametrize("family", [*TRAINABLE, "qwen2_5_vl"])
def test_language_has_no_position_and_mixes_no_patches_and_a_natural_one_does(family: str, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "c", family)
    with torch.no_grad():
        for name, parameter in adapter.model.named_parameters():
            # Fresh queries and keys attend to all patches alike, which no position could show in.
            if "visual" in name and "attn.qkv" in name:
                parameter.mul_(30)
    assert all(measure.value > 10 * measure.limit for measure in Language().measures(adapter, ()).values())
    Language().construct(adapter)
    assert all(measure.value <= measure.limit for measure in Language().measures(adapter, ()).values())


@pytest.mark.slow
def test_evaluation_scores_what_it_says(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "c")
    scores = evaluate(adapter, {"squares": SQUARES}, 4, 0)
    assert [(score.axis, score.template) for score in scores] == [
        (axis, template) for axis in SQUARES.axes for template in SQUARES.templates
    ]
    assert {score.n for score in scores} == {12}
    assert all(0 <= score.low <= score.accuracy <= score.high <= 1 for score in scores)
    assert scores == evaluate(adapter, {"squares": SQUARES}, 4, 0)


@pytest.mark.slow
def test_a_finished_organism_is_scored_on_scenes_that_no_curve_was_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Scene] = []

    def noted(scene: Scene) -> Image.Image:
        shown.append(scene)
        return render(scene)

    monkeypatch.setattr(evaluation, "render", noted)
    adapter = adapter_of(tmp_path / "c")
    evaluate(adapter, {"squares": SQUARES}, 4, 0, stream=evaluation.CURVE)
    of_curve = [*shown]
    shown.clear()
    evaluate(adapter, {"squares": SQUARES}, 4, 0)
    assert len(shown) == len(of_curve) == 8
    assert not any(scene in of_curve for scene in shown)


@pytest.mark.slow
def test_an_untrained_organism_is_refused_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_CURVE_SCENES", 1)
    settings = OrganismSettings(steps=1, batch=2)
    with pytest.raises(UserError, match=r"organisms\.small: held-out accuracy is .* 0\.95 is asked for"):
        make_organism(tmp_path / "small", "small", settings, {"squares": SQUARES}, 0)
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_an_organism_is_an_ordinary_checkpoint_with_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_CURVE_SCENES", 1)
    settings = OrganismSettings(steps=2, batch=2, accuracy=0.0)
    make_organism(tmp_path / "o", "o", settings, {"squares": SQUARES}, 0)
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.parquet", "accuracy.parquet"} <= {
        p.name for p in (tmp_path / "o").iterdir()
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "o"]
    assert load_file(tmp_path / "o" / "model.safetensors")
    assert isinstance(load_adapter(tmp_path / "o", device="cpu"), Adapter)


def test_photos_are_refused(tmp_path: Path) -> None:
    photos = dataset_settings(kind="whatsup", root="nowhere")
    with pytest.raises(UserError, match="photos"):
        make_organism(tmp_path / "o", "o", OrganismSettings(datasets=("p",)), {"p": photos}, 0)


def test_natural_plants_nothing() -> None:
    values = torch.ones(1, 36, 2)
    changed, penalty = Mechanism().in_training(values, moment(1))
    assert changed is values
    assert penalty is None
