"""What'sUp's items about photographs with boxes: which are asked, and what is known of those whose boxes are doubtful."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vlm_spatial.activations.pooling import REGIONS, region_weights
from vlm_spatial.activations.sampling import sampled_tokens
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.errors import UserError
from vlm_spatial.report.provenance import warnings
from vlm_spatial.report.results import Model, Results
from vlm_spatial.scenes import choice_cache
from vlm_spatial.scenes.chosen import Choices, Chosen
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.sources.registry import source_of
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).parents[2] / "shared" / "coco_sample"
SIDE = 448

# By image: name, [left, top, width, height], whether it is a crowd; in whole cells of 28 pixels.
BOXES: dict[int, list[tuple[str, list[int], int]]] = {
    # Two cups. The small one stands left of the dog, the large one right of it.
    1: [("cup", [0, 0, 56, 56], 0), ("cup", [280, 140, 112, 112], 0), ("dog", [112, 28, 84, 84], 0)],
    # The dog stands half behind the cup.
    2: [("cup", [0, 0, 280, 448], 0), ("dog", [168, 112, 224, 112], 0)],
    # The caption says the opposite.
    3: [("cup", [0, 0, 56, 56], 0), ("dog", [280, 0, 84, 84], 0)],
    # No dog has a box.
    4: [("cup", [0, 0, 56, 56], 0)],
    # The largest dog is several.
    5: [("cup", [0, 0, 56, 56], 0), ("dog", [84, 0, 28, 28], 0), ("dog", [224, 84, 196, 196], 1)],
    # Clear of each other, one above the other.
    6: [("cup", [0, 280, 56, 56], 0), ("dog", [28, 28, 84, 84], 0)],
    # One in the other, round one centre.
    7: [("cup", [112, 112, 112, 112], 0), ("dog", [140, 140, 56, 56], 0)],
}
CAPTIONS = {
    1: "a cup to the right of a dog",
    2: "a cup to the left of a dog",
    3: "a cup to the right of a dog",
    4: "a dog to the left of a cup",
    5: "a dog to the right of a cup",
    6: "a cup below a dog",
    7: "a cup above a dog",
}
# Items in the list's order: names in slot order, their boxes as corners (none: not known), the subject's slot.
LARGEST = [
    (("dog", "cup"), ((112, 28, 196, 112), (280, 140, 392, 252)), 2),
    (("cup", "dog"), ((0, 0, 280, 448), (168, 112, 392, 224)), 0),
    (("dog", "cup"), (), 2),
    (("dog", "cup"), (), 0),
    (("cup", "dog"), ((0, 0, 56, 56), (224, 84, 420, 280)), 2),
    (("dog", "cup"), ((28, 28, 112, 112), (0, 280, 56, 336)), 2),
    (("cup", "dog"), (), 0),
]
APART = {
    0: "image 1 has 2 boxes of 'cup', one is needed",
    1: "image 2: the boxes of 'cup' and 'dog' overlap along the axis",
    2: "image 3: the boxes of 'dog' and 'cup' are the other way round",
    3: "image 4 has 0 boxes of 'dog', one is needed",
    4: "image 5 has 2 boxes of 'dog', one is needed",
    6: "image 7: the boxes of 'cup' and 'dog' overlap along the axis",
}


def write_hand_made(root: Path) -> None:
    """Seven square photographs with the boxes above, and the list of their items."""
    (root / "photos").mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = ["cup", "dog", "kite"]
    images, annotations = [], []
    for number, boxes in BOXES.items():
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)).save(root / f"photos/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        annotations += [{"image_id": number, "category_id": names.index(name), "bbox": box, "iscrowd": crowd} for name, box, crowd in boxes]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    (root / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    (root / "items.json").write_text(
        json.dumps([[number, f"A photo of {said}", "?"] for number, said in CAPTIONS.items()]), encoding="utf-8"
    )


def settings(root: Path, **changes: Any) -> dict[str, Any]:
    files = {"images": str(root / "photos"), "annotations": str(root / "instances.json"), "questions": str(root / "items.json")}
    asked = {
        "objects": 2,
        "templates": ["relation_to_object"],
        "items_ask": "subject",
        "pairs": {"vision": 4, "language": 0, "conflict": 4},
    }
    return {"kind": "coco", **files, **asked, "scenes": {"train": 0, "validation": 0, "test": 9}} | changes


def chosen(values: dict[str, Any]) -> Choices:
    return source_of("coco").choose(dataset_settings(values))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("items")
    write_hand_made(made)
    return made


@pytest.fixture(scope="module")
def dataset(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes") / "coco"
    scenes_stage(Job({"dataset": settings(root, items_boxes="largest"), "name": "coco"}, {}, {"folder": folder}))
    return Dataset.open(folder)


def test_every_published_item_is_asked_with_the_largest_boxes(root: Path) -> None:
    found = chosen(settings(root, items_boxes="largest"))
    assert [(one.labels, one.boxes, one.subject) for one in found.items] == LARGEST
    assert not any("item" in one.file for one in found.set_aside)
    # Names that a picture does not show are those without any box in it.
    assert [one.absent for one in found.items] == [("kite",)] * 3 + [("dog", "kite")] + [("kite",)] * 3


def test_by_default_boxes_are_single_and_apart(root: Path) -> None:
    found = chosen(settings(root))
    assert [(one.labels, one.boxes) for one in found.items] == [LARGEST[5][:2]]
    assert {one.file: one.reason for one in found.set_aside if "item" in one.file} == {
        f"items.json, item {number}": reason for number, reason in APART.items()
    }


def test_what_cannot_be_asked_by_either_rule_is_set_aside(root: Path, tmp_path: Path) -> None:
    entries = [[99, "A photo of a cup above a dog", "?"], [1, "A photo of a cup behind a dog", "?"], [1, "A cup, a dog", "?"], [1]]
    (tmp_path / "items.json").write_text(json.dumps(entries), encoding="utf-8")
    for rule in ("apart", "largest"):
        found = chosen(settings(root, items_boxes=rule, questions=str(tmp_path / "items.json")))
        assert not found.items
        assert [one.reason for one in found.set_aside if "item" in one.file] == [
            "image 99 is not there, or has no boxes",
            "caption 'A photo of a cup behind a dog' is about depth, which boxes do not tell",
            "caption 'A cup, a dog' does not say which of two objects is where",
            "must be [image id, right caption, wrong caption]",
        ]


def test_a_rule_that_is_none_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"items_boxes[\s\S]*'apart' or 'largest'"):
        dataset_settings(settings(root, items_boxes="biggest"))
    with pytest.raises(ValueError, match="items_boxes"):
        dataset_settings({"kind": "boxed", "images": "a", "boxes": "b.csv", "items_boxes": "largest"})


def test_the_plan_says_what_boxes_do_not_tell(root: Path) -> None:
    said = source_of("coco").outlook(dataset_settings(settings(root, items_boxes="largest")))
    told = "1 with boxes that overlap along the axis, 3 without boxes that stand as the caption says"
    assert f"; 7 of 7 items of the list of questions ({told}), of which no pairs are made; " in said
    assert "; 1 of 7 items of the list of questions, of which no pairs are made; " in source_of("coco").outlook(
        dataset_settings(settings(root))
    )


def test_every_item_is_asked_in_both_orders_as_its_caption_says(dataset: Dataset) -> None:
    asked = dataset.questions.filter(variant="photo")
    assert asked.height == 2 * 7
    answers = asked.group_by("scene_id").agg(pl.col("answer").unique()).sort("scene_id")["answer"].to_list()
    # By axis, in the list's order.
    assert answers == [["right"], ["left"], ["right"], ["left"], ["right"], ["below"], ["above"]]
    mirrors = dataset.scenes.filter(variant="mirror").join(
        dataset.scenes.filter(variant="photo").select("scene_id", original="boxes"), left_on="mirrored_from", right_on="scene_id"
    )
    assert mirrors.height == 5
    for row in mirrors.iter_rows(named=True):
        assert row["boxes"] == [[SIDE - right, top, SIDE - left, bottom] for left, top, right, bottom in row["original"][::-1]]
    opposite = {"left": "right", "right": "left"}
    of_mirrors = dataset.questions.filter(variant="mirror").join(mirrors.select("scene_id", "mirrored_from"), on="scene_id")
    answer_of = dict(zip(asked["scene_id"], asked["answer"], strict=True))
    assert all(row["answer"] == opposite[answer_of[row["mirrored_from"]]] for row in of_mirrors.iter_rows(named=True))


def test_items_make_no_pairs(dataset: Dataset) -> None:
    """Only images 3 and 6 show two names once each, clear of each other; whatever their captions say, pairs are made of these."""
    shown = dict(dataset.scenes.select("scene_id", "background").iter_rows())
    assert dataset.pairs.height
    in_pairs = {shown[name] for column in ("clean_scene", "counterfactual_scene") for name in dataset.pairs[column]}
    assert in_pairs == {"3.png", "6.png"}
    assert dataset.scenes.filter(variant="pair")["boxes"].list.len().unique().to_list() == [2]


def test_token_sets_of_overlapping_boxes(dataset: Dataset) -> None:
    """The cup has columns 0 to 9 of all rows, the dog columns 6 to 13 of rows 4 to 7; their centres' midpoint is column 7's centre."""
    row, col = np.divmod(np.arange(256), 16)
    cup, dog = col <= 9, (col >= 6) & (col <= 13) & (row >= 4) & (row <= 7)
    first, later = col <= 6, col >= 7
    expected = {
        ("object", 0): cup,
        ("object", 2): dog,
        ("strip", 0): first,
        ("strip", 2): later,
        ("rim", 0): first & ~cup,
        ("rim", 2): later & ~dog,
        ("background", -1): ~cup & ~dog,
        ("all", -1): np.ones(256, dtype=bool),
    }
    assert [int(mask.sum()) for mask in expected.values()] == [160, 32, 112, 144, 0, 116, 80, 256]
    item = dataset.scenes.filter(variant="photo", background="2.png").row(0, named=True)
    tokens = dataset.tokens(item["scene_id"], TokenGrid(16, 16))
    weights = region_weights(item["boxes"], item["slots"], item["axis"], TokenGrid(16, 16), SIDE, SIDE)
    for (name, slot), mask in expected.items():
        assert np.array_equal(tokens.mask(name, [slot]), mask), (name, slot)  # type: ignore[arg-type]
    known = {(region.token_set, region.slot): of_region for region, of_region in zip(REGIONS, weights, strict=True)}
    assert all(np.array_equal(known.pop(key), mask) for key, mask in expected.items())
    assert not np.concatenate(list(known.values())).any()
    # A cell of both counts for the first, where each cell has one label.
    assert np.array_equal(tokens.object_of_cell, np.where(cup, 0, np.where(dog, 2, -1)))


def test_without_boxes_only_the_whole_picture_is_known(dataset: Dataset) -> None:
    item = dataset.scenes.filter(variant="photo", background="4.png")
    [row] = item.iter_rows(named=True)
    assert (row["objects"], row["slots"], row["boxes"]) == (["dog", "cup"], [0, 2], [])
    with pytest.raises(UserError, match="has no boxes, so no token sets but 'all'"):
        dataset.tokens(row["scene_id"], TokenGrid(16, 16))
    # The left half of the canvas is the picture.
    weights = region_weights([], row["slots"], row["axis"], TokenGrid(4, 4), SIDE, SIDE, (0, 0, SIDE / 2, SIDE))
    sums = {(region.token_set, region.slot): of_region.sum() for region, of_region in zip(REGIONS, weights, strict=True)}
    assert {name: total for name, total in sums.items() if total} == {("all", -1): 8}
    kept = sampled_tokens(item.with_columns(picture=pl.lit([0.0, 0.0, SIDE / 2, SIDE])), TokenGrid(4, 4), 10)
    # Eight tokens of the picture stand for themselves, two of padding for none.
    assert Counter(kept.weights[0].tolist()) == {1.0: 8, 0.0: 2}
    assert set(kept.tokens[0][kept.weights[0] > 0] % 4) == {0, 1}


def test_the_report_counts_them(dataset: Dataset) -> None:
    results = Results((Model("m", ("coco",), "", None),), {"coco": dataset}, {("m", "coco"): {}}, {}, {})
    told = warnings(results)
    assert any(line.startswith("coco: 1 of 7 items of the list of questions have boxes that overlap along the axis") for line in told)
    assert any(line.startswith("coco: 3 of 7 items of the list of questions have no boxes that stand as their caption") for line in told)
    # Nothing is merged.
    assert not any("merges of" in line for line in told)


def test_items_without_boxes_are_remembered(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_cache, "LARGE", 0)
    values = dataset_settings(settings(root, items_boxes="largest"))
    found = chosen(settings(root, items_boxes="largest"))
    known = [
        choice_cache.remembered(values, root / "instances.json", [root / "items.json"], lambda: found, tmp_path / "cache.json")
        for _ in range(2)
    ]
    assert known == [found, found]
    assert all(isinstance(one, Chosen) and one.boxes == expected[1] for one, expected in zip(known[1].items, LARGEST, strict=True))


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"the sample of COCO is not at {SAMPLE}")
def test_counts_on_the_sample_of_coco(tmp_path: Path) -> None:
    """An item for every two names of an image, said to stand left to right in the alphabet's order; counted here once more."""
    held = json.loads((SAMPLE / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    names = {each["id"]: each["name"] for each in held["categories"]}
    entries, counts = [[39956, "A photo of a bed to the left of a chair", "?"]], Counter({"not there": 1})
    for image in held["images"]:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for each in held["annotations"]:
            if each["image_id"] == image["id"]:
                by_name.setdefault(names[each["category_id"]], []).append(each)
        for pair in combinations(sorted(by_name), 2):
            entries.append([image["id"], f"A photo of a {pair[0]} to the left of a {pair[1]}", "?"])
            boxes = [max((each["bbox"] for each in by_name[name]), key=lambda box: box[2] * box[3]) for name in pair]
            (left, _, width, _), (other, _, other_width, _) = boxes
            counts["asked"] += 1
            counts["agree"] += left + width / 2 < other + other_width / 2
            counts["overlap"] += left + width / 2 < other + other_width / 2 and left + width > other
            single = all(len(by_name[name]) == 1 and not by_name[name][0]["iscrowd"] for name in pair)
            counts["apart"] += single and left + width <= other
    (tmp_path / "items.json").write_text(json.dumps(entries), encoding="utf-8")
    files = {"images": str(SAMPLE / "val2017"), "annotations": str(SAMPLE / "annotations/instances_val2017.json")}
    values = settings(tmp_path, **files)
    found = chosen(values | {"items_boxes": "largest"})
    assert len(found.items) == counts["asked"] > 100
    assert sum(1 for one in found.items if one.boxes) == counts["agree"] > 50
    assert f"({counts['overlap']} with boxes that overlap along the axis, {counts['asked'] - counts['agree']} without" in found.outlook()
    assert [one.file for one in found.set_aside if "item" in one.file] == ["items.json, item 0"]
    assert len(chosen(values).items) == counts["apart"] > 10
