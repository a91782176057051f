"""What'sUp's list of questions about photographs with boxes: ``[image id, right caption, wrong caption]``, two objects an item.

The caption says which object stands where. Boxes say which tokens are whose: ``items_boxes`` decides what becomes of an item whose boxes
do not tell its two objects apart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.scenes.annotations import Annotated
from vlm_spatial.scenes.chosen import Chosen, order_of
from vlm_spatial.scenes.pixel_boxes import area, clipped, in_order, inside, overlap_along
from vlm_spatial.scenes.sources.natural import ListedSettings
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.tokens import Axis, Box

_RELATIONS: dict[str, tuple[Axis, bool]] = {
    "to the left of": ("horizontal", True),
    "to the right of": ("horizontal", False),
    "above": ("vertical", True),
    "below": ("vertical", False),
}
# Asked of Visual Genome's images, too: which is nearer cannot be said from boxes.
_DEPTHS = ("in front of", "behind")
_CAPTION = re.compile(
    rf"a photo of an? (?P<object>.+?) (?P<relation>{'|'.join([*_RELATIONS, *_DEPTHS])}) an? (?P<reference>.+?)\.?", re.IGNORECASE
)

Found = dict[str, tuple[Annotated, Path]]
"""By id the image with its boxes, and its file."""


def listed_items(path: Path, images: Found, settings: ListedSettings, labels: Sequence[str]) -> tuple[list[Chosen], list[SetAside]]:
    """The items of a list that can be asked, and the others with their reason.

    Args:
        labels: every category that the annotations know.

    Raises:
        UserError: if ``path`` holds no list.
    """
    entries = read_json(path, "download it again")
    if not isinstance(entries, list):
        raise UserError(f"{path}: must be a list of [image id, right caption, wrong caption], found {type(entries).__name__}")
    items, set_aside = [], []
    for number, entry in enumerate(entries):
        item = _item(entry, images, settings, labels)
        if isinstance(item, Chosen):
            items.append(item)
        else:
            set_aside.append(SetAside(f"{path.name}, item {number}", item))
    return items, set_aside


@dataclass(frozen=True)
class _Caption:
    """``words`` of the two objects in slot order; ``subject`` is the slot of the one that the caption says something of."""

    axis: Axis
    words: tuple[str, str]
    subject: int


def _item(entry: object, images: Found, settings: ListedSettings, labels: Sequence[str]) -> Chosen | str:
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[1], str):
        return "must be [image id, right caption, wrong caption]"
    said = _caption(entry[1])
    if isinstance(said, str):
        return said
    if str(entry[0]) not in images:
        return f"image {entry[0]} is not there, or has no boxes"
    image, file = images[str(entry[0])]
    assert image.size is not None
    boxes = _largest(image, said) if settings.items_boxes == "largest" else _apart(image, said)
    if isinstance(boxes, str):
        return f"image {entry[0]}{boxes}"
    # As the annotations spell them.
    spelt = {one.label.lower(): one.label for one in image.boxes}
    words = tuple(spelt.get(word.lower(), word) for word in said.words)
    absent = tuple(label for label in labels if label.lower() not in spelt)
    order = order_of(image.key, settings.seed)
    return Chosen(image.name, file, image.size, said.axis, words, boxes, order, "test", absent, said.subject)


def _caption(text: str) -> _Caption | str:
    caption = _CAPTION.fullmatch(text.strip())
    if caption is None:
        return f"caption {text!r} does not say which of two objects is where"
    if caption["relation"].lower() in _DEPTHS:
        return f"caption {text!r} is about depth, which boxes do not tell"
    axis, subject_first = _RELATIONS[caption["relation"].lower()]
    subject, reference = caption["object"], caption["reference"]
    return _Caption(axis, (subject, reference), 0) if subject_first else _Caption(axis, (reference, subject), 2)


def _apart(image: Annotated, said: _Caption) -> tuple[Box, ...] | str:
    """The only box of each object, if they stand clear of each other as the caption says; else why not."""
    assert image.size is not None
    boxes = []
    for word in said.words:
        of_word = [one for one in image.boxes if one.label.lower() == word.lower()]
        if len(of_word) != 1 or of_word[0].crowd:
            return f" has {len(of_word)} boxes of {word!r}, one is needed"
        if not inside(of_word[0].box, image.size):
            return f": box of {word!r} is not inside the image"
        boxes.append(clipped(of_word[0].box, image.size))
    if overlap_along(said.axis, boxes):
        order = "overlap along the axis" if overlap_along(said.axis, boxes[::-1]) else "are the other way round"
        return f": the boxes of {said.words[0]!r} and {said.words[1]!r} {order}"
    return tuple(boxes)


def _largest(image: Annotated, said: _Caption) -> tuple[Box, ...]:
    """The largest box of each object, crowds counted; none at all if one is missing or the centres contradict the caption."""
    assert image.size is not None
    of_words = [[one.box for one in image.boxes if one.label.lower() == word.lower()] for word in said.words]
    if not all(of_words):
        return ()
    largest = [max(boxes, key=area) for boxes in of_words]
    if not all(inside(box, image.size) for box in largest):
        return ()
    boxes = tuple(clipped(box, image.size) for box in largest)
    return boxes if in_order(said.axis, boxes) else ()
