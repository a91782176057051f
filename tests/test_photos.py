"""Photos: loading with every kind of damage, boxes against the truth, merges pixel by pixel, and the stage on a made set."""

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from photo_set import HEIGHT as MADE_HEIGHT
from photo_set import photo, write_photo_set
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.boxes_file import boxes_from_file, read_boxes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.merge import FRAME, framed, join, plan_merge, plan_self_merge, plan_window
from vlm_spatial.scenes.opening import upright_size
from vlm_spatial.scenes.photo_alignment import PHOTO_GRIDS
from vlm_spatial.scenes.photo_boxes import GOOD, ObjectBoxes, find_boxes
from vlm_spatial.scenes.photo_dataset import plan_photos
from vlm_spatial.scenes.photos import HEIGHT, load_entries, open_photo
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import Box, TokenGrid, matched_blocks

pytestmark = [pytest.mark.unit, pytest.mark.slow]

# Real photos are not this project's to copy: a folder of the published layout, named here or lying beside the repository.
SAMPLE_VARIABLE, SAMPLE_BESIDE = "VLM_SPATIAL_WHATSUP_SAMPLE", "../shared/whatsup_sample"
SAMPLE = Path(os.environ.get(SAMPLE_VARIABLE) or Path(__file__).parents[1] / SAMPLE_BESIDE)
WITH_SAMPLE = pytest.mark.skipif(
    not SAMPLE.is_dir(), reason=f"the four What'sUp photos are neither in ${SAMPLE_VARIABLE} nor in {SAMPLE_BESIDE} beside the repository"
)
THINGS = ("mug", "can", "lamp", "phone")
PAIRS = {"vision": 12, "language": 12, "conflict": 18}
SPLITS = {"train": 0, "validation": 0, "test": 60}


def run(root: Path, folder: Path, **changes: object) -> Path:
    dataset = {"kind": "whatsup", "root": str(root), "scenes": SPLITS, "variants": {"mirror": True}} | changes
    scenes_stage(Job({"dataset": dataset, "name": "photos", "seed": 0}, {}, {"folder": folder}))
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """The made photo set and its true boxes."""
    root = tmp_path_factory.mktemp("photos")
    truth = write_photo_set(root, references=("plate", "book"), things=THINGS)
    (root / "boxes.json").write_text(json.dumps(truth), encoding="utf-8")
    return root, truth


