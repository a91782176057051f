"""The What'sUp dataset: photos, three-object merges, self-merges, and vision pairs made of them.

Splits are by object: no photo and no object pair is in two splits. Everything that is not used is listed with its reason.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.errors import UserError
from vlm_spatial.progress import progress
from vlm_spatial.scenes.merge import FRAME, Join, Window, framed, join, plan_merge, plan_self_merge, plan_window
from vlm_spatial.scenes.pairs import Pair, make_pair, spatial
from vlm_spatial.scenes.photo_boxes import GOOD, ObjectBoxes, boxes_from_file, find_boxes, read_boxes
from vlm_spatial.scenes.photos import HEIGHT, Photo, SetAside, load_entries, open_photo
from vlm_spatial.scenes.plan import SPLITS, Planned, Split, scene_generator, scene_name
from vlm_spatial.scenes.scene import Content, Scene, Variant, mirrored
from vlm_spatial.tokens import Box

# Photos of one camera differ by a pixel of rounding; beyond this their shapes differ.
_SAME_SHAPE = 0.01


@dataclass(frozen=True)
class BoxedPhoto:
    """A left-right photo with its objects found. ``width`` is that of the photo scaled to ``HEIGHT``."""

    photo: Photo
    boxes: ObjectBoxes
    width: int

    @property
    def words(self) -> tuple[str, str]:
        """The left and the right object's word."""
        return _left_right(self.photo)


@dataclass(frozen=True)
class PhotoDrawing:
    """What one image is cut from: one photo, or two joined; mirrored last."""

    first: Path
    second: Path | None
    width: int
    plan: Join | None
    window: Window
    flipped: bool = False


@dataclass
class WhatsUp:
    """A planned dataset of photos."""

    scenes: list[Planned] = field(default_factory=list)
    drawings: dict[str, PhotoDrawing] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def draw_photo(drawing: PhotoDrawing) -> Image.Image:
    """The RGB image of a planned scene, ``FRAME`` pixels in size."""
    picture = open_photo(drawing.first, drawing.width)
    if drawing.plan is not None and drawing.second is not None:
        picture = join(picture, open_photo(drawing.second, drawing.width), drawing.plan)
    image = framed(picture, drawing.window)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawing.flipped else image


def plan_whatsup(settings: DatasetSettings, seed: int) -> WhatsUp:
    """Find, box, split and merge the photos below ``settings.root``.

    Raises:
        UserError: if the list of photos or the boxes file cannot be read, or no photo at all is usable.
    """
    dataset = WhatsUp()
    photos, dataset.set_aside = load_entries(Path(settings.root or ""), settings.subset)
    boxed = _boxed_photos(photos, settings, dataset.set_aside)
    if not boxed:
        first = f"; the first is {dataset.set_aside[0].file}: {dataset.set_aside[0].reason}" if dataset.set_aside else ""
        raise UserError(f"{settings.root}: none of {len(photos)} photos is usable, {len(dataset.set_aside)} set aside{first}")
    by_split = _split(boxed, settings, seed)
    for split in SPLITS:
        _add_photos(dataset, by_split[split], split)
        _add_merges(dataset, by_split[split], split, settings, seed)
    _add_vision_pairs(dataset, by_split["test"], settings, seed)
    return dataset


def _left_right(photo: Photo) -> tuple[str, str]:
    return (photo.object, photo.reference) if photo.relation == "left_of" else (photo.reference, photo.object)


def _boxed_photos(photos: Sequence[Photo], settings: DatasetSettings, set_aside: list[SetAside]) -> list[BoxedPhoto]:
    """The left-right photos whose two objects are found, in the order of the list."""
    given = read_boxes(Path(settings.boxes)) if settings.boxes else None
    sets: dict[tuple[str, str], list[Photo]] = defaultdict(list)
    for photo in photos:
        sets[photo.object, photo.reference].append(photo)
    boxed: list[BoxedPhoto] = []
    for members in progress(list(sets.values()), "boxes"):
        # The other relations' photos only help to see the background.
        wanted = [photo for photo in members if photo.relation in ("left_of", "right_of")]
        if wanted:
            boxed += _from_file(wanted, given, set_aside) if given is not None else _from_differences(members, set_aside)
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
        if abs(pixels.shape[1] / common - 1) > _SAME_SHAPE:
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
            worst = min(boxes.factors, key=lambda name: boxes.factors[name])
            set_aside.append(
                SetAside(
                    photo.name, f"doubtful boxes: quality {boxes.quality:.2f} < {GOOD}, lowest factor {worst} {boxes.factors[worst]:.2f}"
                )
            )
        else:
            yield BoxedPhoto(photo, boxes, pixels.shape[1])


