"""Clean/counterfactual pairs of rendered scenes, with the answer that each hypothesis predicts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.build import sample_contents, sample_scene
from vlm_spatial.scenes.pair_lists import ListedPair, read_pairs
from vlm_spatial.scenes.plan import Planned, scene_generator, scene_name
from vlm_spatial.scenes.questions import Question, ask, reference_slot
from vlm_spatial.scenes.scene import Scene, with_contents
from vlm_spatial.scenes.sources.drawn import DrawnSettings
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.scenes.sources.settings import DatasetSettings, Template, Wording
from vlm_spatial.tokens import Axis

Experiment = Literal["vision", "language", "conflict", "last_token"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
HYPOTHESES = ("stay", "flip", "ordering", "content", "move", "ordinal", "attribute")

_EXCHANGES = ((0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2))
# A relation refers to a neighbour of the slot asked about, which must not be exchanged itself.
_OUTER_EXCHANGES = ((0, 2), (2, 0))
_RELATION_EXCHANGES = ((0, 2), (1, 0), (2, 0), (1, 2))

# The others ask every spatial template.
_TEMPLATE_OF: dict[Experiment, Template] = {"language": "slot_to_object", "last_token": "relation_to_object"}
# Draws after which no further pair is looked for; published are 2,000 for a whole pool.
_DRAWS = 2000


@dataclass(frozen=True)
class Pair:
    """One row of ``pairs.parquet``; ``hypotheses`` holds predicted answers by name."""

    pair_id: str
    experiment: Experiment
    axis: Axis
    template: Template
    clean_scene: str
    counterfactual_scene: str
    unrelated_scene: str | None
    slots: tuple[int, int]
    prompt: str
    counterfactual_prompt: str
    candidates: tuple[str, ...]
    clean_answer: str
    counterfactual_answer: str
    hypotheses: dict[str, str]


def plan_pairs(settings: DrawnSettings, seed: int) -> tuple[list[Planned], list[Pair]]:
    """Scenes of variant ``pair`` (aligned geometry, test split) and the pairs made of them.

    Templates and exchanged slots take turns, so that each is asked equally often.

    Raises:
        UserError: if language pairs are wanted without the only template that they are defined for.
    """
    if settings.pairs.language and "slot_to_object" not in settings.templates:
        raise UserError("pairs.language: needs 'slot_to_object' among templates, as the others name a content; add it or set it to 0")
    scenes: list[Planned] = []
    pairs: list[Pair] = []
    listed = None if settings.pairs.file is None else read_pairs(Path(settings.pairs.file), settings)
    for axis in settings.axes:
        made = 0
        for experiment in EXPERIMENTS:
            seen: set[tuple[object, ...]] = set()
            for index, (template, slots, entry) in enumerate(_wanted(experiment, axis, settings, listed)):
                # One stream a pair, of which all its scenes are drawn.
                generator = scene_generator(seed, settings, "pair", axis, "test", EXPERIMENTS.index(experiment) * 1_000_000 + index)
                if entry is None:
                    clean, other = _sides(experiment, settings, axis, template, slots, generator, seen)
                else:
                    clean = sample_scene(settings, axis, "pair", generator, words=entry.clean)
                    other = exchanged(clean, slots) if entry.counterfactual is None else _showing(clean, entry.counterfactual, settings)
                strangers = sample_contents(settings, 3, generator, clean.contents + other.contents)
                unrelated = [with_contents(clean, strangers)] if len(strangers) == len(clean.contents) else []
                different = [clean, *unrelated] if experiment == "conflict" else [clean, other, *unrelated]
                names = [scene_name("pair", axis, "test", made + offset) for offset in range(len(different))]
                made += len(different)
                scenes += [Planned(name, "test", scene) for name, scene in zip(names, different, strict=True)]
                ids = (names[0], names[0] if experiment == "conflict" else names[1], names[-1] if unrelated else None)
                name = f"{experiment}-{axis}-{index:05d}"
                pairs.append(make_pair(name, experiment, template, slots, clean, other, ids, settings.wording))
    return scenes, pairs


def _wanted(
    experiment: Experiment, axis: Axis, settings: DrawnSettings, listed: Sequence[ListedPair] | None
) -> Iterator[tuple[Template, tuple[int, int], ListedPair | None]]:
    """Template and exchanged slots of every pair of an axis, with the file's entry where there is one."""
    if listed is None or experiment == "conflict":
        yield from ((template, slots, None) for template, slots in turns(experiment, settings))
        return
    template = _TEMPLATE_OF.get(experiment, spatial(settings.templates)[0])
    for entry in listed:
        if (entry.experiment, entry.axis) == (experiment, axis):
            yield template, (entry.asked, 2 - entry.asked), entry