@pytest.fixture(scope="session")
def dataset(made: tuple[Path, dict[str, dict]], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(run(made[0], tmp_path_factory.mktemp("scenes") / "photos", pairs=PAIRS))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A set of one reference and two objects, to be damaged."""
    write_photo_set(tmp_path / "small", references=("plate",), things=("mug", "lamp"))
    return tmp_path / "small"


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    return shared / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared)


def test_found_boxes_agree_with_the_truth() -> None:
    relations = ("left_of", "right_of", "in-front_of", "behind")
    for thing, reference in (("mug", "plate"), ("lamp", "book"), ("can", "bowl")):
        made = [photo(thing, relation, reference, seed=index) for index, relation in enumerate(relations)]
        pixels = [np.asarray(image.resize((597, HEIGHT), Image.Resampling.LANCZOS)) for image, _ in made]
        for (_, truth), found, relation in zip(made[:2], find_boxes(pixels)[:2], relations, strict=False):
            assert found is not None
            assert found.source == "difference"
            assert found.quality > 0.8
            left, right = (thing, reference) if relation == "left_of" else (reference, thing)
            for word, box in ((left, found.left), (right, found.right)):
                scaled = tuple(edge * HEIGHT / MADE_HEIGHT for edge in truth[word])
                assert overlap(box, scaled) > 0.85, (word, box, scaled)


def test_hopeless_photos_have_no_boxes_or_poor_ones() -> None:
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (HEIGHT, 600, 3), dtype=np.uint8) for _ in range(4)]
    assert all(boxes is None or boxes.quality < GOOD for boxes in find_boxes(noise))
    same = [np.full((HEIGHT, 600, 3), 90, dtype=np.uint8)] * 4
    assert find_boxes(same) == [None] * 4
    assert find_boxes(same[:1]) == [None]
    # Two objects over one another are not left and right of each other.
    stacked = [
        np.asarray(photo("mug", relation, "plate", 5)[0].resize((597, HEIGHT))) for relation in ("in-front_of", "left_of", "right_of")
    ]
    front = find_boxes(stacked)[0]
    assert front is None or front.quality < GOOD


def test_a_merge_shows_each_photo_on_its_side_of_the_seam_and_cuts_nothing() -> None:
    first = np.full((HEIGHT, 600, 3), 100, dtype=np.uint8)
    second = np.full((HEIGHT, 600, 3), 110, dtype=np.uint8)
    boxes = [
        ObjectBoxes((50, 200, 120, 280), (300, 220, 380, 300), "file", 1.0, {}),
        ObjectBoxes((100, 220, 180, 300), (380, 210, 440, 280), "file", 1.0, {}),
    ]
    colours = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    for picture, pair, paint in ((first, boxes[0], colours[:2]), (second, boxes[1], colours[1:])):
        for (left, top, right, bottom), colour in zip((pair.left, pair.right), paint, strict=True):
            picture[int(top) : int(bottom), int(left) : int(right)] = colour
    plan = plan_merge(boxes[0], boxes[1], 600)
    assert plan.shift == 200
    assert plan.boxes[2] == (580, 210, 640, 280)
    assert 380 <= plan.low <= plan.high <= 580
    merged = join(first, second, plan)
    assert merged.shape == (HEIGHT, 800, 3)
    for box, colour in zip(plan.boxes, colours, strict=True):
        left, top, right, bottom = map(int, box)
        # The second photo is levelled to the first, ten steps darker.
        wanted = np.clip(np.array(colour) - (10 if colour == colours[2] else 0), 0, 255)
        assert (merged[top:bottom, left:right] == wanted).all()
    outside = np.ones(merged.shape[:2], dtype=bool)
    for left, top, right, bottom in plan.boxes:
        outside[int(top) : int(bottom), int(left) : int(right)] = False
    # No second reference, no step at the seam.
    assert (merged[outside] == 100).all()


def test_a_self_merge_only_moves_the_right_object_away() -> None:
    generator = np.random.default_rng(1)
    picture = np.broadcast_to(generator.integers(60, 200, (HEIGHT, 1, 3)), (HEIGHT, 600, 3)).astype(np.uint8).copy()
    boxes = ObjectBoxes((60, 200, 140, 280), (320, 220, 400, 300), "file", 1.0, {})
    picture[200:280, 60:140] = 255
    picture[220:300, 320:400] = 0
    plan = plan_self_merge(boxes, 600)
    assert plan.shift == 60
    merged = join(picture, picture, plan)
    expected = np.broadcast_to(picture[:, :1], (HEIGHT, 660, 3)).copy()
    expected[200:280, 60:140] = 255
    expected[220:300, 380:460] = 0
    assert (merged == expected).all()


def test_merges_without_room_or_of_different_sizes_say_so() -> None:
    touching = ObjectBoxes((50, 200, 120, 280), (124, 220, 200, 300), "file", 1.0, {})
    with pytest.raises(UserError, match="no room for a seam between the reference"):
        plan_merge(touching, touching, 600)
    with pytest.raises(UserError, match="no room for a seam between its objects"):
        plan_self_merge(touching, 600)
    apart = ObjectBoxes((50, 200, 120, 280), (300, 220, 380, 300), "file", 1.0, {})
    with pytest.raises(UserError, match="photos of 600×448 and 500×448 pixels cannot be merged"):
        join(np.zeros((448, 600, 3), np.uint8), np.zeros((448, 500, 3), np.uint8), plan_merge(apart, apart, 600))


@given(st.integers(300, 1500), st.data())
def test_windows_keep_the_frame_s_shape_and_hold_the_objects(width: int, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, HEIGHT - 2))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, HEIGHT))
    scale = min(width / FRAME[0], HEIGHT / FRAME[1])
    if right - left > FRAME[0] * scale or bottom - top > FRAME[1] * scale:
        with pytest.raises(UserError, match="objects span"):
            plan_window(((left, top, right, bottom),), width, HEIGHT)
        return
    window = plan_window(((left, top, right, bottom),), width, HEIGHT)
    assert window.width / window.height == pytest.approx(FRAME[0] / FRAME[1])
    assert window.left >= 0
    assert window.left + window.width <= width + 1e-6
    box = window.box((left, top, right, bottom))
    assert min(box) >= -1e-6
    assert box[2] <= FRAME[0] + 1e-6
    assert box[3] <= FRAME[1] + 1e-6
    assert framed(np.zeros((HEIGHT, width, 3), np.uint8), window).size == FRAME


def test_the_stage_makes_photos_merges_and_pairs(dataset: Dataset) -> None:
    variants = dict(dataset.scenes.group_by("variant").len().iter_rows())
    assert variants["photo"] == variants["self_merge"] == 16
    assert variants["main"] == variants["mirror"] == 24
    # A vision pair has an unrelated scene, too; a conflict pair is one picture.
    assert Counter(dataset.pairs["experiment"]) == PAIRS
    assert variants["pair"] == 3 * PAIRS["vision"] + 2 * PAIRS["language"] + PAIRS["conflict"]
    assert set(dataset.scenes["axis"]) == {"horizontal"}
    for row in dataset.scenes.iter_rows(named=True):
        assert (row["width"], row["height"]) == FRAME
        assert dataset.image(row["scene_id"]).size == FRAME
        assert row["box_source"] == "difference"
        assert GOOD <= row["box_quality"] <= 1
        assert row["slots"] == ([0, 1, 2] if len(row["objects"]) == 3 else [0, 2])
        tokens = dataset.tokens(row["scene_id"], TokenGrid(16, 24))
        assert (tokens.objects.sum(axis=1) > 0).all()
    two = dataset.questions.filter(pl.col("variant") == "photo")
    assert set(two["slot"]) == {0, 2}
    assert "middle" not in " ".join(two["prompt"])


def test_text_alone_tells_half_of_photos_and_two_thirds_of_merges(dataset: Dataset) -> None:
    """The best guesser that has seen every text with its answers, and so knows the references, which merges have in the middle."""
    for variant, share in (("photo", 1 / 2), ("self_merge", 1 / 2), ("main", 2 / 3), ("mirror", 2 / 3)):
        asked = dataset.questions.filter(variant=variant)
        texts = ["template", "prompt", "candidates"]
        best = asked.group_by([*texts, "answer"]).len().group_by(texts).agg(pl.col("len").max())
        found = {name: best.filter(template=name)["len"].sum() / asked.filter(template=name).height for name in set(asked["template"])}
        # Of two objects, the one that a relation does not name would be the answer.
        templates = {"slot_to_object", "object_to_slot"} | ({"relation_to_object"} if share > 1 / 2 else set())
        assert found == dict.fromkeys(templates, pytest.approx(share)), variant


def test_merged_boxes_hold_the_objects_they_name(dataset: Dataset) -> None:
    """Objects of the made set have known colours: the middle of each box must have its object's."""
    from photo_set import THINGS as COLOURS

    for row in dataset.scenes.filter(pl.col("variant").is_in(["main", "mirror", "self_merge"])).iter_rows(named=True):
        image = np.asarray(dataset.image(row["scene_id"])).astype(int)
        for word, (left, top, right, bottom) in zip(row["objects"], row["boxes"], strict=True):
            middle = image[int((top + bottom) / 2), int((left + right) / 2)]
            assert np.abs(middle - COLOURS[word]).max() < 25, (row["scene_id"], word)


def test_vision_pairs_of_photos_exchange_the_outer_objects(dataset: Dataset) -> None:
    for row in dataset.pairs.filter(pl.col("experiment") == "vision").iter_rows(named=True):
        clean, other, unrelated = (dataset.row(row[key]) for key in ("clean_scene", "counterfactual_scene", "unrelated_scene"))
        assert clean["objects"] == other["objects"][::-1]
        assert not set(unrelated["objects"]) & set(clean["objects"])
        assert row["prompt"] == row["counterfactual_prompt"]
        assert row["hypotheses"]["stay"] == row["clean_answer"] != row["hypotheses"]["flip"] == row["counterfactual_answer"]


def test_language_and_conflict_pairs_of_photos_can_be_exchanged_block_for_block(dataset: Dataset) -> None:
    merged = {tuple(row["objects"]): row for row in dataset.scenes.filter(variant="main").iter_rows(named=True)}
    for row in dataset.pairs.filter(pl.col("experiment") != "vision").iter_rows(named=True):
        clean, other = dataset.row(row["clean_scene"]), dataset.row(row["counterfactual_scene"])
        if row["experiment"] == "language":
            assert not set(clean["objects"]) & set(other["objects"])
            assert set(row["hypotheses"].values()) - {None} == {
                clean["objects"][row["slots"][0]],
                *(other["objects"][s] for s in row["slots"]),
            }
        else:
            assert clean["scene_id"] == other["scene_id"]
            assert {row["hypotheses"]["stay"], row["hypotheses"]["move"]} <= set(row["candidates"])
        assert row["prompt"] == row["counterfactual_prompt"]
        assert row["unrelated_scene"] is None
        for scene in (clean, other):
            assert [scene["boxes"][slot] for slot in row["slots"]] == [clean["boxes"][slot] for slot in row["slots"]]
            # The widened boxes hold the objects of the picture, and no other object.
            for slot in range(3):
                left, top, right, bottom = scene["boxes"][slot]
                for place, inner in enumerate(merged[tuple(scene["objects"])]["boxes"]):
                    if place == slot:
                        assert left <= inner[0] + 1e-3
                        assert right >= inner[2] - 1e-3
                        assert top <= inner[1] + 1e-3
                        assert bottom >= inner[3] - 1e-3
                    else:
                        assert right <= inner[0] + 1e-3 or left >= inner[2] - 1e-3
            for grid in PHOTO_GRIDS:
                first, second = matched_blocks(dataset.tokens(scene["scene_id"], grid), *row["slots"], "object")
                assert len(first) == len(second) > 0


def test_fifty_pairs_of_few_photos_ask_everything_equally_often_and_nothing_twice(made: tuple[Path, dict[str, dict]]) -> None:
    settings = dataset_settings({"kind": "whatsup", "root": str(made[0]), "scenes": SPLITS, "boxes": str(made[0] / "boxes.json")})
    planned = plan_photos(settings, 0)
    objects = {item.scene_id: item.scene.objects for item in planned.scenes}
    for experiment, templates in (("vision", 3), ("conflict", 3), ("language", 1)):
        pairs = [pair for pair in planned.pairs if pair.experiment == experiment]
        assert len(pairs) == 50
        counts = Counter(pair.template for pair in pairs)
        assert len(counts) == templates
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len({(pair.template, pair.slots, objects[pair.clean_scene]) for pair in pairs}) == 50


def test_pairs_that_cannot_be_made_are_counted(small: Path, tmp_path: Path) -> None:
    folder = run(small, tmp_path / "out")
    aside = pl.read_parquet(folder / "set_aside.parquet")
    made = Counter(Dataset.open(folder).pairs["experiment"])
    for experiment in ("vision", "language"):
        assert made[experiment] == 0
        [reason] = aside.filter(pl.col("file") == f"{experiment} pairs")["reason"]
        assert reason.startswith("0 of 50 made: no further")


def test_a_photo_taken_upright_keeps_its_boxes(small: Path, tmp_path: Path) -> None:
    """A camera held upright stores the pixels lying and says so; boxes are of the photo as it is looked at."""
    listing = json.loads((small / "data/controlled_clevr_dataset.json").read_text(encoding="utf-8"))
    boxes = {}
    for item in listing:
        with Image.open(small / item["image_path"]) as image:
            lying = image.transpose(Image.Transpose.ROTATE_90)
            boxes[item["image_path"]] = {
                word: [x, 300, x + 90, 400] for word, x in zip(("mug", "lamp", "plate"), (200, 200, 700), strict=True)
            }
            if "right_of" in item["image_path"]:
                boxes[item["image_path"]] = {
                    word: [x, 300, x + 90, 400] for word, x in zip(("mug", "lamp", "plate"), (700, 700, 200), strict=True)
                }
        exif = Image.Exif()
        exif[0x0112] = 6
        lying.save(small / item["image_path"], exif=exif)
        assert upright_size(small / item["image_path"]) == (1120, 840)
        assert open_photo(small / item["image_path"]).shape == (HEIGHT, 597, 3)
    (tmp_path / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    dataset = Dataset.open(run(small, tmp_path / "out", boxes=str(tmp_path / "boxes.json")))
    assert dataset.scenes.filter(variant="photo").height == 4


def test_splits_share_no_photo(made: tuple[Path, dict[str, dict]], tmp_path: Path) -> None:
    dataset = Dataset.open(
        run(made[0], tmp_path / "split", scenes={"train": 30, "validation": 30, "test": 30}, boxes=str(made[0] / "boxes.json"))
    )
    photos = dataset.scenes.filter(pl.col("variant") == "photo")
    objects = {
        split: {(tuple(sorted(row["objects"])), row["background"]) for row in photos.filter(pl.col("split") == split).iter_rows(named=True)}
        for split in ("train", "validation", "test")
    }
    assert all(objects.values())
    assert not objects["train"] & objects["test"]
    assert not objects["train"] & objects["validation"]
    assert not objects["validation"] & objects["test"]


def test_boxes_from_a_file_are_used_as_given(made: tuple[Path, dict[str, dict]], tmp_path: Path) -> None:
    root, truth = made
    given_boxes = {name: boxes for name, boxes in truth.items() if "_of_" in name}
    broken = next(name for name in given_boxes if "left_of" in name)
    given_boxes[broken] = {word: [0, 0, 99999, 5] for word in given_boxes[broken]}
    (tmp_path / "boxes.json").write_text(json.dumps(given_boxes), encoding="utf-8")
    folder = run(root, tmp_path / "given", boxes=str(tmp_path / "boxes.json"))
    dataset = Dataset.open(folder)
    assert set(dataset.scenes["box_source"]) == {"file"}
    aside = pl.read_parquet(folder / "set_aside.parquet")
    assert aside["file"].to_list().count(broken) == 1
    assert "is empty or not inside the 1120×840 photo" in aside.filter(pl.col("file") == broken)["reason"][0]
    assert dataset.scenes.filter(pl.col("variant") == "photo").height == 15


def spoil_entries(root: Path, change: Callable[[list[dict]], object]) -> None:
    path = root / "data/controlled_clevr_dataset.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    change(entries)
    path.write_text(json.dumps(entries), encoding="utf-8")


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


# By the photo that is spoiled: how, and what is said of it.
BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "mug_left_of_plate": (lambda path: path.unlink(), "no such file"),
    "lamp_left_of_plate": (lambda path: path.write_bytes(b"not a photo"), "is not a readable photo"),
    "can_left_of_plate": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is not a readable photo"),
    "can_right_of_plate": (bomb, "is not a readable photo|more than the"),
    "phone_right_of_plate": (lambda path: Image.new("RGB", (300, 840)).save(path), "is shaped unlike"),
}
BAD_ENTRIES: dict[str, tuple[Callable[[dict], object], str]] = {
    "phone_left_of_plate": (lambda entry: entry.pop("caption_options"), "has no caption_options"),
    "lamp_right_of_plate": (lambda entry: entry.update(caption_options=["A lamp behind a plate"]), "contradicts the file name"),
    "mug_right_of_plate": (lambda entry: entry.update(caption_options=["Nice."]), "does not say which object is where"),
}


def test_bad_photos_are_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_photo_set(root, references=("plate", "book"), things=THINGS)
    for name, (write, _) in BAD_FILES.items():
        write(root / f"data/controlled_clevr/{name}.jpeg")

    def change(entries: list[dict]) -> None:
        by_name = {Path(entry["image_path"]).stem: entry for entry in entries}
        for name, (spoil, _) in BAD_ENTRIES.items():
            spoil(by_name[name])
        entries.append(by_name["mug_behind_plate"])

    spoil_entries(root, change)
    folder = run(root, tmp_path / "out")
    aside = pl.read_parquet(folder / "set_aside.parquet")
    reasons = {name: reason for name, (_, reason) in (BAD_FILES | BAD_ENTRIES).items()} | {"mug_behind_plate": "is listed twice"}
    for name, reason in reasons.items():
        said = aside.filter(pl.col("file").str.contains(name))["reason"]
        assert said.str.contains(reason).any(), (name, said.to_list())
    assert Dataset.open(folder).scenes.filter(pl.col("variant") == "photo").height >= 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_path": 3}, "has no image_path"),
        ({"image_path": "../../secret_left_of_plate.jpeg"}, "outside"),
        ({"image_path": "data/mug.jpeg"}, "is not named"),
    ],
)
def test_bad_entries_are_named(small: Path, change: dict, reason: str) -> None:
    spoil_entries(small, lambda entries: entries[0].update(change))
    photos, aside = load_entries(small, "B")
    assert len(photos) == 7
    assert len(aside) == 1
    assert reason in aside[0].reason