def _from_file(wanted: Sequence[Photo], given: Mapping[str, Any], set_aside: list[SetAside]) -> Iterator[BoxedPhoto]:
    for photo in wanted:
        try:
            pixels = open_photo(photo.path)
            with Image.open(photo.path) as file:
                scale = HEIGHT / file.height
                boxes = boxes_from_file(given, photo.name, *_left_right(photo), file.width, file.height, scale)
            yield BoxedPhoto(photo, boxes, pixels.shape[1])
        except UserError as error:
            set_aside.append(SetAside(photo.name, str(error).removeprefix(f"{photo.name}: ")))


def _split(boxed: Sequence[BoxedPhoto], settings: DatasetSettings, seed: int) -> dict[Split, list[BoxedPhoto]]:
    """Objects of each reference dealt to the splits. Merges grow with the square of objects, hence the roots."""
    shares = np.sqrt([getattr(settings.scenes, split) for split in SPLITS])
    if not shares.sum():
        raise UserError("scenes: train, validation and test are all 0, so there is nothing to make")
    edges = np.cumsum(shares / shares.sum())
    generator = np.random.default_rng(np.random.SeedSequence([seed, settings.seed, 7]))
    chosen: dict[tuple[str, str], Split] = {}
    for reference in sorted({item.photo.reference for item in boxed}):
        objects = sorted({item.photo.object for item in boxed if item.photo.reference == reference})
        places = (generator.permutation(len(objects)) + 0.5) / len(objects)
        for word, place in zip(objects, places, strict=True):
            chosen[word, reference] = SPLITS[int(np.searchsorted(edges, place))]
    parts: dict[Split, list[BoxedPhoto]] = {split: [] for split in SPLITS}
    for item in boxed:
        parts[chosen[item.photo.object, item.photo.reference]].append(item)
    return parts


def _content(word: str) -> Content:
    return Content(word, word, word)


def _scene(variant: Variant, words: Sequence[str], boxes: Sequence[Box], window: Window, reference: str, middle: int = 0) -> Scene:
    return Scene(
        kind="whatsup",
        variant=variant,
        axis="horizontal",
        contents=tuple(map(_content, words)),
        slots=(0, 1, 2) if len(words) == 3 else (0, 2),
        boxes=tuple(window.box(box) for box in boxes),
        background=reference,
        middle_reference=middle,
        width=FRAME[0],
        height=FRAME[1],
    )


def _add(dataset: WhatsUp, planned: Planned, drawing: PhotoDrawing) -> None:
    dataset.scenes.append(planned)
    dataset.drawings[planned.scene_id] = drawing


def _add_photos(dataset: WhatsUp, boxed: Sequence[BoxedPhoto], split: Split) -> None:
    """Every photo as it is, and merged with itself."""
    for variant in ("photo", "self_merge"):
        made = 0
        for item in boxed:
            try:
                plan = plan_self_merge(item.boxes, item.width) if variant == "self_merge" else None
                boxes = plan.boxes if plan else (item.boxes.left, item.boxes.right)
                window = plan_window(boxes, plan.width if plan else item.width, HEIGHT)
            except UserError as error:
                dataset.set_aside.append(SetAside(item.photo.name, f"{variant}: {error}"))
                continue
            scene = _scene(variant, item.words, boxes, window, item.photo.reference)
            planned = Planned(scene_name(variant, "horizontal", split, made), split, scene, item.boxes.source, item.boxes.quality)
            _add(dataset, planned, PhotoDrawing(item.photo.path, item.photo.path if plan else None, item.width, plan, window))
            made += 1


@dataclass(frozen=True)
class Merge:
    """A planned three-object picture: left photo's object, the shared reference, right photo's object."""

    first: BoxedPhoto
    second: BoxedPhoto
    plan: Join
    window: Window

    @property
    def words(self) -> tuple[str, str, str]:
        """The objects, in slot order."""
        return (self.first.photo.object, self.first.photo.reference, self.second.photo.object)

    def planned(self, name: str, split: Split, variant: Variant, middle: int) -> Planned:
        """The scene that this merge shows."""
        scene = _scene(variant, self.words, self.plan.boxes, self.window, self.first.photo.reference, middle)
        quality = min(self.first.boxes.quality, self.second.boxes.quality)
        return Planned(name, split, scene, self.first.boxes.source, quality)

    @property
    def drawing(self) -> PhotoDrawing:
        """How to draw it."""
        return PhotoDrawing(self.first.photo.path, self.second.photo.path, self.first.width, self.plan, self.window)


