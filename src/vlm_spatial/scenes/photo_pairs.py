"""Clean/counterfactual pairs of merged photos.

``vision``: (A, R, B) against (B, R, A), each object in its own photo. ``language``: two merges with no object in common. ``conflict``: one
merge. The latter two exchange blocks of tokens, so their scenes have boxes of equal size around the two objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vlm_spatial.scenes.pairs import EXPERIMENTS, Experiment, Pair, make_pair, turns
from vlm_spatial.scenes.photo_alignment import aligned_boxes_around
from vlm_spatial.scenes.photo_merges import Merge, answers_differ
from vlm_spatial.scenes.plan import Planned, scene_generator, scene_name
from vlm_spatial.scenes.scene import Scene
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.scenes.sources.whatsup import WhatsUpSettings
from vlm_spatial.tokens import Box

# Merges tried as the other side of a language pair, so that planning does not grow with the square of the photos.
_TRIED = 40
_WHY = {
    "vision": "no further merge whose outer objects are also merged the other way round, with a scene that shares no object with it",
    "language": "no further two merges without a common object, whose objects fit into boxes of one size",
    "conflict": "no further merge whose objects fit into boxes of one size",
}


@dataclass
class PhotoPairs:
    """Pairs, the scenes they are made of (each with the merge that it shows), and what could not be made."""

    scenes: list[tuple[Planned, Merge]] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


@dataclass(frozen=True)
class _Sides:
    """The merges of a pair and the boxes of their scenes; one merge for both sides of a conflict pair."""

    clean: Merge
    clean_boxes: tuple[Box, Box, Box]
    other: Merge
    other_boxes: tuple[Box, Box, Box]
    unrelated: Merge | None = None


def plan_photo_pairs(found: Sequence[Merge], settings: WhatsUpSettings, seed: int) -> PhotoPairs:
    """As many pairs as the settings ask for and the merges give; no two ask the same of the same merges."""
    planned = PhotoPairs()
    for experiment in EXPERIMENTS:
        generator = scene_generator(seed, settings, "pair", "horizontal", "test", EXPERIMENTS.index(experiment))
        order = [found[index] for index in generator.permutation(len(found))]
        used: set[tuple[int, str, tuple[int, int]]] = set()
        wanted = list(turns(experiment, settings, outer=experiment == "vision"))
        position, made = 0, 0
        for template, slots in wanted:
            for place in ((np.arange(len(order)) + position) % max(1, len(order))).tolist():
                if (place, template, slots) in used:
                    continue
                used.add((place, template, slots))
                sides = _sides(experiment, order[place], slots, order, generator)
                if sides is not None:
                    scenes = _scenes(experiment, sides, 3 - sum(slots) if slots[0] == 1 else 0)
                    start = len(planned.scenes)
                    names = [scene_name("pair", "horizontal", "test", start + offset) for offset in range(len(scenes))]
                    planned.scenes += [
                        (merge.planned(name, "test", scene), merge) for name, (merge, scene) in zip(names, scenes, strict=True)
                    ]
                    ids = (names[0], names[0 if experiment == "conflict" else 1], names[2] if sides.unrelated else None)
                    counterfactual = scenes[0 if experiment == "conflict" else 1][1]
                    name = f"{experiment}-horizontal-{made:05d}"
                    planned.pairs.append(
                        make_pair(name, experiment, template, slots, scenes[0][1], counterfactual, ids, settings.wording, same_boxes=False)
                    )
                    position, made = int(place) + 1, made + 1
                    break
        if made < len(wanted):
            planned.set_aside.append(SetAside(f"{experiment} pairs", f"{made} of {len(wanted)} made: {_WHY[experiment]}"))
    return planned


def _scenes(experiment: Experiment, sides: _Sides, middle: int) -> list[tuple[Merge, Scene]]:
    """The different scenes of a pair: clean, counterfactual, unrelated."""
    scenes = [(sides.clean, replace(sides.clean.scene("pair", middle), boxes=sides.clean_boxes))]
    if experiment != "conflict":
        scenes.append((sides.other, replace(sides.other.scene("pair", middle), boxes=sides.other_boxes)))
    if sides.unrelated is not None:
        scenes.append((sides.unrelated, sides.unrelated.scene("pair", middle)))
    return scenes


def _sides(
    experiment: Experiment, clean: Merge, slots: tuple[int, int], merges: Sequence[Merge], generator: np.random.Generator
) -> _Sides | None:
    """What a pair with this clean side is made of, or None if it cannot be made."""
    match experiment:
        case "vision":
            others = [merge for merge in merges if merge.words == clean.words[::-1]]
            strangers = [merge for merge in merges if not set(merge.words) & set(clean.words)]
            if not others or not strangers:
                return None
            unrelated = strangers[int(generator.integers(len(strangers)))]
            return _Sides(clean, clean.boxes, others[0], others[0].boxes, unrelated)
        case "language":
            strangers = [merge for merge in merges if answers_differ((*merge.words, *clean.words)) and merge is not clean]
            for index in generator.permutation(len(strangers))[:_TRIED]:
                other = strangers[index]
                boxes = _aligned((clean, other), slots)
                if boxes is not None:
                    return _Sides(clean, boxes[0], other, boxes[1])
            return None
        case "conflict":
            boxes = _aligned((clean,), slots)
            return None if boxes is None else _Sides(clean, boxes[0], clean, boxes[0])
        case "last_token":
            # Refused by the settings: its pictures are drawn.
            return None


def _aligned(merges: Sequence[Merge], slots: tuple[int, int]) -> list[tuple[Box, Box, Box]] | None:
    """Each merge's boxes, those of ``slots`` widened to one size that holds the objects of all."""
    low, high = min(slots), max(slots)
    [third] = {0, 1, 2} - set(slots)
    around = aligned_boxes_around(*([merge.boxes[slot] for merge in merges] for slot in (low, high, third)))
    if around is None:
        return None
    found = []
    for merge in merges:
        boxes = {low: around[0], high: around[1], third: merge.boxes[third]}
        found.append((boxes[0], boxes[1], boxes[2]))
    return found
