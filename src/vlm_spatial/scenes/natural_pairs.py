"""Pairs of photographs: a picture and its mirror image for interchange, equal blocks of one picture for conflict."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vlm_spatial.scenes.natural_drawing import CELL, PictureDrawing
from vlm_spatial.scenes.pairs import Experiment, Pair, make_pair, turns
from vlm_spatial.scenes.plan import Planned, scene_name
from vlm_spatial.scenes.scene import CANVAS, Scene, mirrored
from vlm_spatial.scenes.sources.natural import NaturalSettings
from vlm_spatial.scenes.sources.source import PlannedDataset, SetAside
from vlm_spatial.tokens import Axis, Box

_NO_PAIRS = {
    "vision": "no further test scene, or question about it",
    "conflict": "no further test scene whose two objects fit into blocks of one size that keep clear of the third",
}


def add_pairs(
    planned: PlannedDataset,
    drawings: dict[str, PictureDrawing],
    tests: Sequence[tuple[Planned, PictureDrawing]],
    axis: Axis,
    settings: NaturalSettings,
    seed: int,
) -> None:
    """Mirror pairs for ``vision``, exchanges within one picture for ``conflict``; what cannot be made is counted."""
    numbers = iter(range(1_000_000))
    if settings.pairs.language:
        reason = "0 made: questions name the objects of their picture, so no question fits two pictures without a common object"
        planned.set_aside.append(SetAside(f"language pairs, {axis}", reason))
    for experiment in ("vision", "conflict"):
        wanted = list(turns(experiment, settings, outer=experiment == "vision" or settings.objects == 2))
        if not wanted:
            continue
        if experiment == "vision" and axis == "vertical":
            reason = "0 made: a picture turned upside down is no natural picture; mirror pairs are horizontal"
            planned.set_aside.append(SetAside("vision pairs, vertical", reason))
            continue
        generator = np.random.default_rng(np.random.SeedSequence([seed, settings.seed, 11, axis == "vertical", experiment == "vision"]))
        made, used, position = 0, set(), 0
        for template, slots in wanted:
            for step in range(len(tests)):
                place = (position + step) % len(tests)
                if (place, template, slots) in used:
                    continue
                used.add((place, template, slots))
                sides = _mirror_sides(tests, place, generator) if experiment == "vision" else _conflict_sides(tests[place], slots)
                if sides is None:
                    continue
                if template == "relation_to_object" and slots[0] == 1:
                    sides = [(replace(scene, middle_reference=3 - sum(slots)), drawing) for scene, drawing in sides]
                names = [scene_name("pair", axis, "test", next(numbers)) for _ in sides]
                for name, (scene, drawing) in zip(names, sides, strict=True):
                    planned.scenes.append(Planned(name, "test", scene, "file"))
                    drawings[name] = drawing
                planned.pairs.append(_pair(f"{experiment}-{axis}-{made:05d}", experiment, template, slots, sides, names, settings))
                made, position = made + 1, place + 1
                break
        if made < len(wanted):
            planned.set_aside.append(SetAside(f"{experiment} pairs, {axis}", f"{made} of {len(wanted)} made: {_NO_PAIRS[experiment]}"))


Sides = list[tuple[Scene, PictureDrawing]]


def _pair(
    name: str, experiment: Experiment, template: str, slots: tuple[int, int], sides: Sides, names: list[str], settings: NaturalSettings
) -> Pair:
    clean = sides[0][0]
    unrelated = names[2] if len(names) == 3 else None
    other, ids = (clean, (names[0], names[0], None)) if experiment == "conflict" else (sides[1][0], (names[0], names[1], unrelated))
    return make_pair(name, experiment, template, slots, clean, other, ids, settings.wording, same_boxes=False)  # type: ignore[arg-type]


def _mirror_sides(tests: Sequence[tuple[Planned, PictureDrawing]], place: int, generator: np.random.Generator) -> Sides:
    """A picture, its mirror image, and (if there is one) a picture that shares no object with it."""
    item, drawing = tests[place]
    scene = replace(item.scene, variant="pair")
    twin = replace(mirrored(scene), variant="pair")
    sides = [(scene, drawing), (twin, replace(drawing, flipped=True))]
    # Both runs of a pair need one token grid.
    alike = [(other.scene, shown) for other, shown in tests if (other.scene.width, other.scene.height) == (scene.width, scene.height)]
    strangers = [(other, shown) for other, shown in alike if not set(other.objects) & set(scene.objects)]
    if strangers:
        unrelated, shown = strangers[int(generator.integers(len(strangers)))]
        sides.append((replace(unrelated, variant="pair"), shown))
    return sides


def _conflict_sides(test: tuple[Planned, PictureDrawing], slots: tuple[int, int]) -> Sides | None:
    item, drawing = test
    first, second = (item.scene.slots.index(slot) for slot in slots)
    boxes = equal_blocks(item.scene.boxes, (first, second), item.scene.axis, (item.scene.width, item.scene.height))
    return None if boxes is None else [(replace(item.scene, variant="pair", boxes=boxes), drawing)]


def equal_blocks(
    boxes: Sequence[Box], chosen: tuple[int, int], axis: Axis, size: tuple[int, int] = (CANVAS, CANVAS)
) -> tuple[Box, ...] | None:
    """The boxes with the two ``chosen`` ones widened to blocks of whole cells of one size, or None if they do not fit beside each other.

    A block holds its object, and no cell of another object or block; centres keep their order along ``axis``.
    """
    # A squeezed picture has as many cells as a square one, of more pixels.
    cell = CELL * max(size) // CANVAS
    limits = (size[0] // cell, size[1] // cell)
    spans = [_cells(box, cell) for box in boxes]
    others = [span for place, span in enumerate(spans) if place not in chosen]
    across, down = (max(spans[place][edge + 2] - spans[place][edge] for place in chosen) for edge in (0, 1))
    first = 0 if axis == "horizontal" else 1
    for one in _blocks(spans[chosen[0]], across, down, limits):
        for other in _blocks(spans[chosen[1]], across, down, limits):
            if _apart(one, other) and all(_apart(block, span) for block in (one, other) for span in others):
                found = list(boxes)
                for place, block in zip(chosen, (one, other), strict=True):
                    found[place] = (block[0] * cell, block[1] * cell, block[2] * cell, block[3] * cell)
                centres = [box[first] + box[first + 2] for box in found]
                if centres == sorted(set(centres)):
                    return tuple(found)
    return None


Cells = tuple[int, int, int, int]


def _cells(box: Box, cell: float) -> Cells:
    return int(box[0] // cell), int(box[1] // cell), int(-(-box[2] // cell)), int(-(-box[3] // cell))


def _blocks(span: Cells, across: int, down: int, limits: tuple[int, int]) -> Iterator[Cells]:
    """Blocks of the size that hold ``span`` and stay on the canvas, the most central first."""
    places = [
        (left, top, left + across, top + down)
        for left in range(max(0, span[2] - across), min(span[0], limits[0] - across) + 1)
        for top in range(max(0, span[3] - down), min(span[1], limits[1] - down) + 1)
    ]

    def off_centre(block: Cells) -> tuple[int, Cells]:
        return sum(abs(block[edge] + block[edge + 2] - span[edge] - span[edge + 2]) for edge in (0, 1)), block

    yield from sorted(places, key=off_centre)


def _apart(one: Cells, other: Cells) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
