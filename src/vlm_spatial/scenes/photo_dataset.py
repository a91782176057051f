"""The What'sUp dataset: photos, three-object merges, self-merges, and pairs made of them.

Splits are by object: no photo and no object pair is in two splits. Everything that is not used is listed with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.boxed_photos import BoxedPhoto, boxed_photos
from vlm_spatial.scenes.merge import plan_self_merge, plan_window
from vlm_spatial.scenes.pairs import Pair
from vlm_spatial.scenes.photo_merges import PhotoDrawing, draw_photo, merges, photo_scene
from vlm_spatial.scenes.photo_pairs import plan_photo_pairs
from vlm_spatial.scenes.photos import HEIGHT, usable_entries
from vlm_spatial.scenes.plan import SPLITS, Planned, Split, scene_generator, scene_name
from vlm_spatial.scenes.scene import mirrored
from vlm_spatial.scenes.sources.source import PlannedDataset, SetAside
from vlm_spatial.scenes.sources.whatsup import WhatsUpSettings


@dataclass
class _Growing:
    """A dataset of photos while it is planned."""

    scenes: list[Planned] = field(default_factory=list)
    drawings: dict[str, PhotoDrawing] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)

    def add(self, planned: Planned, drawing: PhotoDrawing) -> None:
        """One more scene."""
        self.scenes.append(planned)
        self.drawings[planned.scene_id] = drawing


def plan_photos(settings: WhatsUpSettings, seed: int, detected: Path | None = None) -> PlannedDataset:
    """Find, box, split and merge the photos below ``settings.root``.

    Args:
        detected: the boxes that ``settings.detector`` found.

    Raises:
        UserError: if the list of photos or the boxes file cannot be read, or no photo at all is usable.
    """
    dataset = _Growing()
    photos, dataset.set_aside = usable_entries(settings.folder, settings.subset, settings.one_token_in)
    boxed = boxed_photos(photos, settings, dataset.set_aside, detected)
    if not boxed:
        first = f"; the first is {dataset.set_aside[0].file}: {dataset.set_aside[0].reason}" if dataset.set_aside else ""
        raise UserError(f"{settings.root}: none of {len(photos)} photos is usable, {len(dataset.set_aside)} set aside{first}")
    by_split = _split(boxed, settings, seed)
    for split in SPLITS:
        _add_photos(dataset, by_split[split], split)
        _add_merges(dataset, by_split[split], split, settings, seed)
    # What cannot be merged has been listed already.
    of_pairs = plan_photo_pairs(merges(by_split["test"], []), settings, seed)
    for planned, merge in of_pairs.scenes:
        dataset.add(planned, merge.drawing)
    dataset.pairs += of_pairs.pairs
    dataset.set_aside += of_pairs.set_aside
    return PlannedDataset(dataset.scenes, dataset.pairs, dataset.drawings, draw_photo, dataset.set_aside)


def _split(boxed: Sequence[BoxedPhoto], settings: WhatsUpSettings, seed: int) -> dict[Split, list[BoxedPhoto]]:
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


def _add_photos(dataset: _Growing, boxed: Sequence[BoxedPhoto], split: Split) -> None:
    """Every photo as it is, and merged with itself; both have the photo's number, so that they can be compared one to one."""
    for variant in ("photo", "self_merge"):
        for number, item in enumerate(boxed):
            try:
                plan = plan_self_merge(item.boxes, item.width) if variant == "self_merge" else None
                boxes = plan.boxes if plan else (item.boxes.left, item.boxes.right)
                window = plan_window(boxes, plan.width if plan else item.width, HEIGHT)
            except UserError as error:
                dataset.set_aside.append(SetAside(item.photo.name, f"{variant}: {error}"))
                continue
            scene = photo_scene(variant, item.words, [window.box(box) for box in boxes], item.photo.reference)
            planned = Planned(scene_name(variant, "horizontal", split, number), split, scene, item.boxes.source, item.boxes.quality)
            dataset.add(planned, PhotoDrawing(item.photo.path, item.photo.path if plan else None, item.width, plan, window))


def _add_merges(dataset: _Growing, boxed: Sequence[BoxedPhoto], split: Split, settings: WhatsUpSettings, seed: int) -> None:
    found = merges(boxed, dataset.set_aside)
    generator = scene_generator(seed, settings, "main", "horizontal", split, 0)
    chosen = [found[index] for index in generator.permutation(len(found))[: getattr(settings.scenes, split)]]
    for index, merge in enumerate(chosen):
        name = scene_name("main", "horizontal", split, index)
        planned = merge.planned(name, split, merge.scene("main", int(generator.choice([0, 2]))))
        dataset.add(planned, merge.drawing)
        if settings.variants.mirror and split == "test":
            name = scene_name("mirror", "horizontal", split, index)
            flipped = replace(planned, scene_id=name, scene=mirrored(planned.scene), mirrored_from=planned.scene_id)
            dataset.add(flipped, replace(merge.drawing, flipped=True))