def _showing(scene: Scene, words: Sequence[str], settings: DrawnSettings) -> Scene:
    # Looks that are random are drawn apart, so that what both show looks the same only where it always does.
    generator = np.random.default_rng(scene.seed)
    kept = {content.word: content for content in scene.contents}
    new = [word for word in words if word not in kept]
    made = drawn_source(settings.kind).contents(new, generator, scene.contents, settings)
    every = kept | {content.word: content for content in made}
    return with_contents(scene, tuple(every[word] for word in words))


def _sides(
    experiment: Experiment,
    settings: DrawnSettings,
    axis: Axis,
    template: Template,
    slots: tuple[int, int],
    generator: np.random.Generator,
    seen: set[tuple[object, ...]],
) -> tuple[Scene, Scene]:
    """The clean and the counterfactual scene of one pair; of a dataset of every triple one that was not drawn before (``seen``).

    Raises:
        UserError: if there are no more.
    """
    for _ in range(_DRAWS):
        clean = sample_scene(settings, axis, "pair", generator)
        if template == "relation_to_object" and slots[0] == 1:
            clean = replace(clean, middle_reference=3 - sum(slots))
        other = _counterfactual(experiment, clean, slots, settings, generator)
        drawn = (template, slots, clean.objects, other.objects)
        if settings.items == "sampled" or drawn not in seen:
            seen.add(drawn)
            return clean, other
    raise UserError(f"pairs.{experiment}: {_DRAWS} draws gave no further pair on the {axis} axis after {len(seen)}; ask for fewer")


def make_pair(
    name: str,
    experiment: Experiment,
    template: Template,
    slots: tuple[int, int],
    clean: Scene,
    counterfactual: Scene,
    ids: tuple[str, str, str | None],
    wording: Wording,
    same_boxes: bool = True,
) -> Pair:
    """One pair.

    Args:
        slots: the exchanged ones; the first is asked about.
        ids: the clean, the counterfactual and the unrelated scene (if any).
        same_boxes: whether both scenes show their objects at the same places, as drawn ones do.
    """
    asked, other = slots
    question = ask(clean, template, asked, wording)
    if experiment == "conflict":
        answered = question
    else:
        # The exchange moves an object that a question names to the other slot; the source of a last token asks for the other side.
        moved = (experiment == "vision" and _names(template, clean)) or experiment == "last_token"
        answered = ask(counterfactual, template, other if moved else asked, wording)
    pair = Pair(
        pair_id=name,
        experiment=experiment,
        axis=clean.axis,
        template=template,
        clean_scene=ids[0],
        counterfactual_scene=ids[1],
        unrelated_scene=ids[2],
        slots=slots,
        prompt=question.prompt,
        counterfactual_prompt=answered.prompt,
        candidates=_union(question.candidates, answered.candidates),
        clean_answer=question.answer,
        counterfactual_answer=answered.answer,
        hypotheses=_hypotheses(experiment, template, clean, counterfactual, slots, question, answered),
    )
    _check(pair, clean, counterfactual, same_boxes)
    return pair


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    # Slots keep their order; the objects of two scenes are sorted together.
    return first if set(second) <= set(first) else tuple(sorted(set(first + second)))


