"""Photographs with boxes: scenes, questions and pairs against the boxes themselves, and every way in which they can be wrong."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from natural_set import COLUMNS, write_natural_set
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.reading import load_config, parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.probes.layout import group, word_numbers
from vlm_spatial.scenes import choice_cache, natural_choice
from vlm_spatial.scenes.annotations import read_annotations
from vlm_spatial.scenes.chosen import Choices, Chosen
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.natural_drawing import letterbox, natural_scene
from vlm_spatial.scenes.natural_pairs import equal_blocks
from vlm_spatial.scenes.natural_questions import content_named, is_there, spoken, with_article
from vlm_spatial.scenes.questions import ask
from vlm_spatial.scenes.sources.registry import dataset_files, source_of
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid, matched_blocks
from vlm_spatial.workflow import file_cache

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).parents[2] / "shared" / "coco_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"the sample of COCO is not at {SAMPLE}")
SPLITS = {"train": 4, "validation": 2, "test": 6}
PAIRS = {"vision": 6, "language": 1, "conflict": 6}
TEMPLATES = ["slot_to_object", "object_to_slot", "relation_to_object", "content"]


def settings(root: Path, kind: str = "coco", **changes: Any) -> dict[str, Any]:
    file = {"annotations": str(root / "instances.json")} if kind == "coco" else {"boxes": str(root / "boxes.csv")}
    return {"kind": kind, "images": str(root / "photos"), "scenes": SPLITS, "pairs": PAIRS, **file} | changes


def run(folder: Path, values: dict[str, Any]) -> Dataset:
    scenes_stage(Job({"dataset": values, "name": "test"}, {}, {"folder": folder}))
    return Dataset.open(folder)


def refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        source_of(values["kind"]).plan(dataset_settings(values), 0)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, list[float]]]]:
    root = tmp_path_factory.mktemp("natural")
    return root, write_natural_set(root, 24)


@pytest.fixture(scope="module")
def coco(made: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return run(tmp_path_factory.mktemp("coco") / "out", settings(made[0], templates=TEMPLATES))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_natural_set(tmp_path / "set", 9)
    return tmp_path / "set"


def aside(dataset: Dataset) -> dict[str, str]:
    return dict(pl.read_parquet(dataset.folder / "set_aside.parquet").iter_rows())


@pytest.mark.slow
def test_boxes_lie_where_the_things_are(made: tuple[Path, dict[str, dict[str, list[float]]]], coco: Dataset) -> None:
    colours = {"brown": (165, 42, 42), "purple": (128, 0, 128), "teal": (0, 128, 128), "black": (0,) * 3, "red": (255, 0, 0)}
    named = {"dining table": "brown", "umbrella": "purple", "scissors": "teal", "TV": "black", "Äpfel": "red"}
    seen = 0
    for row in coco.scenes.filter(pl.col("variant").is_in(["main", "mirror"])).iter_rows(named=True):
        pixels = np.asarray(coco.image(row["scene_id"])).astype(int)
        assert pixels.shape == (448, 448, 3)
        truth = made[1][row["background"]]
        assert {spoken(label) for label in truth} == set(row["objects"])
        for word, (left, top, right, bottom) in zip(row["objects"], row["boxes"], strict=True):
            inner = pixels[int(top) + 4 : int(bottom) - 4, int(left) + 4 : int(right) - 4]
            if word in named:
                assert np.abs(inner - colours[named[word]]).mean() < 12
                seen += 1
        first = 0 if row["axis"] == "horizontal" else 1
        centres = [box[first] + box[first + 2] for box in row["boxes"]]
        assert centres == sorted(centres)
    assert seen > 20


def test_padding_is_in_no_token_set(coco: Dataset) -> None:
    grid = TokenGrid(16, 16)
    padded = 0
    for row in coco.scenes.iter_rows(named=True):
        tokens = coco.tokens(row["scene_id"], grid)
        pixels = np.asarray(coco.image(row["scene_id"])).reshape(16, 28, 16, 28, 3)
        grey = (np.abs(pixels.astype(int) - 127).max(axis=-1) <= 1).all(axis=(1, 3)).ravel()
        sets = {name: tokens.mask(name, (0, 1, 2)) for name in ("object", "strip", "rim", "background", "all")}
        assert not any((mask & grey).any() for mask in sets.values())
        assert np.array_equal(sets["all"], tokens.inside)
        assert np.array_equal(sets["strip"], tokens.inside)
        assert np.array_equal(sets["object"] ^ sets["background"], tokens.inside)
        assert (tokens.strips.sum(axis=0) == tokens.inside).all()
        # No cell of padding has a slot, every other one that of its strip.
        assert np.array_equal(tokens.strip_of_cell < 0, ~tokens.inside)
        assert all(tokens.strips[strip, cell] for cell, strip in enumerate(tokens.strip_of_cell) if strip >= 0)
        labelled = group(coco, coco.scenes.filter(scene_id=row["scene_id"]), grid, word_numbers(coco.scenes), 3)
        assert np.array_equal(labelled.strips[0] < 0, ~tokens.inside)
        padded += bool(grey.any())
        assert (row["picture"] is None) == (not grey.any())
    assert padded > 5


@pytest.mark.slow
def test_a_native_canvas_has_the_photograph_s_shape(made: tuple[Path, Any], tmp_path: Path) -> None:
    dataset = run(tmp_path / "out", settings(made[0], canvas="native"))
    sizes = set(dataset.scenes.select("width", "height").iter_rows())
    assert sizes == {(448, 336), (336, 448), (448, 448)}
    for row in dataset.scenes.iter_rows(named=True):
        assert dataset.image(row["scene_id"]).size == (row["width"], row["height"])
        assert row["picture"] is None
        for left, top, right, bottom in row["boxes"]:
            assert 0 <= left < right <= row["width"]
            assert 0 <= top < bottom <= row["height"]
    of_scene = {row["scene_id"]: (row["width"], row["height"]) for row in dataset.scenes.iter_rows(named=True)}
    vision = dataset.pairs.filter(experiment="vision")
    assert vision.height == 6
    for pair in vision.iter_rows(named=True):
        shown = {of_scene[pair[key]] for key in ("clean_scene", "counterfactual_scene", "unrelated_scene") if pair[key] is not None}
        assert len(shown) == 1
    assert dataset.pairs.filter(experiment="conflict").height
    for pair in dataset.pairs.filter(experiment="conflict").iter_rows(named=True):
        width, height = of_scene[pair["clean_scene"]]
        tokens = dataset.tokens(pair["clean_scene"], TokenGrid(height // 28, width // 28))
        first, second = matched_blocks(tokens, *pair["slots"], "object")
        assert len(first) == len(second) > 0


@pytest.mark.slow
def test_a_photograph_as_it_is_keeps_every_pixel(made: tuple[Path, Any], tmp_path: Path) -> None:
    pairs = {"vision": 4, "language": 0, "conflict": 0}
    dataset = run(tmp_path / "out", settings(made[0], canvas="as_is", pairs=pairs, variants={}))
    for row in dataset.scenes.filter(variant="main").iter_rows(named=True):
        with Image.open(made[0] / "photos" / row["background"]) as photo:
            assert photo.convert("RGB").tobytes() == dataset.image(row["scene_id"]).tobytes()
        truth = {spoken(label): [x, y, x + w, y + h] for label, (x, y, w, h) in made[1][row["background"]].items()}
        assert [truth[word] for word in row["objects"]] == row["boxes"]
        assert row["picture"] is None
    assert dataset.pairs.height == 4
    with pytest.raises(ValueError, match=r"pairs\.conflict: exchanges blocks .* set it to 0, or canvas: native"):
        dataset_settings(settings(made[0], canvas="as_is"))


def test_questions_name_the_objects_and_are_right(coco: Dataset) -> None:
    boxes = {row["scene_id"]: dict(zip(row["objects"], row["boxes"], strict=True)) for row in coco.scenes.iter_rows(named=True)}
    asked = coco.questions.filter(pl.col("variant") == "main")
    assert asked.height
    for row in asked.iter_rows(named=True):
        of_scene, prompt = boxes[row["scene_id"]], row["prompt"]
        first = 0 if row["axis"] == "horizontal" else 1
        order = sorted(of_scene, key=lambda word: of_scene[word][first] + of_scene[word][first + 2])
        assert row["answer"] in row["candidates"]
        if row["template"] != "content":
            assert all(f"the {word}" in prompt for word in of_scene), prompt
        match row["template"]:
            case "slot_to_object":
                ends = {"furthest to the left": 0, "highest up": 0, "between": 1, "furthest to the right": 2, "lowest down": 2}
                [place] = [place for words, place in ends.items() if words in prompt]
                assert row["answer"] == order[place]
            case "object_to_slot":
                [word] = [word for word in of_scene if f", is the {word} " in prompt or f", are the {word} " in prompt]
                names = ("left", "middle", "right") if first == 0 else ("top", "middle", "bottom")
                assert row["answer"] == names[order.index(word)]
            case "relation_to_object":
                [reference] = [word for word in of_scene if f"the {word}:" in prompt]
                step = 1 if "right of" in prompt or "below" in prompt else -1
                assert row["answer"] == order[order.index(reference) + step]
            case "content":
                assert (row["answer"] == "yes") == any(is_there(word) == prompt for word in of_scene)


def test_the_right_option_stands_at_each_place_alike(tmp_path: Path) -> None:
    counts: Counter[int] = Counter()
    for number in range(6):
        labels = ("cake", "knife", "person")
        boxes = tuple((100.0 * place, 100.0, 100.0 * place + 50, 150.0) for place in range(3))
        scene = natural_scene(Chosen("a", tmp_path, (448, 448), "horizontal", labels, boxes, 0.5, "test"), "coco", "main", number)
        for slot in range(3):
            question = ask(scene, "slot_to_object", slot)
            order = sorted(labels, key=question.prompt.index)
            counts[order.index(question.answer)] += 1
    assert set(counts.values()) == {6}
    assert ask(scene, "slot_to_object", 0, "one_word").prompt.endswith("? Answer with its name only.")
    assert ask(scene, "object_to_slot", 0, "one_word").prompt.endswith("? Answer with one word.")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("uniform", "a uniform"),
        ("hourglass", "an hourglass"),
        ("TV", "a TV"),
        ("SUV", "an SUV"),
        ("scissors", "scissors"),
        ("wine glass", "a wine glass"),
        ("Äpfel", "an Äpfel"),
        ("oven", "an oven"),
        ("one-way sign", "a one-way sign"),
        ("uninhabited house", "an uninhabited house"),
    ],
)
def test_articles(name: str, said: str) -> None:
    assert with_article(name) == said
    assert content_named(name.replace(" ", "_")).word == name


def test_mirror_pairs_exchange_places_and_nothing_else(coco: Dataset) -> None:
    pairs = coco.pairs.filter(pl.col("experiment") == "vision")
    assert pairs.height == PAIRS["vision"]
    assert set(pairs["axis"]) == {"horizontal"}
    for row in pairs.iter_rows(named=True):
        clean, other = coco.image(row["clean_scene"]), coco.image(row["counterfactual_scene"])
        assert clean.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes() == other.tobytes()
        assert row["prompt"] == row["counterfactual_prompt"]
        assert row["clean_answer"] != row["counterfactual_answer"]
        assert sorted(row["slots"]) == [0, 2]
    assert aside(coco)["vision pairs, vertical"].startswith("0 made: a picture turned upside down")
    assert aside(coco)["language pairs, horizontal"].startswith("0 made: questions name the objects")


def test_conflict_pairs_exchange_blocks_of_one_size(coco: Dataset) -> None:
    pairs = coco.pairs.filter(pl.col("experiment") == "conflict")
    assert set(pairs["axis"]) == {"horizontal", "vertical"}
    main = {(row["background"], row["axis"]): row["boxes"] for row in coco.scenes.filter(pl.col("variant") == "main").iter_rows(named=True)}
    for row in pairs.iter_rows(named=True):
        tokens = coco.tokens(row["clean_scene"], TokenGrid(16, 16))
        ours, theirs = matched_blocks(tokens, *row["slots"], "object")
        assert len(ours) == len(theirs) == tokens.objects[row["slots"][0]].sum()
        scene = coco.row(row["clean_scene"])
        for block, box in zip(scene["boxes"], main[scene["background"], scene["axis"]], strict=True):
            assert block[0] <= box[0] + 1e-3
            assert block[1] <= box[1] + 1e-3
            assert block[2] >= box[2] - 1e-3
            assert block[3] >= box[3] - 1e-3
        assert (tokens.objects.sum(axis=0) <= 1).all()


def test_blocks_that_do_not_fit_are_none() -> None:
    boxes = ((0.0, 0.0, 300.0, 448.0), (310.0, 0.0, 330.0, 20.0), (400.0, 0.0, 440.0, 20.0))
    assert equal_blocks(boxes, (0, 1), "horizontal") is None
    assert equal_blocks(boxes, (1, 2), "horizontal") is not None


def test_splits_stay_when_images_are_added(tmp_path: Path) -> None:
    write_natural_set(tmp_path / "few", 12)
    write_natural_set(tmp_path / "more", 30)
    every = {"train": 100, "validation": 50, "test": 100}
    splits = []
    for name in ("few", "more"):
        planned = source_of("coco").plan(dataset_settings(settings(tmp_path / name, scenes=every)), 0)
        splits.append({item.scene.background: item.split for item in planned.scenes if item.scene.variant == "main"})
    assert splits[0].items() <= splits[1].items()
    assert len(set(splits[1].values())) == 3


def test_every_image_is_used_or_its_reason_said(made: tuple[Path, Any], coco: Dataset) -> None:
    used = set(coco.scenes["background"])
    reasons = aside(coco)
    assert set(made[1]) <= used | set(reasons)
    assert any(reason.startswith("is not needed: scenes.") for reason in reasons.values())
    outlook = source_of("coco").outlook(dataset_settings(settings(made[0])))
    counts = coco.scenes.filter(pl.col("variant") == "main").group_by("axis", "split").len()
    for axis, split, count in counts.iter_rows():
        assert f"{count} {split}" in outlook.split(axis)[1]


def listed(root: Path, scenes: list[Chosen]) -> list[list[Any]]:
    """What'sUp's list of the scenes of two objects, every second one with the later object as the caption's subject."""
    said = {"horizontal": ("to the left of", "to the right of"), "vertical": ("above", "below")}
    ids = {image["file_name"]: image["id"] for image in json.loads((root / "instances.json").read_text(encoding="utf-8"))["images"]}
    items = []
    for number, one in enumerate(scenes):
        names, words = list(one.labels), list(said[one.axis])
        if number % 2:
            names, words = names[::-1], words[::-1]
        items.append([ids[one.image], *(f"A photo of a {names[0]} {word} a {names[1]}" for word in words)])
    (root / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return items


def test_an_item_that_is_also_a_scene_of_two_objects_is_made_once_as_either(tmp_path: Path) -> None:
    write_natural_set(tmp_path)
    every = {"train": 100, "validation": 50, "test": 100}
    free = dataset_settings(settings(tmp_path, objects=2, scenes=every, variants={}))
    alone = [one for one in source_of("coco").choose(free).scenes if one.split == "test"]
    items = listed(tmp_path, alone)
    dataset = dataset_settings(settings(tmp_path, objects=2, scenes=every, variants={}, questions=str(tmp_path / "items.json")))
    assert {(one.image, one.axis) for one in source_of("coco").choose(dataset).items} & {(one.image, one.axis) for one in alone}
    planned = source_of("coco").plan(dataset, 0).scenes
    made = Counter((one.scene.variant, one.split == "test") for one in planned if one.scene.variant in ("main", "photo"))
    assert made["photo", True] == len(items) > 0
    assert made["main", True] == len(alone)


def test_csv_and_json_give_the_same_scenes(made: tuple[Path, Any]) -> None:
    every = {"train": 100, "validation": 50, "test": 100}
    plans = [source_of(kind).plan(dataset_settings(settings(made[0], kind, scenes=every)), 0) for kind in ("coco", "boxed")]
    main = [[one.scene for one in plan.scenes if one.scene.variant == "main"] for plan in plans]
    for axis in ("horizontal", "vertical"):
        shown = [{(one.background, one.objects, one.boxes) for one in scenes if one.axis == axis} for scenes in main]
        assert shown[0] == shown[1]
        assert shown[0]


@pytest.fixture(scope="module")
def two(made: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    templates = ["slot_to_object", "object_to_slot", "relation_to_object"]
    return run(tmp_path_factory.mktemp("two") / "out", settings(made[0], objects=2, templates=templates))


@pytest.mark.slow
def test_two_objects_stand_in_the_outer_slots_and_share_the_picture(two: Dataset) -> None:
    assert set(two.scenes["variant"]) == {"main", "mirror", "pair"}
    for row in two.scenes.iter_rows(named=True):
        assert row["slots"] == [0, 2]
        tokens = two.tokens(row["scene_id"], TokenGrid(16, 16))
        side = 0 if row["axis"] == "horizontal" else 1
        middle = sum(box[side] + box[side + 2] for box in row["boxes"]) / 4 / 448
        slot = np.where(tokens.grid.centres(row["axis"]) < middle - 1e-6, 0, 2)
        assert np.array_equal(tokens.strip_of_cell, np.where(tokens.inside, slot, -1))
        assert set(tokens.object_of_cell.tolist()) == {-1, 0, 2}
        assert np.array_equal(tokens.mask("strip", [2]), tokens.strips[1])
        labelled = group(two, two.scenes.filter(scene_id=row["scene_id"]), tokens.grid, word_numbers(two.scenes), 3)
        assert labelled.slots == (0, 2)
        assert np.array_equal(labelled.strips[0], tokens.strip_of_cell)


def test_pairs_of_two_objects(two: Dataset) -> None:
    """A picture and its mirror image, the two blocks exchanged: every question is answered the other way round."""
    for experiment, predicted in (("vision", "flip"), ("conflict", "move")):
        pairs = two.pairs.filter(experiment=experiment)
        assert set(pairs["template"]) == {"slot_to_object", "object_to_slot", "relation_to_object"}
        for row in pairs.iter_rows(named=True):
            assert (sorted(row["slots"]), row["prompt"]) == ([0, 2], row["counterfactual_prompt"])
            opposite = [word for word in row["candidates"] if word != row["clean_answer"]]
            assert {name: row["hypotheses"][name] for name in ("stay", predicted)} == {"stay": row["clean_answer"], predicted: opposite[0]}
            objects = two.row(row["clean_scene"])["objects"]
            if row["template"] == "slot_to_object":
                assert row["clean_answer"] == objects[row["slots"][0] // 2]
            elif row["axis"] == "horizontal":
                assert row["clean_answer"] == ("left", "right")[row["slots"][0] // 2]
            tokens = two.tokens(row["clean_scene"], TokenGrid(16, 16))
            if experiment == "conflict":
                ours, theirs = matched_blocks(tokens, *row["slots"], "object")
                assert len(ours) == len(theirs) == tokens.mask("object", [0]).sum() == tokens.mask("object", [2]).sum()
    assert set(two.pairs.filter(experiment="conflict")["axis"]) == {"horizontal", "vertical"}


def test_two_objects_are_asked_for_their_relation(two: Dataset) -> None:
    dataset = replace(two, questions=two.questions.filter(pl.col("variant") != "pair", template="relation_to_object"))
    orders = Counter("left or to the right" in prompt for prompt in dataset.questions.filter(pl.col("axis") == "horizontal")["prompt"])
    assert min(orders.values()) / orders.total() > 0.3
    for row in dataset.questions.filter(pl.col("axis") == "horizontal").iter_rows(named=True):
        scene = dataset.row(row["scene_id"])
        asked = next(word for word in scene["objects"] if row["prompt"].split("the ", 1)[1].startswith(word))
        assert row["answer"] == ("left" if scene["objects"].index(asked) == 0 else "right")


POINT_OF_VIEW = "Seen from the {reference}, where is the {object}: {first} or {second}? Reply with one of these two words."


@pytest.mark.slow
def test_items_ask_of_the_caption_s_subject_in_own_words_and_both_orders(tmp_path: Path) -> None:
    write_natural_set(tmp_path)
    own = {"objects": 2, "templates": ["relation_to_object"], "wording": {"relation_to_object": POINT_OF_VIEW}, "items_ask": "subject"}
    free = source_of("coco").choose(dataset_settings(settings(tmp_path, objects=2)))
    captions = [caption for _, caption, _ in listed(tmp_path, free.scenes)]
    subjects = Counter(spoken(re.split(" to the | above | below ", caption.removeprefix("A photo of a "))[0]) for caption in captions)
    dataset = run(tmp_path / "out", settings(tmp_path, **own, questions=str(tmp_path / "items.json"), variants={"mirror": True}))
    items = dataset.questions.filter(variant="photo")
    assert items.height == 2 * items["scene_id"].n_unique() == 2 * len(captions)
    asked = Counter()
    for _, rows in items.group_by("scene_id"):
        first, second = rows.sort("option_order").iter_rows(named=True)
        assert first["answer"] == second["answer"]
        one, other = first["candidates"]
        assert first["prompt"].endswith(f": {one} or {other}? Reply with one of these two words.")
        assert second["prompt"].endswith(f": {other} or {one}? Reply with one of these two words.")
        seen = dataset.row(first["scene_id"])
        reference, subject = re.fullmatch(r"Seen from the (.+), where is the (.+): .*", first["prompt"]).groups()
        place = seen["objects"].index(subject)
        assert seen["objects"][1 - place] == reference
        assert first["answer"] == {"horizontal": ("left", "right"), "vertical": ("above", "below")}[seen["axis"]][place]
        asked[subject] += 1
    assert asked == subjects
    # The mirror image is asked of the same object, which then stands on the other side.
    mirrors = dataset.questions.filter(variant="mirror").join(dataset.scenes.select("scene_id", "mirrored_from"), on="scene_id")
    assert mirrors["mirrored_from"].is_in(items["scene_id"].to_list()).any()
    for row in mirrors.filter(pl.col("mirrored_from").is_in(items["scene_id"].to_list())).iter_rows(named=True):
        of_item = items.filter(scene_id=row["mirrored_from"], option_order=row["option_order"])
        assert of_item["prompt"].to_list() == [row["prompt"]]
        assert {row["answer"], of_item["answer"][0]} == {"left", "right"}


@pytest.mark.parametrize(
    "changed",
    [
        {"objects": 3},
        {"templates": ["relation_to_object", "slot_to_object"]},
        {"wording": {"relation_to_object": "{relation} {reference}"}},
    ],
)
def test_own_words_are_for_the_relation_of_two(tmp_path: Path, changed: dict[str, Any]) -> None:
    write_natural_set(tmp_path)
    own = {"objects": 2, "templates": ["relation_to_object"], "wording": {"relation_to_object": POINT_OF_VIEW}}
    dataset_settings(settings(tmp_path, **own))
    with pytest.raises(ValueError, match="wording"):
        dataset_settings(settings(tmp_path, **own | changed))


def test_drawn_scenes_have_no_relations_to_choose_from() -> None:
    with pytest.raises(ValueError, match=r"use \{relation\} and \{reference\}"):
        dataset_settings({"kind": "squares", "templates": ["relation_to_object"], "wording": {"relation_to_object": POINT_OF_VIEW}})


def test_the_files_that_scenes_depend_on(made: tuple[Path, Any]) -> None:
    files = dataset_files(settings(made[0]))
    assert made[0] / "instances.json" in files
    planned = source_of("coco").plan(dataset_settings(settings(made[0])), 0)
    assert {made[0] / "photos" / item.scene.background for item in planned.scenes} == set(files) - {made[0] / "instances.json"}


def test_choices_are_remembered_until_a_file_changes(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once more from disk they are the same, and the boxes are not read again; another list, picture or setting is."""
    monkeypatch.chdir(small)
    monkeypatch.setattr(choice_cache, "LARGE", 0)
    # A file written just now is not settled: it could change again without another time.
    for path in (small / "instances.json", small / "photos"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(file_cache, "_UNSETTLED_NS", -(10**18))
    values = dataset_settings(settings(small))
    reads: list[Path] = []

    def read(path: Path) -> Any:
        reads.append(path)
        return read_annotations(path)

    def chosen(changed: Any = values) -> Choices:
        natural_choice._choices.cache_clear()
        return natural_choice.choices(changed, small / "instances.json", None, read)

    first = chosen()
    assert (chosen(), len(reads)) == (first, 1)
    assert first.scenes[0].boxes == chosen().scenes[0].boxes != ()
    assert chosen(values.model_copy(update={"seed": 5})) != first
    assert len(reads) == 2
    first.scenes[0].path.unlink()
    assert first.scenes[0].path not in chosen().files()
    # In a folder below the images, too, a file that comes is seen.
    (small / "photos/more").mkdir()
    edited(small, lambda one: one["images"].append(one["images"].pop(-1) | {"file_name": "more/a.jpg"}))
    assert "more/a.jpg" in {item.file for item in chosen().set_aside}
    Image.new("RGB", (400, 400)).save(small / "photos/more/a.jpg")
    assert "more/a.jpg" not in {item.file for item in chosen().set_aside}
    edited(small, lambda one: one["images"].pop())
    assert chosen().images == first.images - 1


def test_sizes_of_files_are_read_each_time(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph that is overwritten leaves its folder as it was."""
    monkeypatch.chdir(small)
    monkeypatch.setattr(choice_cache, "LARGE", 0)
    monkeypatch.setattr(file_cache, "_UNSETTLED_NS", -(10**18))

    def size_of_first() -> tuple[int, int]:
        natural_choice._choices.cache_clear()
        found = natural_choice.choices(dataset_settings(settings(small, "boxed")), small / "boxes.csv")
        return min(found.scenes, key=lambda one: one.image).size

    assert size_of_first() == (480, 360)
    state = (small / "photos").stat().st_mtime_ns
    Image.new("RGB", (600, 450)).save(small / "photos/photo 00 ü.jpg")
    assert (small / "photos").stat().st_mtime_ns == state
    assert size_of_first() == (600, 450)


def test_folders_are_walked_once_through_links(tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "store/b").mkdir(parents=True)
    (tmp_path / "root/link").symlink_to(tmp_path / "store")
    (tmp_path / "store/b/up").symlink_to(tmp_path / "root")
    found = {str(folder.relative_to(tmp_path)) for folder in choice_cache.folders(tmp_path / "root")}
    assert found == {"root", "root/a", "root/link", "root/link/b"}


# --- faults ----------------------------------------------------------------------------------------------------------


def edited(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "instances.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


FIRST = "photos/photo 00 ü.jpg"
ONE_IMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("missing", lambda root: (root / FIRST).unlink(), "no such file"),
    ("cut short", lambda root: cut(root / FIRST), "is not a readable photo .*truncated"),
    (
        "another size",
        lambda root: Image.new("RGB", (500, 500)).save(root / "photos/photo 00 ü.jpg"),
        "is 500×500, its boxes are of 480×360",
    ),
    ("outside", lambda root: edited(root, lambda v: v["annotations"][0].update(bbox=[470, 10, 50, 50])), "ends outside the 480×360 image"),
    (
        "no name",
        lambda root: edited(root, lambda v: v["annotations"][0].update(category_id=99)),
        "category 99, which the file gives no n",
    ),
    ("no box", lambda root: edited(root, lambda v: v["annotations"][0].update(bbox=[1, 2, None, 4])), "must be .x, y, width, height."),
    (
        "crowd",
        lambda root: edited(root, lambda v: [a.update(iscrowd=1) for a in v["annotations"][:3]]),
        "shows 0 .*3 are crowds",
    ),
    ("two ids", lambda root: edited(root, lambda v: v["images"].append(dict(v["images"][0]))), "id 1000 is that of two images"),
    ("leaves", lambda root: edited(root, lambda v: v["images"][0].update(file_name="../a.jpg")), "outside the data set's folder"),
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(("damage", "reason"), [case[1:] for case in ONE_IMAGE], ids=[case[0] for case in ONE_IMAGE])
def test_a_fault_of_one_image_sets_it_aside(small: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(small)
    every = {"train": 100, "validation": 50, "test": 100}
    planned = source_of("coco").plan(dataset_settings(settings(small, scenes=every)), 0)
    names = {"photo 00 ü.jpg", "../a.jpg"}
    assert not any(item.scene.background in names for item in planned.scenes)
    assert len({item.scene.background for item in planned.scenes}) == 8
    assert any(item.file in names and re.search(reason, item.reason) for item in planned.set_aside), planned.set_aside


def scaled(factor: float) -> Callable[[list[float]], list[float]]:
    return lambda box: [value * factor for value in box]


UNITS: list[tuple[str, Callable[[list[float]], list[float]], str]] = [
    ("shares", scaled(1 / 480), "they look like shares of the image's sides"),
    ("percent", scaled(100 / 480), "they look like percent of the sides"),
    ("corners", lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]], "they look like left, top, right, bottom"),
    ("swapped", lambda box: [box[0] + box[2], box[1] + box[3], -box[2], -box[3]], "their corners look swapped"),
    ("another resolution", scaled(3.0), "they look like those of another resolution"),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in UNITS], ids=[case[0] for case in UNITS])
@pytest.mark.parametrize("kind", ["coco", "boxed"])
def test_boxes_in_another_unit_are_recognised(small: Path, kind: str, change: Callable[[list[float]], list[float]], reason: str) -> None:
    edited(small, lambda values: [each.update(bbox=change(each["bbox"])) for each in values["annotations"]])
    header, *lines = (small / "boxes.csv").read_text(encoding="utf-8-sig").splitlines()
    rows = [line.split(",") for line in lines]
    changed = [[*row[:2], *map(str, change([float(number) for number in row[2:]]))] for row in rows]
    (small / "boxes.csv").write_text("\n".join([header, *map(",".join, changed)]), encoding="utf-8")
    refused(settings(small, kind), f"boxes must be left, top, width and height in pixels; .*{reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("image,label,left,top,right,bottom\n", "line 1 must name the columns image,label,x,y,width,height .*found 'image,label,left"),
        (COLUMNS + "\n", "has a header and no boxes"),
        (COLUMNS + "\na.jpg,cup, with lid,1,2,3,4\n", "line 2 has 7 cells, the header 6; quote labels with commas"),
        (COLUMNS + "\na.jpg,cup,1,2,wide,4\n", "line 2: width is 'wide', must be a number of pixels"),
        (COLUMNS + "\na.jpg,,1,2,3,4\n", "line 2 has no label"),
        (COLUMNS + "\nnone.jpg,cup,1,2,3,4\n", "none of its 1 images can be used.*none.jpg: no such file"),
        ("", "line 1 must name the columns"),
    ],
)
def test_a_csv_that_is_none_is_one_line(small: Path, content: str, reason: str) -> None:
    (small / "boxes.csv").write_text(content, encoding="utf-8")
    refused(settings(small, "boxed"), rf"boxes\.csv: .*{reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "must be COCO's instances JSON, an object with images"),
        (b'{"images": [], "annotations": []}', "has no categories"),
        (b'{"images": [{"id": 1', "it ends in the middle; download it again|is not JSON"),
        (b'{"images": [{"id": 1}} ', "is not JSON"),
        (b"\xff\xfe{\x00", "is not UTF-8 text"),
        (b'{"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [], "categories": []}', "another split"),
    ],
)
def test_a_json_that_is_none_is_one_line(small: Path, content: bytes, reason: str) -> None:
    (small / "instances.json").write_bytes(content)
    refused(settings(small), rf"instances\.json: .*({reason})")


def test_a_folder_of_links_with_backslashes_and_a_mark(small: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.move(small / "photos", store)
    (small / "photos/sub").mkdir(parents=True)
    for path in store.iterdir():
        (small / "photos/sub" / path.name.replace(".jpg", ".JPG")).symlink_to(path)
    edited(small, lambda values: [image.update(file_name=f"sub\\{image['file_name']}") for image in values["images"]])
    text = (small / "instances.json").read_text(encoding="utf-8")
    (small / "instances.json").write_text("\ufeff" + text, encoding="utf-8")
    planned = source_of("coco").plan(dataset_settings(settings(small)), 0)
    assert len({item.scene.background for item in planned.scenes}) > 5


def test_a_photo_held_upright_keeps_its_boxes(small: Path) -> None:
    for path in sorted((small / "photos").iterdir())[:3]:
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    planned = source_of("boxed").plan(dataset_settings(settings(small, "boxed")), 0)
    assert not [item for item in planned.set_aside if item.reason.startswith("is ") and "its boxes are of" in item.reason]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "nowhere"}, "images: no folder 'nowhere'"),
        ({"annotations": "nowhere.json"}, "annotations: no file 'nowhere.json'"),
        ({"questions": "nowhere.json"}, "questions: no file 'nowhere.json'"),
    ],
)
def test_paths_are_checked_when_the_configuration_is_read(small: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source_of("coco").check_paths(dataset_settings(settings(small, **changes)))


def test_the_canvas() -> None:
    square = (448, 448)
    assert letterbox((640, 480)) == (square, (0, 56, 448, 392))
    assert letterbox((480, 640)) == (square, (56, 0, 392, 448))
    assert letterbox((1, 5000)) == (square, (223, 0, 224, 448))
    # 336 pixels are 12 whole cells, 299 take 11 and leave 9 pixels of padding.
    assert letterbox((640, 480), "native") == ((448, 336), (0, 0, 448, 336))
    assert letterbox((480, 720), "native") == ((308, 448), (4, 0, 303, 448))
    assert letterbox((1, 5000), "native") == ((28, 448), (13, 0, 14, 448))
    assert letterbox((640, 480), "squeezed") == ((896, 896), (0, 0, 896, 896))
    assert letterbox((640, 427), "as_is") == ((640, 427), (0, 0, 640, 427))
    box = (320.0, 120.0, 640.0, 480.0)
    shown = Chosen("a", Path("a"), (640, 480), "horizontal", ("cup", "cup"), (box, box), 0.0, "test")
    squeezed = natural_scene(shown, "coco", "main", 0, "squeezed")
    assert squeezed.boxes[0] == (448, 224, 896, 896)
    # Blocks of two cells of 56 pixels.
    boxes = ((10.0, 0.0, 100.0, 112.0), (600.0, 0.0, 650.0, 112.0))
    assert equal_blocks(boxes, (0, 1), "horizontal", (squeezed.width, squeezed.height)) == ((0, 0, 112, 112), (560, 0, 672, 112))


# --- the sample of COCO ----------------------------------------------------------------------------------------------


@needs_sample
@pytest.mark.slow
def test_the_sample_and_its_list_of_questions(tmp_path: Path) -> None:
    values = {
        "kind": "coco",
        "images": str(SAMPLE / "val2017"),
        "annotations": str(SAMPLE / "annotations/instances_val2017.json"),
        "questions": str(SAMPLE / "coco_qa_two_obj.json"),
        "min_area": 0.002,
        "separation": 0.08,
        "templates": ["relation_to_object"],
    }
    dataset = run(tmp_path / "out", values)
    items = dataset.scenes.filter(pl.col("variant") == "photo")
    reasons = aside(dataset)
    assert items.height == 5
    assert reasons["coco_qa_two_obj.json, item 5"] == "image 39956 is not there, or has no boxes"
    asked = dataset.questions.filter(pl.col("variant") == "photo")
    # Both objects are asked about, with the options in either order.
    assert asked.height == 5 * 4
    assert Counter(asked["option_order"]) == {0: 10, 1: 10}
    told = {row["prompt"]: row["answer"] for row in asked.iter_rows(named=True)}
    assert told["Is the toilet above or below the sink?"] == told["Is the toilet below or above the sink?"] == "below"
    assert told["Is the refrigerator to the right or to the left of the oven?"] == "right"
    assert told["Is the oven to the left or to the right of the refrigerator?"] == "left"
    main = dataset.scenes.filter(pl.col("variant") == "main")
    assert main["background"].n_unique() >= 6
    everything = {path.name for path in (SAMPLE / "val2017").iterdir()}
    assert everything <= set(dataset.scenes["background"]) | set(reasons)


def test_the_preset_needs_its_blanks_only(small: Path) -> None:
    path = Path(__file__).parents[1] / "presets/paper-v2.yaml"
    with pytest.raises(UserError, match=r"fill in datasets\.coco\.images, datasets\.coco\.annotations, datasets\.coco\.questions, models"):
        load_config(path)
    values = yaml.safe_load(path.read_text(encoding="utf-8").replace("revision: FILL-IN", f"revision: {'a' * 40}"))
    values["datasets"]["coco"] |= {"images": str(small / "photos"), "annotations": str(small / "instances.json")}
    del values["datasets"]["coco"]["questions"]
    config = parse_config(values)
    assert len({model.checkpoint for model in config.models.values()}) == len(config.models) == 7
    assert all(model.revision == "a" * 40 for model in config.models.values())
    assert all(set(model.datasets) == set(config.datasets) for model in config.models.values())
