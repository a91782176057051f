"""Loading What'sUp (Kamath et al., EMNLP 2023) in its published format: a JSON list of photos and captions.

Format: ``{"image_path": "data/controlled_clevr/mug_left_of_plate.jpeg", "caption_options": [right, wrong, ...]}``; the
file's name is ``object_relation_reference``. A damaged entry never ends a run: it is set aside with its reason.
"""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vlm_spatial.errors import UserError, called
from vlm_spatial.files import read_json
from vlm_spatial.scenes.one_token import one_token
from vlm_spatial.scenes.opening import find_file, open_upright, placed
from vlm_spatial.scenes.sources.source import SetAside

HEIGHT = 448
"""Photos are scaled to this height; boxes and merges are in pixels of that scale."""

Pixels = UInt8[np.ndarray, "height width 3"]
Subset = Literal["A", "B"]
_FILES: dict[Subset, str] = {"A": "data/controlled_images_dataset.json", "B": "data/controlled_clevr_dataset.json"}
RELATIONS = {
    "left_of": "to the left of",
    "right_of": "to the right of",
    "in-front_of": "in front of",
    "behind": "behind",
    "on": "on",
    "under": "under",
}
_NAME = re.compile(rf"(?P<object>.+?)_(?P<relation>{'|'.join(RELATIONS)})_(?P<reference>.+)")
_CAPTION = re.compile(rf"(?:an?|the) (?P<object>.+?) (?P<relation>{'|'.join(RELATIONS.values())}) (?:an?|the) (?P<reference>.+?)\.?")


@dataclass(frozen=True)
class Photo:
    """One usable entry: ``name`` is its path in the JSON, ``path`` the file, words have spaces."""

    name: str
    path: Path
    object: str
    relation: str
    reference: str


def load_entries(root: Path, subset: Subset) -> tuple[list[Photo], list[SetAside]]:
    """Read and check the list of photos; the files themselves are not opened yet.

    Raises:
        UserError: if the JSON file is missing, not JSON, or not a list.
    """
    source = Path(root) / _FILES[subset]
    if not source.is_file():
        raise UserError(f"{source}: no such file; root must be the folder that holds {_FILES[subset]}")
    entries = read_json(source, "correct that line, or download the list again if you did not write it")
    if not isinstance(entries, list):
        raise UserError(f"{source}: must be a list of photos with image_path and caption_options, found {called(entries)}")
    if not entries:
        raise UserError(f"{source}: the list is empty; it must hold one entry a photo, with image_path and caption_options")
    photos, set_aside, seen = [], [], set()
    for index, entry in enumerate(entries):
        found = _entry(Path(root), index, entry)
        if isinstance(found, Photo) and found.name in seen:
            found = SetAside(found.name, "is listed twice in the JSON file")
        if isinstance(found, Photo):
            seen.add(found.name)
            photos.append(found)
        else:
            set_aside.append(found)
    return photos, set_aside


def usable_entries(root: Path, subset: Subset, one_token_in: str | None) -> tuple[list[Photo], list[SetAside]]:
    """As :func:`load_entries`, without photos of objects whose name is more than one token to the tokenizer in that folder.

    Raises:
        UserError: also if the tokenizer cannot be read.
    """
    photos, set_aside = load_entries(root, subset)
    if one_token_in is None:
        return photos, set_aside
    kept = one_token({photo.object for photo in photos}, Path(one_token_in))
    left_out = [photo for photo in photos if photo.object not in kept]
    set_aside += [
        SetAside(photo.name, f"{photo.object!r}, or with a capital, is more than one token to {one_token_in}") for photo in left_out
    ]
    return [photo for photo in photos if photo.object in kept], set_aside


def _entry(root: Path, index: int, entry: Any) -> Photo | SetAside:
    if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str):
        return SetAside(f"entry {index}", "has no image_path")
    name, captions = entry["image_path"], entry.get("caption_options")
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        return SetAside(name, "has no caption_options (a list of captions, the right one first)")
    try:
        placed(root, name)
    except UserError as error:
        return SetAside(name, str(error))
    parts = _NAME.fullmatch(PurePosixPath(name.replace("\\", "/")).stem)
    if parts is None:
        return SetAside(name, f"is not named object_relation_reference with a relation of {', '.join(RELATIONS)}")
    caption = _CAPTION.fullmatch(captions[0].strip().lower())
    if caption is None:
        return SetAside(name, f"caption {captions[0]!r} does not say which object is where")
    said = (caption["object"], caption["relation"], caption["reference"])
    shown = (_words(parts["object"]), RELATIONS[parts["relation"]], _words(parts["reference"]))
    if tuple(map(_letters, said)) != tuple(map(_letters, shown)):
        return SetAside(name, f"caption {captions[0]!r} contradicts the file name")
    try:
        path = find_file(root, name)
    except UserError as error:
        return SetAside(name, str(error))
    return Photo(name, path, shown[0], parts["relation"], shown[2])


def _words(part: str) -> str:
    return unicodedata.normalize("NFC", re.sub(r"[-_ ]+", " ", part)).strip().lower()


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", text).casefold())


def open_photo(path: Path, width: int | None = None) -> Pixels:
    """A photo as RGB pixels, upright, ``HEIGHT`` high.

    Args:
        width: pixels to scale to; by default the photo keeps its shape.

    Raises:
        UserError: see :func:`vlm_spatial.scenes.opening.open_upright`.
    """
    image = open_upright(path, (3 * HEIGHT, 3 * HEIGHT))
    size = (width or max(1, round(image.width * HEIGHT / image.height)), HEIGHT)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