def test_unusable_sets_end_with_one_line(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"controlled_images_dataset.json: no such file; root must be"):
        run(small, tmp_path / "out", subset="A")
    listing = small / "data/controlled_clevr_dataset.json"
    for path in (small / "data/controlled_clevr").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 8 photos is usable, 8 set aside; the first is data/controlled_clevr/"):
        run(small, tmp_path / "out")
    listing.write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON"):
        run(small, tmp_path / "out")
    listing.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="must be a list of photos"):
        run(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_boxes_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; give a JSON file of boxes"):
        read_boxes(tmp_path / "none.json")
    (tmp_path / "boxes.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="must map each image_path to the boxes"):
        read_boxes(tmp_path / "boxes.json")
    good = {"a": [0, 0, 10, 10], "b": [20, 0, 30, 10]}
    assert boxes_from_file({"p": good}, "p", "a", "b", 100, 50, 2.0).right == (40, 0, 60, 20)
    for entry_, reason in (
        ({}, "no boxes for it"),
        ({"p": {"a": [0, 0, 1]}}, "must be"),
        ({"p": good | {"b": [90, 0, 101, 10]}}, "not inside the 100×50 photo"),
        ({"p": {"a": good["b"], "b": good["a"]}}, "is not left of"),
        ({"p": {"a": [0, 0, 0.4, 1], "b": [0.5, 0, 1, 1]}}, "is in shares of the sides; boxes are in pixels, here of 100×50"),
    ):
        with pytest.raises(UserError, match=reason):
            boxes_from_file(entry_, "p", "a", "b", 100, 50, 1.0)


@WITH_SAMPLE
def test_the_real_photos_go_through_loader_boxes_and_merge() -> None:
    photos, aside = load_entries(SAMPLE, "B")
    assert len(photos) == 4
    assert not aside
    pixels = [open_photo(item.path, 598) for item in photos]
    boxes = {item.relation: found for item, found in zip(photos, find_boxes(pixels), strict=True)}
    # Measured by hand on the photos scaled to height 448.
    by_hand = {"left_of": ((91, 156, 219, 279), (293, 215, 472, 315)), "right_of": ((110, 203, 280, 292), (351, 151, 476, 268))}
    for relation, (left, right) in by_hand.items():
        assert boxes[relation].quality > 0.9
        assert overlap(boxes[relation].left, left) > 0.9
        assert overlap(boxes[relation].right, right) > 0.9
    assert boxes["behind"] is None or boxes["behind"].quality < GOOD
    shown = {item.relation: picture for item, picture in zip(photos, pixels, strict=True)}
    plan = plan_merge(boxes["left_of"], boxes["right_of"], 598)
    merged = join(shown["left_of"], shown["right_of"], plan)
    left, top, right, bottom = map(int, plan.boxes[2])
    # The right mug is the photo's, but for the level of the table's light; the seam leaves no step.
    original = shown["right_of"][top:bottom, left - plan.shift : right - plan.shift].astype(int)
    assert np.abs(merged[top:bottom, left:right] - original).mean() < 20
    steps = np.abs(np.diff(merged[:100].astype(int), axis=1)).mean(axis=(0, 2))
    assert steps[plan.low : plan.high].max() < 3 * np.median(steps) + 2


@WITH_SAMPLE
def test_the_real_photos_become_scenes(tmp_path: Path) -> None:
    """One object has no partner to be merged with: two photos, each also merged with itself, and every pair that is missing is counted."""
    folder = run(SAMPLE, tmp_path / "sample")
    dataset = Dataset.open(folder)
    assert Counter(dataset.scenes["variant"]) == {"photo": 2, "self_merge": 2}
    assert sorted(map(tuple, dataset.scenes.filter(variant="photo")["objects"])) == [("mug", "plate"), ("plate", "mug")]
    assert dataset.scenes["box_quality"].min() > 0.9
    for name in dataset.scenes["scene_id"]:
        image = np.asarray(dataset.image(name)).astype(int)
        assert image.shape == (FRAME[1], FRAME[0], 3)
        # Mug and plate are pale, the table is dark: what the boxes hold is brighter than what is right below them.
        for left, top, right, bottom in ([int(edge) for edge in box] for box in dataset.boxes(name)):
            assert image[top:bottom, left:right].mean() > image[bottom + 10 : bottom + 60, left:right].mean() + 50
    aside = dict(pl.read_parquet(folder / "set_aside.parquet").iter_rows())
    assert {f"{experiment} pairs" for experiment in ("vision", "language", "conflict")} == aside.keys()
