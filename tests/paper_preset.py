"""presets/paper.yaml with its blanks filled in, and cut to a few items."""

import json
from collections.abc import Mapping, Sequence
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
    items = []
    for number in range(6):
        right, wrong = ("to the left of", "to the right of") if number % 2 else ("above", "below")
        items.append(_item(root, number, right, wrong))
    (root / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")


def write_two_items(root: Path) -> None:
    """Two about one image, each thing of the other. What answers "left" to everything is right about one of them, in both orders."""
    left, right = "to the left of", "to the right of"
    items = [_item(root, 0, left, right), _item(root, 0, right, left, turned=True)]
    (root / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")


def _item(root: Path, number: int, right: str, wrong: str, *, turned: bool = False) -> list[Any]:
    """The item of an image: its first thing's place to its last, the other way round if ``turned``."""
    held = json.loads((root / "instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in held["categories"]}
    image = held["images"][number]["id"]
    things = [names[box["category_id"]] for box in held["annotations"] if box["image_id"] == image and names[box["category_id"]] in THINGS]
    first, last = (things[-1], things[0]) if turned else (things[0], things[-1])
    return [image, f"A photo of a {first} {right} a {last}", f"A photo of a {first} {wrong} a {last}"]


def cut(values: dict[str, Any], datasets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A few items of some datasets and two pairs of each experiment. Random models answer wrong, so pairs answered wrong are run, too.

    Pixtral's objects are every triple of three.

    Args:
        datasets: of each model; models that it does not name are left out.
    """
    values["models"] = {name: model | {"datasets": datasets[name]} for name, model in values["models"].items() if name in datasets}
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


def fewest(values: dict[str, Any]) -> dict[str, Any]:
    """Of :func:`cut`'s, what every stage still has something to do with: one pair, one test scene, one question, one strength.

    Scenes of Qwen's drawn datasets have half the side, and so a quarter of the visual tokens.
    """
    for dataset in values["datasets"].values():
        dataset |= {"scenes": {"train": 3, "validation": 1, "test": 1}}
        dataset["pairs"] = {of: min(count, 1) for of, count in dataset["pairs"].items()}
        if dataset["kind"] != "whatsup":
            dataset["axes"] = ["horizontal"]
            dataset["pairs"] |= {"last_token": 0}
        # The items of photographs ask about the second object, too.
        if dataset["kind"] != "coco":
            dataset["asked_slots"] = [0]
        if dataset.get("layout") == "qwen2-vl":
            dataset["layout"] = {"grid": 6, "cell": 28, "side": 1, "gap": 1, "strips": [2, 4]}
    values["activations"] |= {"batch": 8}
    values["behaviour"] |= {"splits": ["validation", "test"]}
    values["interchange"] |= {"last_token_sites": ["language.0"]}
    values["ablation"] |= {"questions": 1, "fit_scenes": 1, "controls": False}
    values["amplification"] |= {"projection_alphas": [2], "oracle_alphas": [1], "control_alphas": [], "item_alphas": [15], "questions": 1}
    values["probes"] |= {"strip_map_scenes": 1}
    return values
