"""What'sUp by the published recipe: the left half of one photo and the right half of another, both squeezed to a square first.

The left photo shows its object left of the reference, the right one shows another object right of it; the cut runs through the reference.
Nothing is aligned or blended, and a camera's orientation tag is not applied. See :mod:`vlm_spatial.scenes.sources.halves` for the boxes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.one_token import one_token
from vlm_spatial.scenes.opening import open_upright
from vlm_spatial.scenes.pairs import EXPERIMENTS, Experiment, Pair, make_pair, turns
from vlm_spatial.scenes.photo_merges import answers_differ
from vlm_spatial.scenes.photos import Photo, usable_entries
from vlm_spatial.scenes.plan import SPLITS, Planned, Split, scene_name
from vlm_spatial.scenes.scene import Content, Scene, Variant
from vlm_spatial.scenes.sources.halves import HALVES, LABELLED, Halves
from vlm_spatial.scenes.sources.source import PlannedDataset, SetAside
from vlm_spatial.scenes.sources.whatsup import WhatsUpSettings
from vlm_spatial.tokens import Box

BY_HAND = "published"
"""Where the boxes come from."""


@dataclass(frozen=True)
class Picture:
    """A left and a right photo of one reference."""

    left: Photo
    right: Photo

    @property
    def words(self) -> tuple[str, str, str]:
        """The objects, in slot order."""
        return self.left.object, self.left.reference, self.right.object

    def scene(self, variant: Variant, canvas: Halves, boxes: tuple[Box, Box, Box], bands: tuple[float, float] | None) -> Scene:
        """The scene that the joined picture shows."""
        return Scene(
            kind="whatsup",
            variant=variant,
            axis="horizontal",
            contents=tuple(Content(word, word, word) for word in self.words),
            slots=(0, 1, 2),
            boxes=boxes,
            background=self.left.reference,
            width=canvas.canvas,
            height=canvas.canvas,
            grid=(canvas.grid, canvas.grid),
            bands=bands,
        )


@dataclass(frozen=True)
class Joined:
    """How a picture is drawn: two photos, and the side of the square in pixels."""

    left: Path
    right: Path
    side: int


def draw_halves(drawing: Joined) -> Image.Image:
    """The RGB image: columns left of the middle from the first photo, the others from the second."""
    middle = drawing.side // 2
    joined = _squeezed(drawing.left, drawing.side).copy()
    rest = (middle, 0, drawing.side, drawing.side)
    joined.paste(_squeezed(drawing.right, drawing.side).crop(rest), rest)
    return joined


@lru_cache(maxsize=64)
def _squeezed(path: Path, side: int) -> Image.Image:
    return open_upright(path, turned=False).resize((side, side), Image.Resampling.BILINEAR)


def plan_halves(settings: WhatsUpSettings, seed: int) -> PlannedDataset:
    """Every picture that the photos give, dealt to the splits at random as published, and pairs of them.

    A split gets its share of the pictures, and no more than the settings ask for.

    Raises:
        UserError: if the list of photos cannot be read, or no picture can be made.
    """
    assert settings.halves is not None
    canvas = HALVES[settings.halves]
    photos, set_aside = usable_entries(settings.folder, settings.subset, settings.one_token_in)
    pictures = list(_pictures(photos, set_aside))
    if not pictures:
        first = f"; the first is {set_aside[0].file}: {set_aside[0].reason}" if set_aside else ""
        raise UserError(f"{settings.root}: no two photos can be joined, {len(set_aside)} set aside{first}")
    scenes: list[Planned] = []
    drawings: dict[str, Joined] = {}

    def add(name: str, split: Split, scene: Scene, picture: Picture) -> None:
        scenes.append(Planned(name, split, scene, BY_HAND))
        drawings[name] = Joined(picture.left.path, picture.right.path, canvas.canvas)

    for split, chosen in _dealt(pictures, settings, seed).items():
        for index, picture in enumerate(chosen):
            scene = picture.scene("main", canvas, canvas.labelled(picture.left.reference), None)
            add(scene_name("main", "horizontal", split, index), split, scene, picture)

    def of_pair(picture: Picture) -> tuple[str, Scene]:
        name, reference = scene_name("pair", "horizontal", "test", len(scenes)), picture.left.reference
        blocks = canvas.blocks(reference)
        assert blocks is not None
        scene = picture.scene("pair", canvas, blocks, canvas.bands(reference))
        add(name, "test", scene, picture)
        return name, scene

    exchangeable = _exchangeable(pictures, canvas, settings)
    pairs = [pair for experiment in EXPERIMENTS for pair in _pairs(experiment, exchangeable, settings, seed, of_pair, set_aside)]
    return PlannedDataset(scenes, pairs, drawings, draw_halves, set_aside)


def _pairs(
    experiment: Experiment,
    pictures: Sequence[Picture],
    settings: WhatsUpSettings,
    seed: int,
    of_pair: Callable[[Picture], tuple[str, Scene]],
    set_aside: list[SetAside],
) -> list[Pair]:
    """As many pairs as are asked for and can be made; none twice with one template and slots.

    Args:
        of_pair: adds a picture's scene to the dataset; gives its name and the scene.
        set_aside: gets what could not be made.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, settings.seed, 8, EXPERIMENTS.index(experiment)]))
    sides = list(_sides(experiment, pictures, generator))
    wanted = list(turns(experiment, settings, outer=True))
    made: list[Pair] = []
    used: set[tuple[int, object, object]] = set()
    for template, slots in wanted:
        number = next((index for index in range(len(sides)) if (index, template, slots) not in used), None)
        if number is None:
            continue
        used.add((number, template, slots))
        shown = [of_pair(picture) for picture in sides[number]]
        (clean, scene), (other, counterfactual) = shown[0], shown[-1]
        name = f"{experiment}-horizontal-{len(made):05d}"
        made.append(make_pair(name, experiment, template, slots, scene, counterfactual, (clean, other, None), settings.wording))
    if len(made) < len(wanted):
        set_aside.append(SetAside(f"{experiment} pairs", f"{len(made)} of {len(wanted)} made: {_WHY[experiment]}"))
    return made


