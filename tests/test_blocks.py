"""Objects as whole visual tokens, cell by cell as published; every ordered triple, paired shapes, own pictures, own statements."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.settings import plain
from vlm_spatial.config.workflow import Config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.plan import Planned
from vlm_spatial.scenes.scene import Scene, mirrored
from vlm_spatial.scenes.sources.layouts import LAYOUTS
from vlm_spatial.scenes.sources.registry import source_of
from vlm_spatial.scenes.sources.source import PlannedDataset
from vlm_spatial.scenes.tables import pairs_table, questions_table
from vlm_spatial.tokens import AXES, Axis, SceneTokens, TokenGrid, matched_blocks, scene_tokens
from vlm_spatial.workflow.preflight import _about, check_outside

pytestmark = pytest.mark.unit

# As published: pixels of the canvas, cells a side; rows of the objects; columns of slots 0, 1 and 2; columns of the strips.
PUBLISHED = {
    "qwen2-vl": (336, 12, [5, 6], [[1, 2], [5, 6], [9, 10]], [range(4), range(4, 8), range(8, 12)]),
    "gemma-3": (896, 16, [6, 7, 8], [[0, 1, 2], [6, 7, 8], [12, 13, 14]], [range(5), range(5, 11), range(11, 16)]),
    "pixtral": (240, 15, [6, 7], [[2, 3], [6, 7], [10, 11]], [range(5), range(5, 10), range(10, 15)]),
}
# Cells of the two outer objects, and of the two outer strips.
EXCHANGED = {"qwen2-vl": (8, 96), "gemma-3": (18, 160), "pixtral": (8, 150)}
PAPER: dict[str, Any] = {
    "background": "white",
    "palette": "pure",
    "items": "every_triple",
    "scenes": {"train": 68, "validation": 22, "test": 30},
    "variants": {"decorrelated": {"train": 3, "validation": 2, "test": 4}},
    "templates": ["relation_to_object"],
    "asked_slots": [0, 2],
    "pairs": {"vision": 6, "language": 0, "conflict": 0},
}


def planned(**settings: Any) -> PlannedDataset:
    made = dataset_settings({"kind": "squares", "layout": "qwen2-vl", **PAPER, **settings})
    return source_of(made.kind).plan(made, 0)


def main(dataset: PlannedDataset) -> list[Planned]:
    return [item for item in dataset.scenes if item.scene.variant == "main"]


def of_scene(scene: Scene) -> SceneTokens:
    assert scene.grid is not None
    return scene_tokens(scene.boxes, TokenGrid(*scene.grid), scene.width, scene.height, scene.axis, None, scene.bands)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_geometries_cell_by_cell(name: str, axis: Axis) -> None:
    canvas, side, rows, columns, strips = PUBLISHED[name]
    scene = next(item.scene for item in main(planned(layout=name)) if item.scene.axis == axis)
    assert (scene.width, scene.height, scene.grid) == (canvas, canvas, (side, side))
    tokens = of_scene(scene)
    for slot in range(3):
        cells = {(row, column) for row in rows for column in columns[slot]}
        band = {(row, column) for row in range(side) for column in strips[slot]}
        if axis == "vertical":
            cells, band = ({(column, row) for row, column in some} for some in (cells, band))
        assert set(zip(*np.divmod(np.flatnonzero(tokens.objects[slot]), side), strict=True)) == cells
        assert set(zip(*np.divmod(np.flatnonzero(tokens.strips[slot]), side), strict=True)) == band
    assert len(np.concatenate(matched_blocks(tokens, 0, 2, "object"))) == EXCHANGED[name][0]
    assert tokens.mask("strip", [0, 2]).sum() == EXCHANGED[name][1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_pixels_are_pure_and_fill_the_block(name: str) -> None:
    scene = main(planned(layout=name))[0].scene
    image = np.asarray(render(scene))
    colours = {
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
        "black": (0, 0, 0),
        "brown": (150, 75, 0),
        "gray": (128, 128, 128),
    }
    expected = np.full((scene.height, scene.width, 3), 255)
    for word, (left, top, right, bottom) in zip(scene.objects, scene.boxes, strict=True):
        expected[int(top) : int(bottom), int(left) : int(right)] = colours[word]
    np.testing.assert_array_equal(image, expected)


def test_every_ordered_triple_is_one_scene_of_an_axis_and_in_one_split() -> None:
    scenes = main(planned())
    words = ("black", "blue", "brown", "gray", "green", "red")
    split_of: dict[tuple[str, ...], set[str]] = {}
    for axis in AXES:
        of_axis = [item for item in scenes if item.scene.axis == axis]
        assert sorted(item.scene.objects for item in of_axis) == sorted(permutations(words, 3))
        for item in of_axis:
            split_of.setdefault(item.scene.objects, set()).add(item.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert main(planned(seed=1)) != scenes


def test_480_items_are_asked_for_the_outer_two() -> None:
    wording = {"relation_to_object": "The color of the square {relation} the {reference} is {blank}"}
    dataset = planned()
    asked = questions_table(main(dataset), ["relation_to_object"], wording, (0, 2))  # type: ignore[arg-type]
    assert asked.height == 480
    assert set(asked["slot"]) == {0, 2}
    scene = main(dataset)[0].scene
    first = asked.filter(scene_id=main(dataset)[0].scene_id, slot=0).row(0, named=True)
    assert first["prompt"] == f"The color of the square to the left of the {scene.objects[1]} square is "
    assert first["answer"] == scene.objects[0]


@pytest.mark.slow
def test_pairs_exchange_the_outer_contents_and_never_repeat() -> None:
    dataset = planned(pairs={"vision": 240, "language": 0, "conflict": 0})
    table = pairs_table(dataset.pairs)
    assert table.group_by("axis").len()["len"].to_list() == [240, 240]
    assert {tuple(slots) for slots in table["slots"]} == {(0, 2), (2, 0)}
    scene_of = {item.scene_id: item.scene for item in dataset.scenes}
    drawn = [(row["axis"], tuple(row["slots"]), scene_of[row["clean_scene"]].objects) for row in table.iter_rows(named=True)]
    assert len(set(drawn)) == 480
    for row in table.iter_rows(named=True):
        assert scene_of[row["counterfactual_scene"]].objects == scene_of[row["clean_scene"]].objects[::-1]
    with pytest.raises(UserError, match=r"pairs\.vision: 2000 draws gave no further pair on the horizontal axis after 240"):
        planned(pairs={"vision": 242, "language": 0, "conflict": 0})


def test_shifted_blocks_are_whole_cells_in_order_and_leave_their_places() -> None:
    dataset = planned(variants={"decorrelated": {"train": 40, "validation": 0, "test": 0}})
    starts: dict[Axis, list[list[int]]] = {axis: [] for axis in AXES}
    for scene in (item.scene for item in dataset.scenes if item.scene.variant == "decorrelated"):
        tokens = of_scene(scene)
        assert scene.bands is None
        assert (tokens.objects.sum(axis=1) == 4).all()
        along = scene.axis == "vertical"
        starts[scene.axis].append([int(np.divmod(np.flatnonzero(mask), 12)[not along].min()) for mask in tokens.objects])
    for places in starts.values():
        assert all(second - first >= 3 and third - second >= 3 for first, second, third in places)
        # An object stands where its neighbour does elsewhere, so that a place says no slot.
        first, second, third = (set(column) for column in zip(*places, strict=True))
        assert first & second
        assert second & third


def test_mirrored_strips_are_mirrored() -> None:
    scene = main(planned(layout="gemma-3"))[0].scene
    strips = of_scene(scene).strips.reshape(3, 16, 16)
    np.testing.assert_array_equal(of_scene(mirrored(scene)).strips.reshape(3, 16, 16), strips[::-1, :, ::-1])


@pytest.mark.slow
def test_paired_shapes_are_asked_for_their_colour() -> None:
    dataset = planned(kind="shapes", paired=True, palette="pure-orange", layout="gemma-3")
    scenes = main(dataset)
    pairs = {content.word: content.phrase for item in scenes for content in item.scene.contents}
    assert pairs == {
        "red": "red square",
        "green": "green circle",
        "blue": "blue triangle",
        "black": "black star",
        "orange": "orange cross",
        "gray": "gray heart",
    }
    asked = questions_table(scenes[:1], ["slot_to_object"], "stem", (0,))
    assert asked["prompt"].to_list() == ["The color of the shape on the left is"]
    # Areas of the shapes as shares of their tile: side 0.8, diameter 0.9, base 1 and height √3/2, bars of a third.
    for word, share in {"red": 0.64, "green": np.pi * 0.45**2, "blue": np.sqrt(3) / 4, "orange": 5 / 9}.items():
        scene = next(item.scene for item in scenes if item.scene.objects[0] == word)
        left, top, right, bottom = map(int, scene.boxes[0])
        drawn = (np.asarray(render(scene))[top:bottom, left:right] != 255).any(axis=-1)
        assert drawn.mean() == pytest.approx(share, abs=0.02)
        assert {tuple(pixel) for pixel in np.asarray(render(scene)).reshape(-1, 3)} & {(255, 255, 255)}


def picture_folder(folder: Path, words: list[str]) -> Path:
    folder.mkdir()
    for number, word in enumerate(words):
        image = Image.new("RGBA", (30, 50), (10 * number, 90, 200, 255))
        image.paste((0, 0, 0, 0), (0, 0, 30, 25))
        image.save(folder / f"{word}.png")
    return folder


@pytest.mark.slow
def test_a_folder_of_own_pictures(tmp_path: Path) -> None:
    words = ["orange", "apple", "pot", "bell", "hat", "rose", "key", "fire_truck"]
    folder = picture_folder(tmp_path / "mine", words)
    own = {"kind": "objects", "pictures": str(folder), "palette": None, "scenes": {"train": 200, "validation": 52, "test": 84}}
    settings = {key: value for key, value in {**PAPER, **own, "layout": "gemma-3"}.items() if value is not None}
    made = dataset_settings(settings)
    assert dataset_settings(plain(made)) == made
    source = source_of("objects")
    assert source.files(made) == sorted(folder.glob("*.png"))
    scenes = main(source.plan(made, 0))
    assert len(scenes) == 2 * 336
    assert {word for item in scenes for word in item.scene.objects} == {word.replace("_", " ") for word in words}
    scene = next(item.scene for item in scenes if item.scene.objects[0] == "apple")
    block = np.asarray(render(scene))[336:504, 0:168]
    # Squeezed to the block: transparent above, opaque below.
    assert (block[:80] == 255).all()
    assert (block[90:] == (10, 90, 200)).all()


def listed(tmp_path: Path, *entries: Any) -> dict[str, Any]:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(list(entries)), encoding="utf-8")
    return {"pairs": {"file": str(path), "conflict": 0}, "templates": ["slot_to_object", "relation_to_object"]}


VISION = {"experiment": "vision", "axis": "horizontal", "asked": 2, "clean": ["red", "green", "blue"]}
LAST = {
    "experiment": "last_token",
    "axis": "vertical",
    "asked": 0,
    "clean": ["red", "green", "blue"],
    "counterfactual": ["black", "green", "gray"],
}


def test_pairs_from_a_file(tmp_path: Path) -> None:
    dataset = planned(**listed(tmp_path, VISION, LAST))
    scene_of = {item.scene_id: item.scene.objects for item in dataset.scenes}
    [vision, last] = sorted(dataset.pairs, key=lambda pair: pair.experiment, reverse=True)
    assert (vision.experiment, vision.axis, vision.slots) == ("vision", "horizontal", (2, 0))
    assert scene_of[vision.clean_scene] == ("red", "green", "blue")
    assert scene_of[vision.counterfactual_scene] == ("blue", "green", "red")
    assert (vision.clean_answer, vision.counterfactual_answer) == ("blue", "red")
    assert (last.axis, last.slots, scene_of[last.counterfactual_scene]) == ("vertical", (0, 2), ("black", "green", "gray"))
    # Clean asks above green: red. The source asks below green in the other picture: gray; in the clean one that is blue.
    assert last.hypotheses == {"stay": "red", "ordinal": "blue", "attribute": "gray"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "conflict"}, "experiment: allowed are vision, language, last_token, found 'conflict'"),
        ({"asked": 1}, "asked: allowed are 0, 2, found 1"),
        ({"clean": ["red", "green", "red"]}, "clean: must be three different contents"),
        ({"clean": ["red", "green", "pink"]}, "clean: the dataset has no pink; it has black, blue, brown, gray, green, red"),
        ({"counterfactual": None}, "counterfactual: three contents for language and last_token"),
        ({"counterfactual": ["black", "gray", "brown"]}, "must share the middle one and no other"),
    ],
)
def test_a_list_with_a_fault_is_told_before_any_job(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"datasets\.mine\.pairs\.file: .*pairs\.json: pair 1: ") as error:
        check(listed(tmp_path, VISION, {**LAST, **change}))
    assert message in str(error.value)


def check(values: dict[str, Any]) -> None:
    datasets = {"mine": {"kind": "squares", "layout": "qwen2-vl", **PAPER, **values}}
    model = {"organism": "small", "datasets": ["mine"]}
    config = Config.model_validate({"datasets": datasets, "organisms": {"small": {"datasets": ["mine"]}}, "models": {"small": model}})
    check_outside(config, Source("mine.yaml"), quiet=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layout": "qwen"}, "must be jittered, qwen2-vl, gemma-3, pixtral, or a section with grid, cell, side and gap"),
        ({"layout": {"grid": 8, "cell": 28, "side": 2, "gap": 2}}, "grid: three objects and two gaps take 10 cells, found 8"),
        ({"layout": {"grid": 12, "cell": 28, "side": 2, "gap": 2, "strips": [4, 7]}}, None),
        ({"layout": {"grid": 12, "cell": 28, "side": 2, "gap": 2, "strips": [4, 6]}}, "allowed are 3 to 5 and 7 to 9, found 4 and 6"),
        ({"difficulty": {"jitter": 0.2}}, "difficulty.jitter: a layout of blocks says where objects stand; leave it out"),
        ({"kind": "shapes"}, "palette: paired shapes have the palette pure or pure-orange, free ones the standard palette"),
        ({"asked_slots": [1]}, "asked_slots: must hold 0 or 2"),
        ({"wording": {"relation_to_object": "The {reference}, {relation} it: {blank} is what?"}}, "so it must be the end of the statement"),
        (
            {"wording": {"relation_to_object": "The color of the square {relation} it is {blank}"}},
            "must hold {relation} and {reference} once",
        ),
        ({"wording": {"slot_to_object": "{place}: {blank}"}}, "wording: has no text for the template relation_to_object"),
    ],
)
def test_what_cannot_be_laid_out_or_asked(values: dict[str, Any], message: str | None) -> None:
    if message is None:
        check(values)
        return
    with pytest.raises((ValidationError, UserError)) as error:
        check(values)
    assert message in str(error.value)


def test_counts_that_leave_triples_out_are_refused_before_any_job() -> None:
    with pytest.raises(UserError) as error:
        check({"scenes": {"train": 90, "validation": 10, "test": 30}})
    assert str(error.value) == (
        "mine.yaml: datasets.mine.scenes: 6 contents make 120 ordered triples, and train, validation and test add up to 130; every triple "
        "must be in one of them"
    )


def test_a_folder_of_too_few_pictures_is_refused(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "mine", ["orange", "apple", "pot", "bell"])
    values = {"kind": "objects", "pictures": str(folder), "pairs": {"language": 10}}
    settings = {"datasets": {"mine": values}, "models": {"m": {"checkpoint": str(tmp_path), "datasets": ["mine"]}}}
    config = Config.model_validate(settings)
    with pytest.raises(UserError, match=r"datasets\.mine\.pairs\.language: takes 6 different contents, and the dataset has 4"):
        source_of("objects").check(config.datasets["mine"], lambda key: _about(Source("mine.yaml"), f"datasets.mine.{key}"))
    (folder / "hat.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"pictures: .*hat\.png: is not a readable image"):
        source_of("objects").check(config.datasets["mine"], lambda key: _about(Source("mine.yaml"), f"datasets.mine.{key}"))


def test_named_layouts_are_those_published() -> None:
    assert set(LAYOUTS) == set(PUBLISHED)