def turns(experiment: Experiment, settings: DatasetSettings, outer: bool = False) -> Iterator[tuple[Template, tuple[int, int]]]:
    """The template and the exchanged slots of every pair asked for; ``outer``: only the outer two slots are exchanged."""
    templates = (_TEMPLATE_OF[experiment],) if experiment in _TEMPLATE_OF else spatial(settings.templates)
    outer = outer or experiment == "last_token"
    for index in range(getattr(settings.pairs, experiment)):
        template = templates[index % len(templates)]
        every = _OUTER_EXCHANGES if outer else _RELATION_EXCHANGES if template == "relation_to_object" else _EXCHANGES
        exchanges = [slots for slots in every if slots[0] in settings.asked_slots]
        yield template, exchanges[index // len(templates) % len(exchanges)]


def spatial(templates: Sequence[Template]) -> tuple[Template, ...]:
    """The templates that ask where things are."""
    return tuple(template for template in templates if template != "content")


def _counterfactual(
    experiment: Experiment, clean: Scene, slots: tuple[int, int], settings: DrawnSettings, generator: np.random.Generator
) -> Scene:
    match experiment:
        case "vision":
            return exchanged(clean, slots)
        case "language":
            return with_contents(clean, sample_contents(settings, 3, generator, clean.contents))
        case "last_token":
            first, second = sample_contents(settings, 2, generator, clean.contents)
            return with_contents(clean, (first, clean.contents[1], second))
    return clean


def exchanged(scene: Scene, slots: tuple[int, int]) -> Scene:
    """The same picture but for two exchanged contents."""
    contents = list(scene.contents)
    first, second = (scene.slots.index(slot) for slot in slots)
    contents[first], contents[second] = contents[second], contents[first]
    return with_contents(scene, tuple(contents))


def _hypotheses(
    experiment: Experiment,
    template: Template,
    clean: Scene,
    counterfactual: Scene,
    slots: tuple[int, int],
    question: Question,
    answered: Question,
) -> dict[str, str]:
    asked, other = slots
    match experiment:
        case "vision":
            return {"stay": question.answer, "flip": answered.answer}
        case "language":
            # Slot `other`'s values are laid on slot `asked`'s tokens and the reverse: the object that brings the
            # ordering code of the slot asked for then stands at `other`, and the one of `other` at the place asked for.
            return {"stay": question.answer, "ordering": counterfactual.objects[asked], "content": counterfactual.objects[other]}
        case "conflict":
            return {"stay": question.answer, "move": ask(exchanged(clean, slots), template, _after(template, slots, clean)).answer}
        case "last_token":
            return {"stay": question.answer, "ordinal": clean.objects[other], "attribute": answered.answer}


def _names(template: Template, scene: Scene) -> bool:
    """Whether a question names the object that it asks about, and its answer is a place."""
    return template == "object_to_slot" or (template == "relation_to_object" and len(scene.slots) == 2)


def _after(template: Template, slots: tuple[int, int], scene: Scene) -> int:
    """The slot whose question, asked after the exchange, has the prompt that was asked before it."""
    return slots[1] if _names(template, scene) else slots[0]


def _check(pair: Pair, clean: Scene, counterfactual: Scene, same_boxes: bool) -> None:
    """What makes the two runs comparable; a pair that fails here is a fault of this module."""
    answers = list(pair.hypotheses.values())
    if pair.template == "relation_to_object" and len(clean.slots) > 2 and reference_slot(clean, pair.slots[0]) in pair.slots:
        raise AssertionError(f"{pair.pair_id}: the object referred to is exchanged itself")
    if (
        (pair.prompt == pair.counterfactual_prompt) == (pair.experiment == "last_token")
        or (clean.width, clean.height) != (counterfactual.width, counterfactual.height)
        or (same_boxes and clean.boxes != counterfactual.boxes)
        or len(set(answers)) != len(answers)
        or not {pair.clean_answer, pair.counterfactual_answer, *answers} <= set(pair.candidates)
    ):
        raise AssertionError(f"{pair.pair_id}: its two runs are not comparable: {pair}")