_NO_MORE = "no further pictures of one reference whose tokens are published as exchanged"
_WHY: dict[Experiment, str] = {
    "vision": f"{_NO_MORE}, both objects on either side",
    "language": "two pictures without a common object have their tokens at different places",
    "conflict": _NO_MORE,
    "last_token": f"{_NO_MORE}, with four different objects",
}


def _pictures(photos: Sequence[Photo], set_aside: list[SetAside]) -> Iterator[Picture]:
    """Every left photo with every right photo of the same reference and another object."""
    sides: Mapping[str, dict[tuple[str, str], Photo]] = {
        relation: {(photo.reference, photo.object): photo for photo in photos if photo.relation == relation}
        for relation in ("left_of", "right_of")
    }
    for reference in sorted({photo.reference for photo in photos}):
        if reference not in LABELLED:
            set_aside.append(SetAside(f"photos of {reference}", f"no boxes are published; there are some of {', '.join(LABELLED)}"))
            continue
        objects = sorted({photo.object for photo in photos if photo.reference == reference})
        for first, second in permutations(objects, 2):
            left, right = sides["left_of"].get((reference, first)), sides["right_of"].get((reference, second))
            if left is None or right is None:
                continue
            picture = Picture(left, right)
            if answers_differ(picture.words):
                yield picture
            else:
                set_aside.append(SetAside(f"{left.name} + {right.name}", "two answers begin with the same word"))


def _dealt(pictures: Sequence[Picture], settings: WhatsUpSettings, seed: int) -> dict[Split, list[Picture]]:
    counts = np.array([getattr(settings.scenes, split) for split in SPLITS])
    if not counts.sum():
        raise UserError("scenes: train, validation and test are all 0, so there is nothing to make")
    order = np.random.default_rng(np.random.SeedSequence([seed, settings.seed, 7])).permutation(len(pictures))
    ends = np.rint(np.cumsum(counts) / counts.sum() * len(pictures)).astype(int)[:-1]
    parts = zip(SPLITS, np.split(order, ends), counts, strict=True)
    return {split: [pictures[index] for index in part[:count]] for split, part, count in parts}


def _exchangeable(pictures: Sequence[Picture], canvas: Halves, settings: WhatsUpSettings) -> list[Picture]:
    """Pictures whose exchanged tokens are published; where names of one token are wanted, the reference must have one, too."""
    references = {picture.left.reference for picture in pictures if canvas.blocks(picture.left.reference) is not None}
    kept = references if settings.one_token_in is None else one_token(references, Path(settings.one_token_in))
    return [picture for picture in pictures if picture.left.reference in kept]


def _sides(experiment: Experiment, pictures: Sequence[Picture], generator: np.random.Generator) -> Iterator[tuple[Picture, ...]]:
    """The pictures of each pair that can be made, in random order: clean and counterfactual, of ``conflict`` one picture."""
    by_words = {picture.words: picture for picture in pictures}
    for index in generator.permutation(len(pictures)):
        clean = pictures[index]
        if experiment == "conflict":
            yield (clean,)
        elif experiment == "vision":
            other = by_words.get(clean.words[::-1])
            if other is not None:
                yield clean, other
        elif experiment == "last_token":
            same = [each for each in pictures if each.words[1] == clean.words[1] and answers_differ((*clean.words, *each.words[::2]))]
            if same:
                yield clean, same[int(generator.integers(len(same)))]
