"""Which photographs with boxes make a scene: the choice of objects and of splits.

An image makes at most one scene an axis: of all sets of objects that occur once each, the one whose centres lie furthest apart. Its split
follows from its name alone, so that it stays when images are added. Everything that is not used is listed with its reason.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.annotations import Annotated, Annotations, Labelled, check_units, read_annotations
from vlm_spatial.scenes.choice_cache import remembered
from vlm_spatial.scenes.chosen import Choices, Chosen, order_of
from vlm_spatial.scenes.natural_items import listed_items
from vlm_spatial.scenes.opening import find_file, upright_size
from vlm_spatial.scenes.pixel_boxes import area, clipped, inside
from vlm_spatial.scenes.plan import SPLITS, Split
from vlm_spatial.scenes.sources.natural import ListedSettings, NaturalSettings
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.tokens import Axis

Reader = Callable[[Path], Annotations]


def choices(settings: NaturalSettings, boxes: Path, questions: Path | None = None, read: Reader = read_annotations) -> Choices:
    """The scenes that a file of boxes gives, and those of What'sUp's list of questions. No picture is decoded.

    Args:
        read: reads the file of boxes.

    Raises:
        UserError: if a file cannot be read, no image is there, or no scene at all comes out.
    """
    files = [path.stat() for path in (boxes, questions) if path is not None and path.is_file()]
    # What changed is read again.
    # What a question says chooses nothing, and words by template have no hash.
    plain = settings.model_copy(update={"wording": "plain"})
    return _choices(plain, boxes, questions, read, tuple((file.st_size, file.st_mtime_ns) for file in files))


@lru_cache(maxsize=8)
def _choices(settings: NaturalSettings, boxes: Path, questions: Path | None, read: Reader, _: object) -> Choices:
    lists = [] if questions is None else [questions]
    return remembered(settings, boxes, lists, lambda: _chosen(settings, boxes, questions, read))


def _chosen(settings: NaturalSettings, boxes: Path, questions: Path | None, read: Reader) -> Choices:
    annotations = read(boxes)
    found, usable = Choices(len(annotations.images), set_aside=list(annotations.set_aside)), []
    sizes: dict[str, tuple[int, int]] = {}
    for image in annotations.images:
        try:
            path = find_file(Path(settings.images), image.name)
            if image.fault is not None:
                raise UserError(image.fault)
            if image.size is None:
                found.measured = True
                image.size = sizes[image.name] = upright_size(path)
        except UserError as error:
            found.set_aside.append(SetAside(image.name, str(error).removeprefix(f"{Path(settings.images, image.name)}: ")))
        else:
            usable.append((image, path))
    if not usable:
        hint = "are these the annotations of another split?"
        raise UserError(f"{boxes}: none of its {found.images} images can be used, {_first(found)}; {hint}")
    check_units([image for image, _ in usable], sizes, boxes)
    for image, path in usable:
        _choose(image, path, settings, annotations.labels, found)
    _enough(found, settings)
    if questions is not None:
        assert isinstance(settings, ListedSettings)
        by_key = {image.key: (image, path) for image, path in usable}
        found.items, set_aside = listed_items(questions, by_key, settings, annotations.labels)
        found.set_aside += set_aside
        found.listed = len(found.items) + len(set_aside)
    if not found.scenes and not found.items:
        raise UserError(f"{boxes}: none of its {found.images} images makes a scene, {_first(found)}; lower min_area or separation")
    return found


def _first(found: Choices) -> str:
    reasons = Counter(re.sub(r"\d[\d.]*", "…", item.reason) for item in found.set_aside)
    most, count = reasons.most_common(1)[0]
    example = next(item for item in found.set_aside if re.sub(r"\d[\d.]*", "…", item.reason) == most)
    return f"{count} for one reason, such as {example.file}: {example.reason}"


def _choose(image: Annotated, path: Path, settings: NaturalSettings, labels: tuple[str, ...], found: Choices) -> None:
    assert image.size is not None
    crowded = {labelled.label for labelled in image.boxes if labelled.crowd}
    by_label: dict[str, list[Labelled]] = defaultdict(list)
    for labelled in image.boxes:
        by_label[labelled.label].append(labelled)
    single = [of_label[0] for label, of_label in sorted(by_label.items()) if len(of_label) == 1 and label not in crowded]
    outside = [labelled for labelled in single if not inside(labelled.box, image.size)]
    if outside:
        box, (width, height) = outside[0].box, image.size
        shown = ", ".join(f"{edge:g}" for edge in box)
        found.set_aside.append(SetAside(image.name, f"box of {outside[0].label!r} ends outside the {width}×{height} image ({shown})"))
        return
    single = [replace(labelled, box=clipped(labelled.box, image.size)) for labelled in single]
    large = [labelled for labelled in single if area(labelled.box) >= settings.min_area * image.size[0] * image.size[1]]
    count = settings.objects
    if len(large) < count:
        small = f", {len(single)} with smaller ones" if len(single) > len(large) else ""
        crowd = f"; {len(crowded)} are crowds" if crowded else ""
        reason = f"shows {len(large)} categories once and large enough, {count} are needed{small}{crowd}"
        found.set_aside.append(SetAside(image.name, reason))
        return
    absent = tuple(label for label in labels if label not in by_label)
    order = order_of(image.key, settings.seed)
    for axis in settings.axes:
        best = _best(large, image.size, axis, settings)
        if best is None:
            overlap = "" if settings.disjoint else f", overlapping by at most {settings.overlap:g}"
            reason = f"no {count} of its {len(large)} objects lie {settings.separation:g} of the side apart along the {axis} axis{overlap}"
            found.set_aside.append(SetAside(image.name, reason))
        else:
            names, boxes = tuple(one.label for one in best), tuple(one.box for one in best)
            found.scenes.append(Chosen(image.name, path, image.size, axis, names, boxes, order, _split(order, settings), absent))


def _best(objects: Sequence[Labelled], size: tuple[int, int], axis: Axis, settings: NaturalSettings) -> tuple[Labelled, ...] | None:
    """The objects whose nearest centres lie furthest apart, in slot order; of equals the alphabetically first."""
    first = 0 if axis == "horizontal" else 1
    centred = sorted(((one.box[first] + one.box[first + 2]) / 2 / size[first], one.label, one) for one in objects)
    best: tuple[float, tuple[str, ...], tuple[Labelled, ...]] | None = None
    least = settings.separation
    for chosen in combinations(centred, settings.objects):
        # The last distance first: an image has many sets, and most fail here.
        gap = chosen[-1][0] - chosen[-2][0]
        if gap < least:
            continue
        gap = min(gap, chosen[1][0] - chosen[0][0])
        if gap < least:
            continue
        names, taken = tuple(name for _, name, _ in chosen), tuple(one for _, _, one in chosen)
        if (best is None or gap > best[0] or names < best[1]) and not _entangled(taken, first, settings):
            best, least = (gap, names, taken), gap
    return None if best is None else best[2]


def _entangled(objects: Sequence[Labelled], first: int, settings: NaturalSettings) -> bool:
    for one, other in combinations([labelled.box for labelled in objects], 2):
        if settings.disjoint and one[first + 2] > other[first]:
            return True
        common = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
        if common > settings.overlap * min(area(one), area(other)):
            return True
    return False


def _split(order: float, settings: NaturalSettings) -> Split:
    """The splits' shares are those of the scenes asked for."""
    wanted = [getattr(settings.scenes, split) for split in SPLITS]
    if not sum(wanted):
        raise UserError("scenes: train, validation and test are all 0, so there is nothing to make")
    edge = 0.0
    for split, count in zip(SPLITS, wanted, strict=True):
        edge += count / sum(wanted)
        if order < edge:
            return split
    return SPLITS[-1]


def _enough(found: Choices, settings: NaturalSettings) -> None:
    """Of each axis and split as many as are asked for, in an order that does not change when images are added."""
    kept: list[Chosen] = []
    counts: Counter[tuple[Axis, Split]] = Counter()
    for chosen in sorted(found.scenes, key=lambda chosen: (settings.axes.index(chosen.axis), chosen.order, chosen.image)):
        place = (chosen.axis, chosen.split)
        wanted = getattr(settings.scenes, chosen.split)
        if counts[place] < wanted:
            counts[place] += 1
            kept.append(chosen)
        else:
            reason = f"is not needed: scenes.{chosen.split} asks for {wanted} on the {chosen.axis} axis"
            found.set_aside.append(SetAside(chosen.image, reason))
    found.scenes = kept
