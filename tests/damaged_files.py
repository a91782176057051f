"""Files that a configuration names, damaged in every way that a user meets, and what the line about each must say.

``lay_out`` makes a folder with a configuration whose files are all whole; each of ``DAMAGED`` harms one of them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CONFIG = {
    "datasets": {
        "squares": {"kind": "squares"},
        "photos": {"kind": "whatsup", "root": "photos", "boxes": "boxes.json"},
        "found": {"kind": "whatsup", "root": "photos", "detector": {"checkpoint": "detector"}},
    },
    "models": {"mine": {"checkpoint": "checkpoint", "datasets": ["squares"]}},
}
LIST = "photos/data/controlled_clevr_dataset.json"
RELATIONS = {"left_of": "to the left of", "right_of": "to the right of", "behind": "behind"}
Harm = Callable[[Path], None]


def lay_out(folder: Path, checkpoint: Path) -> None:
    """Configuration, checkpoint, detector, photos and their boxes in an empty folder; nothing is looked at more closely before a job."""
    shutil.copytree(checkpoint, folder / "checkpoint")
    shutil.copytree(checkpoint, folder / "detector")
    (folder / "photos/data/controlled_clevr").mkdir(parents=True)
    entries, boxes = [], {}
    for relation, words in RELATIONS.items():
        name = f"data/controlled_clevr/mug_{relation}_plate.jpeg"
        Image.new("RGB", (40, 30)).save(folder / "photos" / name)
        entries.append({"image_path": name, "caption_options": [f"A mug {words} a plate"]})
        boxes[name] = {"mug": [1, 1, 9, 9], "plate": [21, 1, 29, 9]}
    (folder / LIST).write_text(json.dumps(entries), encoding="utf-8")
    (folder / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    (folder / "workflow_config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False), encoding="utf-8")


def gone(path: str) -> Harm:
    def harm(folder: Path) -> None:
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return harm


def holds(path: str, content: str | bytes) -> Harm:
    def harm(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return harm


def cut_short(path: str, by: int = 100) -> Harm:
    def harm(folder: Path) -> None:
        (folder / path).write_bytes((folder / path).read_bytes()[:-by])

    return harm


def edited(path: str, change: Callable[[Any], object]) -> Harm:
    """A JSON file with ``change`` made, in place, to what it holds."""

    def harm(folder: Path) -> None:
        value = json.loads((folder / path).read_text(encoding="utf-8"))
        change(value)
        (folder / path).write_text(json.dumps(value), encoding="utf-8")

    return harm


def both(*harms: Harm) -> Harm:
    def harm(folder: Path) -> None:
        for each in harms:
            each(folder)

    return harm


def replaced_by_a_file(path: str) -> Harm:
    return both(gone(path), holds(path, ""))


def renamed(path: str, name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / path).rename((folder / path).with_name(name))

    return harm


def dangling_link(folder: Path) -> None:
    """As a copy of the hub's cache without its blobs."""
    (folder / "checkpoint/model.safetensors").unlink()
    (folder / "checkpoint/model.safetensors").symlink_to("../../blobs/0123")


def unreadable_photos(folder: Path) -> None:
    for path in (folder / "photos/data/controlled_clevr").iterdir():
        path.write_bytes(b"\xff\xd8\xff")


def results_in(path: str) -> Harm:
    return holds("workflow_config.yaml", yaml.safe_dump(CONFIG | {"results": path}, sort_keys=False))


