"""Which scenes a rendered dataset holds. Every scene has its own seed, so no scene depends on how many there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vlm_spatial.scenes.build import sample_scene
from vlm_spatial.scenes.scene import Scene, Variant, mirrored
from vlm_spatial.scenes.sources.drawn import DrawnSettings, every_triple
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.scenes.sources.settings import DatasetSettings, Splits
from vlm_spatial.tokens import AXES, Axis

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True)
class Planned:
    """A scene with its place in the dataset.

    Attributes:
        box_source: ``rendered``, ``difference``, ``file`` or ``detector``.
        box_quality: 0 to 1, 1 for rendered scenes.
        mirrored_from: id of the scene that this one mirrors.
    """

    scene_id: str
    split: Split
    scene: Scene
    box_source: str = "rendered"
    box_quality: float = 1.0
    mirrored_from: str | None = None


def scene_name(variant: Variant, axis: Axis, split: Split, index: int) -> str:
    """The id of a scene, unique in its dataset."""
    return f"{variant}-{axis}-{split}-{index:05d}"


def image_path(scene_id: str) -> str:
    """Where a scene's image lies, below the dataset's folder."""
    return f"images/{scene_id}.png"


def scene_generator(seed: int, settings: DatasetSettings, variant: Variant, axis: Axis, split: Split, index: int) -> np.random.Generator:
    """The random stream of one scene: the same whatever else the dataset holds and whoever draws it."""
    entropy = [seed, settings.seed, _VARIANTS.index(variant), AXES.index(axis), SPLITS.index(split), index]
    return np.random.default_rng(np.random.SeedSequence(entropy))


def plan_scenes(settings: DrawnSettings, seed: int) -> list[Planned]:
    """All scenes of a rendered dataset but those made for pairs."""
    return [planned for axis in settings.axes for planned in _axis(settings, seed, axis)]


def _axis(settings: DrawnSettings, seed: int, axis: Axis) -> Iterator[Planned]:
    triples = _dealt_triples(settings, seed)
    for variant, split, count in _counts(settings):
        for index in range(count):
            generator = scene_generator(seed, settings, variant, axis, split, index)
            # Slots of single objects take turns, so that they are equally frequent.
            words = triples.get(split, ())[index] if triples and variant == "main" else None
            scene = sample_scene(settings, axis, variant, generator, slot=index % 3 if variant == "single" else None, words=words)
            name = scene_name(variant, axis, split, index)
            yield Planned(name, split, scene)
            if settings.variants.mirror and variant == "main" and split == "test":
                yield Planned(scene_name("mirror", axis, split, index), split, mirrored(scene), mirrored_from=name)


def _dealt_triples(settings: DrawnSettings, seed: int) -> dict[Split, list[tuple[str, ...]]]:
    """Every ordered triple, dealt to the splits at random, the same way for both axes; empty where scenes are sampled."""
    triples = every_triple(drawn_source(settings.kind).object_words(settings), settings)
    if not triples:
        return {}
    order = np.random.default_rng(np.random.SeedSequence([seed, settings.seed, len(triples)])).permutation(len(triples))
    ends = np.cumsum([getattr(settings.scenes, split) for split in SPLITS])[:-1]
    return {split: [triples[index] for index in part] for split, part in zip(SPLITS, np.split(order, ends), strict=True)}


def _counts(settings: DatasetSettings) -> Iterator[tuple[Variant, Split, int]]:
    tables: tuple[tuple[Variant, Splits], ...] = (("main", settings.scenes), ("decorrelated", settings.variants.decorrelated))
    for variant, splits in tables:
        for split in SPLITS:
            yield variant, split, getattr(splits, split)
    yield "single", "test", settings.variants.single
    yield "blank", "test", 1
