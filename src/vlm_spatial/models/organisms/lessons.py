"""What an organism is taught: fresh scenes for every step, described or asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vlm_spatial.models.recipe import Teaching
from vlm_spatial.scenes.build import sample_scene
from vlm_spatial.scenes.questions import SLOT_WORDS, ask, split_words, vocabulary
from vlm_spatial.scenes.scene import Axis, Scene, Variant
from vlm_spatial.scenes.sources.settings import DatasetSettings

# The user's turn of a caption: what stands at each place, or where each object stands. Captions are learned first, and
# make the questions learnable.
BY_PLACE_PROMPT = "List the objects by place."
BY_OBJECT_PROMPT = "List the places by object."

VARIANTS: dict[Variant, float] = {"main": 0.9, "pair": 0.1}
"""Share of the training scenes of each variant. With decorrelated layouts among them, training takes several times as long."""

OfEachKind = Mapping[tuple[str, str, str], float]
"""A number for each kind of question: dataset, axis and template."""
# So that nothing is forgotten that is answered right.
_LEAST_ERROR = 0.02

Item = TypeVar("Item")


@dataclass(frozen=True)
class Turn:
    """A prompt and its answer.

    ``given`` are words of the answer that nothing determines, such as which object a caption names next; they are read,
    not learned.
    """

    prompt: str
    answer: str
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lesson:
    """One scene and the turns of its conversation: captions only, or questions only.

    Attributes:
        image: the scene that is drawn for it, where that is another one.
        second: the scene of a second image behind it, if there is one.
    """

    scene: Scene
    turns: tuple[Turn, ...]
    image: Scene | None = None
    second: Scene | None = None

    @property
    def shown(self) -> list[tuple[Scene, Scene | None]]:
        """Its images: of each the scene, and the scene that is drawn instead."""
        return [(self.scene, self.image), *([] if self.second is None else [(self.second, None)])]

    @property
    def caption(self) -> bool:
        """Whether the image is described, not asked about."""
        return bool(self.turns[0].given)


def lesson_words(datasets: Sequence[DatasetSettings]) -> list[str]:
    """Every word of the lessons, sorted."""
    return sorted(set().union(*(vocabulary(settings) for settings in datasets)) | split_words([BY_PLACE_PROMPT, BY_OBJECT_PROMPT]))


def sample_lessons(
    datasets: Mapping[str, DatasetSettings],
    count: int,
    seed: int,
    step: int,
    share: float,
    teaching: Teaching,
    accuracy: OfEachKind,
    variants: Mapping[Variant, float] = VARIANTS,
) -> list[Lesson]:
    """The ``count`` lessons of one training step: a pure function of its arguments, so that training can resume anywhere.

    Args:
        share: how much of the training is over, in [0, 1).
        accuracy: as last measured, on every kind of question; what is answered wrong more often is asked more often, and shown
            more often. If empty, all are asked alike.
        variants: share of the scenes of each variant.
    """
    generator = np.random.default_rng([seed, step])
    errors = {kind: max(1 - right, _LEAST_ERROR) for kind, right in accuracy.items()}
    lessons = []
    for index in range(count):
        dataset, axis = _dataset_and_axis(datasets, errors, generator)
        settings = datasets[dataset]
        variant = list(variants)[int(generator.choice(len(variants), p=list(variants.values())))]
        scene = sample_scene(settings, axis, variant, generator)
        if index < teaching.captions(share) * count:
            turns = [_caption(scene, generator) for _ in range(teaching.questions if teaching.apart else 1)]
        else:
            every = [(template, slot) for template in settings.templates for slot in scene.slots]
            weights = [errors[dataset, axis, template] for template, _ in every] if errors else None
            chosen = _drawn(every, teaching.questions, weights, generator)
            questions = [ask(scene, template, slot, settings.wording) for template, slot in chosen]
            turns = [Turn(question.prompt, question.answer) for question in questions]
        lessons.append(Lesson(scene, tuple(turns)))
    return lessons


def _dataset_and_axis(datasets: Mapping[str, DatasetSettings], errors: OfEachKind, generator: np.random.Generator) -> tuple[str, Axis]:
    if errors:
        every = [(name, axis) for name, settings in datasets.items() for axis in settings.axes]
        weights = [sum(errors[name, axis, template] for template in datasets[name].templates) for name, axis in every]
        return _drawn(every, 1, weights, generator)[0]
    name = list(datasets)[int(generator.integers(len(datasets)))]
    return name, datasets[name].axes[int(generator.integers(len(datasets[name].axes)))]


def _drawn(items: Sequence[Item], count: int, weights: Sequence[float] | None, generator: np.random.Generator) -> list[Item]:
    """At most ``count`` different items, in random order."""
    if weights is None:
        chosen = generator.permutation(len(items))[:count]
    else:
        chosen = generator.choice(len(items), size=min(count, len(items)), replace=False, p=np.divide(weights, sum(weights)))
    return [items[index] for index in chosen]


def _caption(scene: Scene, generator: np.random.Generator) -> Turn:
    """Places and objects in turns, in random order: each is looked up from the other, as nothing else tells it."""
    places = SLOT_WORDS[scene.axis]
    order = [int(slot) for slot in generator.permutation(3)]
    if generator.random() < 0.5:
        answer = " ".join(f"{places[slot]} {scene.objects[slot]}" for slot in order)
        return Turn(BY_PLACE_PROMPT, answer, frozenset(places))
    answer = " ".join(f"{scene.objects[slot]} {places[slot]}" for slot in order)
    return Turn(BY_OBJECT_PROMPT, answer, frozenset(scene.objects))
