"""GQA's scene graphs and What'sUp's list about them, against the same photographs as COCO and the boxes themselves."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from natural_set import write_natural_set
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.scene_graphs import read_scene_graphs
from vlm_spatial.scenes.sources.registry import dataset_files, source_of
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.unit

SPLITS = {"train": 4, "validation": 2, "test": 6}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The made set of photographs, with its boxes as scene graphs, beside the COCO JSON of the same boxes."""
    write_natural_set(tmp_path, 12)
    values = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in values["categories"]}
    graphs: dict[str, Any] = {}
    (tmp_path / "vg_images").mkdir()
    for image in values["images"]:
        shutil.copy(tmp_path / "photos" / image["file_name"], tmp_path / "vg_images" / f"{image['id']}.jpg")
        image["file_name"] = f"{image['id']}.jpg"
        graphs[str(image["id"])] = {"width": image["width"], "height": image["height"], "weather": "none", "objects": {}}
    for one in values["annotations"]:
        x, y, width, height = one["bbox"]
        thing = {"name": names[one["category_id"]], "x": x, "y": y, "w": width, "h": height, "attributes": ["red"]}
        graphs[str(one["image_id"])]["objects"][str(one["id"])] = thing | {"relations": [{"name": "near", "object": "0"}]}
    (tmp_path / "graphs.json").write_text(json.dumps(graphs, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "instances.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return tmp_path


def settings(root: Path, kind: str = "gqa", **changes: Any) -> dict[str, Any]:
    boxes = {"scene_graphs": str(root / "graphs.json")} if kind == "gqa" else {"annotations": str(root / "instances.json")}
    templates = ["slot_to_object", "relation_to_object"]
    return {"kind": kind, "images": str(root / "vg_images"), "scenes": SPLITS, "templates": templates, **boxes} | changes


def planned(values: dict[str, Any]) -> Any:
    return source_of(values["kind"]).plan(dataset_settings(values), 0)


def test_scene_graphs_give_the_scenes_of_the_same_boxes(root: Path) -> None:
    shown = []
    for kind in ("gqa", "coco"):
        plan = planned(settings(root, kind))
        shown.append({(one.scene_id, one.scene.background, one.scene.objects, one.scene.boxes) for one in plan.scenes})
    assert shown[0] == shown[1]
    assert len(shown[0]) > 10
    assert root / "graphs.json" in dataset_files(settings(root))


@pytest.mark.slow
def test_the_list_is_checked_against_the_boxes(root: Path, tmp_path: Path) -> None:
    graphs = json.loads((root / "graphs.json").read_text(encoding="utf-8"))
    # Things stand on one diagonal, from the top left to the bottom right.
    key, graph = next(iter(graphs.items()))
    first, second = sorted((one for one in graph["objects"].values() if one["name"] != "person"), key=lambda one: one["x"])[:2]
    one, other = first["name"], second["name"]
    entries = [
        [int(key), f"A photo of a {one} to the left of a {other}", f"A photo of a {one} to the right of a {other}"],
        [int(key), f"A photo of a {other} below a {one}", f"A photo of a {other} above a {one}"],
        [int(key), f"A photo of a {one} to the right of a {other}", f"A photo of a {one} to the left of a {other}"],
        [int(key), f"A photo of a {one} in front of a {other}", f"A photo of a {one} behind a {other}"],
        [int(key), f"A photo of a person to the left of a {other}", f"A photo of a person to the right of a {other}"],
        [7, "A photo of a cup above a plate", "A photo of a cup below a plate"],
    ]
    (root / "list.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    values = settings(root, questions=str(root / "list.json"))
    scenes_stage(Job({"dataset": values, "name": "gqa"}, {}, {"folder": tmp_path / "out"}))
    dataset = Dataset.open(tmp_path / "out")
    items = dataset.scenes.filter(variant="photo")
    assert items.select("axis", "objects").rows() == [("horizontal", [one, other]), ("vertical", [one, other])]
    asked = dataset.questions.filter(pl.col("variant") == "photo", template="relation_to_object")
    assert asked.height == 8
    for row in asked.iter_rows(named=True):
        early, late = ("left", "right") if row["axis"] == "horizontal" else ("above", "below")
        named = row["prompt"].split("the ", 1)[1]
        assert row["answer"] == (early if named.startswith(one) else late)
    reasons = dict(pl.read_parquet(tmp_path / "out" / "set_aside.parquet").select("file", "reason").iter_rows())
    assert "are the other way round" in reasons["list.json, item 2"]
    assert "is about depth, which boxes do not tell" in reasons["list.json, item 3"]
    assert "2 boxes of 'person', one is needed" in reasons["list.json, item 4"]
    assert reasons["list.json, item 5"] == "image 7 is not there, or has no boxes"


def test_an_image_that_is_wrong_is_set_aside_with_its_reason(root: Path) -> None:
    graphs = json.loads((root / "graphs.json").read_text(encoding="utf-8"))
    keys = list(graphs)
    del graphs[keys[0]]["objects"]
    next(iter(graphs[keys[1]]["objects"].values())).pop("w")
    next(iter(graphs[keys[2]]["objects"].values()))["x"] = "left"
    (root / "vg_images" / f"{keys[3]}.jpg").unlink()
    text = json.dumps(graphs, ensure_ascii=False)
    # A second graph of an image, which Python's own reader would let replace the first.
    (root / "graphs.json").write_text(f'{text[:-1]}, "{keys[4]}": {{"objects": {{}}}}}}', encoding="utf-8")
    reasons = {item.file: item.reason for item in planned(settings(root)).set_aside}
    assert reasons[f"graphs.json, image {keys[0]}"] == "has no objects"
    assert reasons[f"{keys[1]}.jpg"] == "has an object without name, x, y, w, h"
    assert "must be numbers of pixels" in reasons[f"{keys[2]}.jpg"]
    assert reasons[f"{keys[3]}.jpg"].startswith("no such file")
    assert reasons[f"{keys[4]}.jpg"] == f"id {keys[4]} is that of two images in the file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "must be GQA's scene graphs"),
        (b"{}", "has no image with objects"),
        (b'{"1": {"width": 4', "is not JSON"),
        (b'{"1": {"objects": {}}', "it ends in the middle"),
        (b"\xff\xfe{\x00", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "graphs.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"graphs\.json: .*{reason}") as caught:
        read_scene_graphs(tmp_path / "graphs.json")
    assert "\n" not in str(caught.value)


def test_what_is_absent_is_not_known(root: Path) -> None:
    with pytest.raises(UserError, match="'content' needs objects known to be absent, which scene graphs do not give"):
        parse_config({"datasets": {"gqa": settings(root, templates=["slot_to_object", "content"])}})
