"""Boxes from a zero-shot detector: the interface on a real architecture with random weights, then what becomes of boxes and scores."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from photo_set import write_photo_set
from tiny_detector import write_tiny_detector
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.models.detector import Detector
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.photo_boxes import GOOD
from vlm_spatial.stages.boxes import boxes as boxes_stage
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.workflow.planning import Plan

pytestmark = pytest.mark.model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_detector(tmp_path_factory.mktemp("detector") / "owlvit")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    root = tmp_path_factory.mktemp("photos")
    return root, write_photo_set(root, references=("plate",), things=("mug", "can", "lamp"))


def _is_wanted(name: str) -> bool:
    return "left_of" in name or "right_of" in name


def settings(root: Path, checkpoint: Path, **detector: object) -> dict:
    return {
        "kind": "whatsup",
        "root": str(root),
        "scenes": {"train": 0, "validation": 0, "test": 9},
        "detector": {"checkpoint": str(checkpoint)} | detector,
    }


def test_the_best_box_lies_in_the_picture_and_repeats(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    found = {text: Detector.load(str(folder)).best(Image.fromarray(pixels), text) for text in ("a photo of a mug", "a photo of a plate")}
    again = Detector.load(str(folder)).best(Image.fromarray(pixels), "a photo of a mug")
    assert found["a photo of a mug"] == again
    for detection in found.values():
        assert detection is not None
        left, top, right, bottom = detection.box
        assert 0 <= left < right <= 120
        assert 0 <= top < bottom <= 90
        assert 0 <= detection.score <= 1
    assert found["a photo of a mug"].score != found["a photo of a plate"].score


def test_the_score_is_that_of_the_model_s_best_patch(folder: Path) -> None:
    """Held against the model's own outputs, without the processor's step from outputs to boxes."""
    import torch

    detector = Detector.load(str(folder))
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    inputs = detector.processor(images=image, text=[["a photo of a can"]], return_tensors="pt")
    with torch.inference_mode():
        outputs = detector.model(**inputs)
    score, place = outputs.logits[0, :, 0].sigmoid().max(dim=0)
    x, y, width, height = (64 * float(value) for value in outputs.pred_boxes[0, place])
    found = detector.best(image, "a photo of a can")
    assert found is not None
    assert found.score == pytest.approx(float(score), abs=1e-6)
    expected = (max(0, x - width / 2), max(0, y - height / 2), min(64, x + width / 2), min(64, y + height / 2))
    assert found.box == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_the_stages_run_and_every_photo_is_a_scene_or_set_aside(folder: Path, photos: tuple[Path, dict[str, dict]], tmp_path: Path) -> None:
    dataset = settings(photos[0], folder)
    boxes_stage(
        Job(
            {"dataset": {"kind": "whatsup", "root": str(photos[0]), "detector": dataset["detector"]}},
            {},
            {"boxes": tmp_path / "b.json"},
        )
    )
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert set(found) == {name for name in photos[1] if _is_wanted(name)}
    assert all(len(box) == 5 for entry in found.values() for box in entry.values())
    # Random weights find nothing that is left and right of each other: all is set aside, with the reasons counted.
    with pytest.raises(UserError, match="none of 12 photos is usable, 6 set aside"):
        scenes_stage(Job({"dataset": dataset, "name": "photos", "seed": 0}, {"boxes": tmp_path / "b.json"}, {"folder": tmp_path / "out"}))


@pytest.mark.slow
def test_scores_become_quality_and_doubtful_photos_are_set_aside(
    folder: Path, photos: tuple[Path, dict[str, dict]], tmp_path: Path
) -> None:
    root, truth = photos
    found = {name: {word: [*box, 0.3] for word, box in boxes.items()} for name, boxes in truth.items() if _is_wanted(name)}
    names = sorted(found)
    doubtful, half, missing, swapped = names[:4]
    for word in found[doubtful]:
        found[doubtful][word][4] = 0.05
    for word in found[half]:
        found[half][word][4] = 0.15
    del found[missing]["plate"]
    [first, second] = found[swapped]
    found[swapped][first], found[swapped][second] = found[swapped][second], found[swapped][first]
    (tmp_path / "boxes.json").write_text(json.dumps(found), encoding="utf-8")
    dataset = settings(root, folder, score=0.2)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="run the boxes stage first"):
        scenes_stage(Job({"dataset": dataset, "name": "photos", "seed": 0}, {}, {"folder": out}))
    scenes_stage(Job({"dataset": dataset, "name": "photos", "seed": 0}, {"boxes": tmp_path / "boxes.json"}, {"folder": out}))
    scenes = Dataset.open(out).scenes.filter(variant="photo")
    assert set(scenes["box_source"]) == {"detector"}
    assert sorted(scenes["box_quality"].round(3)) == sorted([0.75] + [1.0] * (len(names) - 4))
    aside = dict(pl.read_parquet(out / "set_aside.parquet").iter_rows())
    assert "doubtful boxes: quality 0.25 < 0.5, lowest factor certain 0.25" in aside[doubtful]
    assert "box of 'plate' must be" in aside[missing]
    assert "is not left of" in aside[swapped]
    assert scenes["box_quality"].min() >= GOOD


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    other = new_checkpoint(tmp_path / "gemma", "gemma3", ["left", "right"])
    with pytest.raises(UserError, match=r"detector .*gemma: cannot be loaded as a zero-shot object detector"):
        Detector.load(str(other))
    with pytest.raises(UserError, match="no such folder"):
        Detector.load(str(tmp_path / "nowhere"))


def test_weights_that_are_missing_are_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if "class_head" not in name}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack .* such as class_head"):
        Detector.load(str(copy))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"detector": {"checkpoint": "google/owlv2-base-patch16-ensemble"}}, "revision: a hub checkpoint needs the 40-digit commit"),
        ({"detector": {"checkpoint": "google/owlv2", "revision": COMMIT, "prompt": "a mug"}}, "prompt: must hold {} once"),
        ({"detector": {"checkpoint": "google/owlv2", "revision": COMMIT}, "boxes": "b.json"}, "boxes and detector: give one of them"),
        ({"axes": ["horizontal", "vertical"]}, "photos are merged side by side, so whatsup has the horizontal axis only"),
        ({"axes": ["vertical"]}, "photos are merged side by side, so whatsup has the horizontal axis only"),
        ({"kind": "squares"}, "root: only a dataset of kind whatsup has it, this one is of kind squares"),
    ],
)
def test_wrong_settings_of_photos_are_refused_in_one_line(photos: tuple[Path, dict[str, dict]], change: dict, reason: str) -> None:
    values = {
        "datasets": {"photos": {"kind": "whatsup", "root": str(photos[0])} | change},
        "models": {"m": {"checkpoint": str(photos[0]), "datasets": ["photos"]}},
    }
    with pytest.raises(UserError, match=reason) as caught:
        parse_config(values)
    assert "\n" not in str(caught.value)


def test_photos_are_horizontal_without_being_told(photos: tuple[Path, dict[str, dict]]) -> None:
    values = {
        "datasets": {"photos": {"kind": "whatsup", "root": str(photos[0])}},
        "models": {"m": {"checkpoint": str(photos[0]), "datasets": ["photos"]}},
    }
    config = parse_config(values)
    assert config.datasets["photos"].axes == ("horizontal",)
    assert Plan(config).scenes("photos")["dataset"]["axes"] == ["horizontal"]


def test_the_detector_s_files_are_part_of_what_the_boxes_depend_on(folder: Path, photos: tuple[Path, dict[str, dict]]) -> None:
    values = {"datasets": {"photos": settings(photos[0], folder)}, "models": {"m": {"checkpoint": str(folder), "datasets": ["photos"]}}}
    plan = Plan(parse_config(values))
    content = plan.content(plan.settings("boxes", ("photos",)))
    assert str(folder / "model.safetensors") in content
    assert str(photos[0] / "data/controlled_clevr_dataset.json") in content
