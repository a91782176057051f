"""The photos that can be used: left-right photos whose two objects are found, by one of three sources of boxes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_spatial.errors import UserError
from vlm_spatial.progress import progress
from vlm_spatial.scenes.boxes_file import boxes_from_file, read_boxes
from vlm_spatial.scenes.opening import upright_size
from vlm_spatial.scenes.photo_boxes import GOOD, ObjectBoxes, find_boxes
from vlm_spatial.scenes.photos import HEIGHT, Photo, open_photo
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.scenes.sources.whatsup import WhatsUpSettings

# Photos of one camera differ by a pixel of rounding; beyond this their shapes differ.
SAME_SHAPE = 0.01


@dataclass(frozen=True)
class BoxedPhoto:
    """A left-right photo with its objects found. ``width`` is that of the photo scaled to ``HEIGHT``."""

    photo: Photo
    boxes: ObjectBoxes
    width: int

    @property
    def words(self) -> tuple[str, str]:
        """The left and the right object's word."""
        return left_right(self.photo)


def left_right(photo: Photo) -> tuple[str, str]:
    """The words of a left-right photo's left and right object."""
    return (photo.object, photo.reference) if photo.relation == "left_of" else (photo.reference, photo.object)


def boxed_photos(
    photos: Sequence[Photo], settings: WhatsUpSettings, set_aside: list[SetAside], detected: Path | None = None
) -> list[BoxedPhoto]:
    """The left-right photos whose two objects are found, in the order of the list; the others are added to ``set_aside``.

    Args:
        detected: the boxes that ``settings.detector`` found.

    Raises:
        UserError: if the boxes file cannot be read, or ``detected`` is wanted and not given.
    """
    if settings.detector is not None and detected is None:
        raise UserError("detector: the boxes that it finds are not given; run the boxes stage first (snakemake does)")
    file = detected if settings.detector is not None else Path(settings.boxes) if settings.boxes else None
    certain = settings.detector.score if settings.detector is not None else None
    given = None if file is None else read_boxes(file)
    sets: dict[tuple[str, str], list[Photo]] = defaultdict(list)
    for photo in photos:
        sets[photo.object, photo.reference].append(photo)
    boxed: list[BoxedPhoto] = []
    for members in progress(list(sets.values()), "boxes"):
        # The other relations' photos only help to see the background.
        wanted = [photo for photo in members if photo.relation in ("left_of", "right_of")]
        if wanted:
            boxed += _from_differences(members, set_aside) if given is None else _from_file(wanted, given, certain, set_aside)
    return boxed


def _from_differences(members: Sequence[Photo], set_aside: list[SetAside]) -> Iterator[BoxedPhoto]:
    readable: list[tuple[Photo, np.ndarray]] = []
    for photo in members:
        try:
            readable.append((photo, open_photo(photo.path)))
        except UserError as error:
            set_aside.append(SetAside(photo.name, str(error)))
    # The shape of most of them is that of the camera.
    common = int(np.median([pixels.shape[1] for _, pixels in readable])) if readable else 0
    opened: list[tuple[Photo, np.ndarray]] = []
    for photo, pixels in readable:
        if abs(pixels.shape[1] / common - 1) > SAME_SHAPE:
            shapes = f"{pixels.shape[1]} and {common} px wide at height {HEIGHT}"
            set_aside.append(SetAside(photo.name, f"is shaped unlike the other photos of its object set ({shapes})"))
        else:
            opened.append((photo, pixels if pixels.shape[1] == common else open_photo(photo.path, common)))
    for (photo, pixels), boxes in zip(opened, find_boxes([pixels for _, pixels in opened]), strict=True):
        if photo.relation not in ("left_of", "right_of"):
            continue
        if boxes is None:
            reason = "two objects cannot be told from the background" if len(opened) > 1 else "is the only readable photo of its object set"
            set_aside.append(SetAside(photo.name, f"{reason}; give its boxes in a file (datasets boxes)"))
        elif boxes.quality < GOOD:
            set_aside.append(SetAside(photo.name, _doubtful(boxes)))
        else:
            yield BoxedPhoto(photo, boxes, pixels.shape[1])


def _from_file(wanted: Sequence[Photo], given: Mapping[str, Any], certain: float | None, set_aside: list[SetAside]) -> Iterator[BoxedPhoto]:
    for photo in wanted:
        try:
            pixels = open_photo(photo.path)
            width, height = upright_size(photo.path)
            boxes = boxes_from_file(given, photo.name, *left_right(photo), width, height, HEIGHT / height, certain)
        except UserError as error:
            set_aside.append(SetAside(photo.name, str(error).removeprefix(f"{photo.name}: ")))
            continue
        if boxes.quality < GOOD:
            set_aside.append(SetAside(photo.name, _doubtful(boxes)))
        else:
            yield BoxedPhoto(photo, boxes, pixels.shape[1])


def _doubtful(boxes: ObjectBoxes) -> str:
    worst = min(boxes.factors, key=lambda name: boxes.factors[name])
    return f"doubtful boxes: quality {boxes.quality:.2f} < {GOOD}, lowest factor {worst} {boxes.factors[worst]:.2f}"
