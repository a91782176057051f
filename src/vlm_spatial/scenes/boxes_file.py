"""Boxes of photos from a file: one that the user gives, or that a detector wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_spatial.errors import UserError, called
from vlm_spatial.files import read_json
from vlm_spatial.scenes.photo_boxes import ObjectBoxes, place_factors
from vlm_spatial.tokens import Box


def read_boxes(path: Path) -> dict[str, Any]:
    """A boxes file: ``{"data/…/mug_left_of_plate.jpeg": {"mug": [left, top, right, bottom], "plate": […]}}``, pixels of the upright photo.

    A fifth number is the score of whatever found the box, 0 to 1.

    Raises:
        UserError: if the file is missing or not a JSON object.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give a JSON file of boxes, or leave boxes out")
    values = read_json(path, "correct that line")
    if not isinstance(values, dict):
        raise UserError(f"{path}: must map each image_path to the boxes of its objects, found {called(values)}")
    return values


def boxes_from_file(
    values: Mapping[str, Any], name: str, left: str, right: str, width: int, height: int, scale: float, certain: float | None = None
) -> ObjectBoxes:
    """The boxes that a boxes file gives for one photo of ``width × height`` pixels, scaled by ``scale``.

    Args:
        certain: of boxes that a detector found, the score from which they count as certain. Their quality is the product of
            ``certain`` (the lower of the two scores, as a share of it), ``apart`` and ``inside``; given boxes have quality 1, or their
            lower score.

    Raises:
        UserError: if they are missing, malformed, outside the photo, or not left and right of each other.
    """
    entry = values.get(name)
    if not isinstance(entry, dict):
        raise UserError(f"{name}: the boxes file has no boxes for it")
    boxes: list[Box] = []
    scores: list[float] = []
    for word in (left, right):
        box = entry.get(word)
        if not isinstance(box, list) or len(box) not in (4, 5) or not all(isinstance(number, int | float) for number in box):
            raise UserError(f"{name}: box of {word!r} must be [left, top, right, bottom], found {box!r}")
        if max(box[:4]) <= 1:
            raise UserError(f"{name}: box {box} of {word!r} is in shares of the sides; boxes are in pixels, here of {width}×{height}")
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise UserError(f"{name}: box {box} of {word!r} is empty or not inside the {width}×{height} photo")
        if not 0 <= box[-1] <= 1 and len(box) == 5:
            raise UserError(f"{name}: score {box[-1]} of {word!r} must lie in [0, 1]")
        boxes.append((box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale))
        scores.append(float(box[4]) if len(box) == 5 else 1.0)
    if boxes[0][0] + boxes[0][2] >= boxes[1][0] + boxes[1][2]:
        raise UserError(f"{name}: the box of {left!r} is not left of that of {right!r}, as the file name says")
    factors = {"certain": min(1.0, min(scores) / (certain or 1.0))}
    if certain is not None:
        factors |= place_factors(boxes[0], boxes[1], width * scale, height * scale)
    return ObjectBoxes(boxes[0], boxes[1], "file" if certain is None else "detector", float(np.prod(list(factors.values()))), factors)