CHECKPOINT, PHOTOS = r"models\.mine\.checkpoint: checkpoint", r"datasets\.photos\.root: photos"
# Name, harm, what the line must say after the name of the configuration.
DAMAGED: list[tuple[str, Harm, str]] = [
    ("checkpoint: missing", gone("checkpoint"), r"models\.mine\.checkpoint: no folder 'checkpoint'; give a checkpoint folder, or a hub id"),
    ("checkpoint: a file", replaced_by_a_file("checkpoint"), r"models\.mine\.checkpoint: no folder 'checkpoint'"),
    ("checkpoint: no config", gone("checkpoint/config.json"), f"{CHECKPOINT}: not a checkpoint folder, it has no config.json"),
    ("checkpoint: broken config", holds("checkpoint/config.json", "{"), f"{CHECKPOINT}/config.json: line 1: is not JSON"),
    (
        "checkpoint: config is a list",
        holds("checkpoint/config.json", "[]"),
        f"{CHECKPOINT}/config.json: architecture none is not supported",
    ),
    (
        "checkpoint: other architecture",
        edited("checkpoint/config.json", lambda config: config.update(architectures=["LlavaNextForConditionalGeneration"])),
        f"{CHECKPOINT}/config.json: architecture LlavaNextForC.* is not supported; the closest supported one is LlavaFor.*Qwen2VL",
    ),
    (
        "checkpoint: no architecture",
        edited("checkpoint/config.json", lambda config: config.pop("architectures")),
        "architecture none is not supported",
    ),
    (
        "checkpoint: weights cut short",
        cut_short("checkpoint/model.safetensors"),
        rf"{CHECKPOINT}/model\.safetensors: truncated, \d+ bytes where its header promises \d+; download",
    ),
    (
        "checkpoint: weights not fetched",
        holds("checkpoint/model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        rf"{CHECKPOINT}/model\.safetensors: not a whole safetensors file",
    ),
    ("checkpoint: weights empty", holds("checkpoint/model.safetensors", ""), "not a whole safetensors file .0 bytes in all.; download"),
    (
        "checkpoint: weights missing",
        gone("checkpoint/model.safetensors"),
        rf"{CHECKPOINT}/model\.safetensors: missing weight file; download",
    ),
    ("checkpoint: weights linked to nothing", dangling_link, rf"{CHECKPOINT}/model\.safetensors: missing weight file"),
    (
        "checkpoint: pickled weights only",
        renamed("checkpoint/model.safetensors", "pytorch_model.bin"),
        f"{CHECKPOINT}: holds pickled weights .* save them as safetensors",
    ),
    (
        "checkpoint: one of several files missing",
        both(
            gone("checkpoint/model.safetensors"),
            holds("checkpoint/model.safetensors.index.json", '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'),
        ),
        rf"{CHECKPOINT}/model-00002-of-00002\.safetensors: missing weight file",
    ),
    (
        "checkpoint: index of nothing",
        both(gone("checkpoint/model.safetensors"), holds("checkpoint/model.safetensors.index.json", "{}")),
        rf"{CHECKPOINT}/model\.safetensors\.index\.json: has no weight_map",
    ),
    ("checkpoint: no tokenizer", gone("checkpoint/tokenizer.json"), "no complete processor .no tokenizer.json or .* save it beside"),
    ("checkpoint: broken tokenizer", cut_short("checkpoint/tokenizer.json"), rf"{CHECKPOINT}/tokenizer\.json: line \d+: is not JSON"),
    (
        "checkpoint: large tokenizer cut short",
        holds("checkpoint/tokenizer.json", '{"vocab": [' + "1, " * 10**6),
        rf"{CHECKPOINT}/tokenizer\.json: truncated, it does not end as it begins",
    ),
    (
        "checkpoint: no image processor",
        both(gone("checkpoint/preprocessor_config.json"), gone("checkpoint/processor_config.json")),
        "no complete processor .no preprocessor_config.json or processor_config.json.; save it beside",
    ),
    ("checkpoint: no chat template", gone("checkpoint/chat_template.jinja"), f"{CHECKPOINT}: the processor has no chat template; an instr"),
    ("photos: folder missing", gone("photos/data"), r"datasets\.photos\.root: no folder 'photos/data'; give the folder that holds it"),
    (
        "photos: list missing",
        gone(LIST),
        f"{PHOTOS}/.*clevr_dataset.json: no such file; root must be the folder",
    ),
    ("photos: list broken", cut_short(LIST), rf"{PHOTOS}/.*clevr_dataset.json: line \d+: is not JSON"),
    ("photos: list of another kind", holds(LIST, "{}"), "must be a list of photos with image_path and caption_options, found a mapping"),
    ("photos: empty list", holds(LIST, "[]"), "the list is empty; it must hold one entry a photo"),
    (
        "photos: no captions",
        edited(LIST, lambda entries: [entry.pop("caption_options") for entry in entries]),
        f"{PHOTOS}: lists no usable photo .*, 3 set aside; the first is data/.*jpeg: has no caption_options",
    ),
    (
        "photos: captions of other photos",
        edited(LIST, lambda entries: [entry.update(caption_options=["A cup on a box"]) for entry in entries]),
        "3 set aside; the first is .*: caption 'A cup on a box' contradicts the file name",
    ),
    ("photos: pictures missing", gone("photos/data/controlled_clevr"), "3 set aside; the first is .*jpeg: no such file"),
    (
        "photos: pictures unreadable",
        unreadable_photos,
        f"{PHOTOS}: none of 2 photos can be read; the first: .*jpeg: is not a readable photo",
    ),
    (
        "photos: pictures elsewhere",
        edited(LIST, lambda entries: [entry.update(image_path="../../x/mug_left_of_plate.jpeg") for entry in entries]),
        "lies outside the data set's folder",
    ),
    (
        "photos: nothing left or right",
        edited(LIST, lambda entries: entries.__delitem__(slice(2))),
        f"{PHOTOS}: lists no usable photo of one object left or right of another, 0 set aside",
    ),
    ("boxes: missing", gone("boxes.json"), r"datasets\.photos\.boxes: no file 'boxes\.json'"),
    ("boxes: a folder", both(gone("boxes.json"), lambda folder: (folder / "boxes.json").mkdir()), "boxes: no file 'boxes.json'"),
    ("boxes: broken", cut_short("boxes.json"), r"datasets\.photos\.boxes: boxes\.json: line \d+: is not JSON"),
    ("boxes: a list", holds("boxes.json", "[1]"), "boxes.json: must map each image_path to the boxes of its objects, found a list"),
    (
        "boxes: of other photos",
        edited("boxes.json", lambda boxes: [boxes.update({f"other/{name}": boxes.pop(name)}) for name in list(boxes)]),
        "boxes.json: has boxes for none of 2 photos; its keys must be image_path .*, such as data/.*, found other/data/",
    ),
    ("boxes: none", holds("boxes.json", "{}"), "boxes.json: has boxes for none of 2 photos; .* found none"),
    (
        "detector: missing",
        gone("detector"),
        "datasets.found.detector.*revision: a hub checkpoint needs the 40-digit commit .* a folder must",
    ),
    ("detector: no config", gone("detector/config.json"), r"datasets\.found\.detector\.checkpoint: detector: not a checkpoint folder"),
    ("detector: weights cut short", cut_short("detector/model.safetensors"), r"datasets\.found\.detector\.checkpoint: .*: truncated"),
    ("results: a file", holds("results", ""), "results: results is a file; move it, or give another folder"),
    ("results: below a file", both(holds("elsewhere", ""), results_in("elsewhere/results")), "results: elsewhere is a file; move it"),
]