def _merges(boxed: Sequence[BoxedPhoto], set_aside: list[SetAside]) -> list[Merge]:
    """Every merge of two photos with one reference and different objects."""
    lefts = [item for item in boxed if item.photo.relation == "left_of"]
    rights = [item for item in boxed if item.photo.relation == "right_of"]
    merges = []
    for first in lefts:
        for second in rights:
            if first.photo.reference == second.photo.reference and first.photo.object != second.photo.object:
                try:
                    merges.append(_merge(first, second))
                except UserError as error:
                    set_aside.append(SetAside(f"{first.photo.name} + {second.photo.name}", str(error)))
    return merges


def _merge(first: BoxedPhoto, second: BoxedPhoto) -> Merge:
    words = (first.photo.object, first.photo.reference, second.photo.object)
    if len({word.split()[0] for word in words}) < 3:
        raise UserError(f"objects {', '.join(words)}: two answers begin with the same word")
    if abs(first.width / second.width - 1) > _SAME_SHAPE:
        raise UserError(f"photos are {first.width} and {second.width} px wide at height {HEIGHT}: not from one camera")
    stretch = first.width / second.width
    boxes = replace(second.boxes, left=_stretched(second.boxes.left, stretch), right=_stretched(second.boxes.right, stretch))
    plan = plan_merge(first.boxes, boxes, first.width)
    return Merge(first, second, plan, plan_window(plan.boxes, plan.width, HEIGHT))


def _stretched(box: Box, factor: float) -> Box:
    return (box[0] * factor, box[1], box[2] * factor, box[3])


def _add_merges(dataset: WhatsUp, boxed: Sequence[BoxedPhoto], split: Split, settings: DatasetSettings, seed: int) -> None:
    merges = _merges(boxed, dataset.set_aside)
    generator = scene_generator(seed, settings, "main", "horizontal", split, 0)
    chosen = [merges[index] for index in generator.permutation(len(merges))[: getattr(settings.scenes, split)]]
    for index, merge in enumerate(chosen):
        name = scene_name("main", "horizontal", split, index)
        planned = merge.planned(name, split, "main", int(generator.choice([0, 2])))
        _add(dataset, planned, merge.drawing)
        if settings.variants.mirror and split == "test":
            flipped = replace(
                planned, scene_id=scene_name("mirror", "horizontal", split, index), scene=mirrored(planned.scene), mirrored_from=name
            )
            _add(dataset, flipped, replace(merge.drawing, flipped=True))


def _add_vision_pairs(dataset: WhatsUp, boxed: Sequence[BoxedPhoto], settings: DatasetSettings, seed: int) -> None:
    """(A, R, B) against (B, R, A): the outer objects exchanged, each in its own photo."""
    # What cannot be merged has been listed already.
    by_words = {merge.words: merge for merge in _merges(boxed, [])}
    generator = scene_generator(seed, settings, "pair", "horizontal", "test", 0)
    clean_words = [words for words in by_words if words[::-1] in by_words]
    made = 0
    for index in generator.permutation(len(clean_words)):
        if len(dataset.pairs) == settings.pairs.vision:
            return
        clean, other = by_words[clean_words[index]], by_words[clean_words[index][::-1]]
        strangers = [merge for words, merge in by_words.items() if not set(words) & set(clean.words)]
        if not strangers:
            dataset.set_aside.append(
                SetAside(" + ".join(clean.words), "vision pair: no scene shares no object with it, for the unrelated control")
            )
            continue
        unrelated = strangers[int(generator.integers(len(strangers)))]
        number, templates = len(dataset.pairs), spatial(settings.templates)
        template = templates[number % len(templates)]
        slots = ((0, 2), (2, 0))[number // len(templates) % 2]
        names = [scene_name("pair", "horizontal", "test", made + offset) for offset in range(3)]
        made += 3
        planned = [merge.planned(name, "test", "pair", 0) for merge, name in zip((clean, other, unrelated), names, strict=True)]
        for item, merge in zip(planned, (clean, other, unrelated), strict=True):
            _add(dataset, item, merge.drawing)
        ids = (names[0], names[1], names[2])
        name = f"vision-horizontal-{number:05d}"
        dataset.pairs.append(make_pair(name, "vision", template, slots, planned[0].scene, planned[1].scene, ids, settings.wording))
