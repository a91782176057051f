"""presets/paper.yaml with its blanks filled in, and cut to a few items."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from natural_set import THINGS, write_natural_set
from photo_set import write_subset_a

PRESET = Path(__file__).parents[1] / "presets/paper.yaml"
OBJECTS = ("orange", "apple", "pot", "bell", "hat", "rose", "key", "bomb")
REVISION = "0123456789abcdef0123456789abcdef01234567"


def filled(folder: Path, checkpoints: Mapping[str, Path], seven: int = 7) -> dict[str, Any]:
    """The preset with pictures and photographs made below ``folder``.

    Args:
        checkpoints: by the beginning of models' names; other models keep their hub id and get some commit.
        seven: pictures in Pixtral's folder.
    """
    values: dict[str, Any] = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    for name, words in (("eight", OBJECTS), ("seven", OBJECTS[:seven])):
        (folder / name).mkdir()
        for word in words:
            Image.new("RGBA", (4, 4), "red").save(folder / name / f"{word}.png")
    # Stands for the tokenizer of a model that is not at hand.
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    write_subset_a(folder / "whatsup")
    write_natural_set(folder / "coco")
    write_items(folder / "coco")
    for name, dataset in values["datasets"].items():
        match dataset["kind"]:
            case "objects":
                dataset["pictures"] = str(folder / ("seven" if "pixtral" in name else "eight"))
            case "whatsup":
                dataset["root"] = str(folder / "whatsup")
                dataset["one_token_in"] = str(checkpoints.get(name.removeprefix("whatsup-"), folder))
            case "coco":
                photos = {"images": "photos", "annotations": "instances.json", "questions": "items.json"}
                dataset |= {key: str(folder / "coco" / path) for key, path in photos.items()}
    for name, model in values["models"].items():
        found = checkpoints.get(name.split("-")[0].removesuffix("2"))
        if found is None:
            model["revision"] = REVISION
        else:
            model["checkpoint"] = str(found)
            del model["revision"]
    return values


def write_items(root: Path) -> None:
    """What'sUp's list of two objects about images of ``write_natural_set``: the first and the last thing of each of six."""
    held = json.loads((root / "instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in held["categories"]}
    items = []
    for number, image in enumerate(held["images"][:6]):
        boxes = [each for each in held["annotations"] if each["image_id"] == image["id"] and names[each["category_id"]] in THINGS]
        first, last = (names[each["category_id"]] for each in (boxes[0], boxes[-1]))
        right, wrong = ("to the left of", "to the right of") if number % 2 else ("above", "below")
        items.append([image["id"], f"A photo of a {first} {right} a {last}", f"A photo of a {first} {wrong} a {last}"])
    (root / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")


# Of each model: every family, every kind of dataset and every quirk of the preset.
FEWER_DATASETS = {
    "qwen2-vl-7b": ["shapes-qwen", "whatsup-qwen"],
    "qwen2-vl-7b-running": ["squares-qwen"],
    "gemma-3-4b": ["squares-gemma"],
    "pixtral-12b": ["objects-pixtral"],
    "pixtral-12b-coco": ["coco"],
}


def cut(values: dict[str, Any]) -> dict[str, Any]:
    """A few items of some datasets and two pairs of each experiment. Random models answer wrong, so pairs answered wrong are run, too.

    Pixtral's objects are every triple of three.
    """
    values["models"] = {
        name: model | {"datasets": FEWER_DATASETS[name]} for name, model in values["models"].items() if name in FEWER_DATASETS
    }
    used = {name for model in values["models"].values() for name in model["datasets"]}
    values["datasets"] = {name: dataset for name, dataset in values["datasets"].items() if name in used}
    for dataset in values["datasets"].values():
        drawn = dataset["kind"] not in ("whatsup", "coco")
        dataset["variants"] = {"decorrelated": {"train": 1, "validation": 1, "test": 1}} if drawn else {}
        dataset["pairs"] = {name: min(count, 2) for name, count in dataset["pairs"].items()}
        dataset["scenes"] = {"train": 4, "validation": 1, "test": 2}
        if dataset.get("pictures", "").endswith("seven"):
            dataset["scenes"] = {"train": 4, "validation": 1, "test": 1}
            dataset["pairs"] |= {"last_token": 0}
        elif drawn:
            dataset["items"] = "sampled"
    for section in ("interchange", "ablation"):
        values[section]["pool"]["first"] = 0
    values["amplification"] |= {"projection_alphas": [1, 2], "oracle_alphas": [0, 1], "control_alphas": [2], "item_alphas": [0, 1, 15]}
    # Of what random models write no word is an answer.
    values["amplification"] |= {"questions": 9, "random_draws": 2, "items_right_by": "candidates"}
    values["probes"] |= {"strengths": [1.0]}
    values["figures"]["explorer_scenes"] = 2
    values["figures"]["published"] = {name: of for name, of in values["figures"]["published"].items() if name in values["models"]}
    return values
