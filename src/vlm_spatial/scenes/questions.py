"""Questions about a scene, and the words they can hold. Wordings are tables, so that another language is another table."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.natural_questions import ask_named, is_there
from vlm_spatial.scenes.scene import Content, Scene
from vlm_spatial.scenes.sources.drawn import DrawnSettings
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.scenes.sources.settings import DatasetSettings, Template, Wording
from vlm_spatial.tokens import Axis


@dataclass(frozen=True)
class Question:
    """A user's turn (without image placeholder), its right answer, and the candidates that are scored."""

    prompt: str
    answer: str
    candidates: tuple[str, ...]


SLOT_WORDS: dict[Axis, tuple[str, str, str]] = {
    "horizontal": ("left", "middle", "right"),
    "vertical": ("top", "middle", "bottom"),
}
_PLACES: dict[Axis, tuple[str, str, str]] = {
    "horizontal": ("on the left", "in the middle", "on the right"),
    "vertical": ("at the top", "in the middle", "at the bottom"),
}
# Towards the earlier and towards the later slot.
_RELATIONS: dict[Axis, tuple[str, str]] = {
    "horizontal": ("directly to the left of", "directly to the right of"),
    "vertical": ("directly above", "directly below"),
}
_ASK_WHERE = "Is the {phrase} {first}, {second} or {third}?"
_ASK_WHERE_OF_TWO = "Is the {phrase} {first} or {third}?"
_ASK_WHETHER = "Is there {article} {phrase} in the picture?"
_STEM_WHERE = "The place of the {phrase}, {first}, {second} or {third}, is"
_STEM_WHERE_OF_TWO = "The place of the {phrase}, {first} or {third}, is"
_STEM_WHETHER = "Yes or no, whether there is {article} {phrase} in the picture:"
_WHETHER = ("yes", "no")
_WORDINGS: dict[str, str] = {
    "plain": "{question}",
    "one_word": "{question} Answer with one word.",
    # The question is an unfinished sentence by itself.
    "stem": "{question}",
}
# Names may have several words.
_NAME_ONLY = "{question} Answer with its name only."


def ask(scene: Scene, template: Template, slot: int, wording: Wording = "plain", order: int | None = None) -> Question:
    """The question of ``template`` whose answer is the object in ``slot``, or that slot itself.

    The middle object's relation question refers to ``scene.middle_reference``; the outer ones' to the middle object.
    ``content`` asks, by a coin toss that belongs to the scene and slot, whether that object is there, or one that is not.
    Object words among the candidates are sorted, so that their order tells nothing. A scene that is ``named`` is asked about as
    :mod:`vlm_spatial.scenes.natural_questions` says, with its options in the given ``order``.

    Raises:
        UserError: if the scene has no object in that slot, or no neighbour to refer to.
    """
    by_slot = dict(zip(scene.slots, scene.contents, strict=True))
    if slot not in by_slot:
        raise UserError(f"slot {slot}: the scene has objects in slots {list(scene.slots)} only")
    if scene.named:
        return _ask_named(scene, template, slot, wording, order)
    if isinstance(wording, dict):
        return _own(scene, template, slot, wording[template])
    places = _PLACES[scene.axis]
    stem = wording == "stem"
    by_place = scene.stem if stem else scene.asking
    match template:
        case "slot_to_object":
            question = by_place.format(place=places[slot])
            answer, candidates = by_slot[slot].word, tuple(sorted(scene.objects))
        case "object_to_slot":
            pattern = (_STEM_WHERE if stem else _ASK_WHERE) if len(by_slot) == 3 else (_STEM_WHERE_OF_TWO if stem else _ASK_WHERE_OF_TWO)
            first, second, third = SLOT_WORDS[scene.axis] if stem else places
            question = pattern.format(phrase=by_slot[slot].phrase, first=first, second=second, third=third)
            answer, candidates = SLOT_WORDS[scene.axis][slot], tuple(SLOT_WORDS[scene.axis][each] for each in scene.slots)
        case "relation_to_object":
            reference = reference_slot(scene, slot)
            relation = f"{_RELATIONS[scene.axis][int(reference < slot)]} the {by_slot[reference].phrase}"
            question = by_place.format(place=relation)
            answer, candidates = by_slot[slot].word, tuple(sorted(scene.objects))
        case "content":
            named, answer = _whether(scene, slot, by_slot[slot])
            article = "an" if named.phrase[0] in "aeiou" else "a"
            question, candidates = (_STEM_WHETHER if stem else _ASK_WHETHER).format(article=article, phrase=named.phrase), _WHETHER
        case _:
            raise UserError(f"template {template!r}: allowed are slot_to_object, object_to_slot, relation_to_object, content")
    return Question(_worded(question, wording), answer, candidates)


def _own(scene: Scene, template: Template, slot: int, text: str) -> Question:
    """The question in the user's own words, which say ``to the left of`` where ours say ``directly to the left of``."""
    named, by_slot = scene.contents[scene.slots.index(slot)], dict(zip(scene.slots, scene.contents, strict=True))
    answer, candidates, fields = named.word, tuple(sorted(scene.objects)), {"object": named.phrase}
    match template:
        case "slot_to_object":
            fields["place"] = _PLACES[scene.axis][slot]
        case "object_to_slot":
            words = SLOT_WORDS[scene.axis]
            answer, candidates = words[slot], tuple(words[each] for each in scene.slots)
        case "relation_to_object":
            reference = reference_slot(scene, slot)
            relation = _RELATIONS[scene.axis][int(reference < slot)].removeprefix("directly ")
            fields |= {"relation": relation, "reference": by_slot[reference].phrase}
        case "content":
            absent, answer = _whether(scene, slot, named)
            fields["object"], candidates = absent.phrase, _WHETHER
    return Question(text.format(**fields, blank=""), answer, candidates)


def _worded(question: str, wording: Wording) -> str:
    return question if isinstance(wording, dict) else _WORDINGS.get(wording, wording).format(question=question)


def _ask_named(scene: Scene, template: Template, slot: int, wording: Wording, order: int | None) -> Question:
    answers_name = template == "slot_to_object" or (template == "relation_to_object" and len(scene.slots) == 3)
    if template == "content":
        named, answer = _whether(scene, slot, scene.contents[scene.slots.index(slot)])
        return Question(_worded(is_there(named.phrase), wording), answer, _WHETHER)
    own = wording[template] if isinstance(wording, dict) else None
    question, answer, candidates = ask_named(scene, template, slot, order, own)
    if answers_name and wording == "one_word":
        return Question(_NAME_ONLY.format(question=question), answer, candidates)
    return Question(_worded(question, wording), answer, candidates)


def _whether(scene: Scene, slot: int, present: Content) -> tuple[Content, str]:
    """What a content question names, and its answer."""
    generator = np.random.default_rng([scene.seed, slot])
    if generator.random() < 0.5:
        return present, "yes"
    # Seen from its contents only, so that both scenes of a pair may differ in what is absent.
    absent = [content for content in scene.vocabulary if content.word not in scene.objects]
    return absent[generator.permutation(len(absent))[0]], "no"


def has_relations(scene: Scene) -> bool:
    """Whether a scene has relation questions: of two objects only one that is asked for the relation itself."""
    return len(scene.slots) == 3 or (scene.named and len(scene.slots) == 2)


def reference_slot(scene: Scene, slot: int) -> int:
    """The slot that the relation question about ``slot`` refers to: always a direct neighbour."""
    if len(scene.slots) < 3:
        raise UserError("a relation needs three objects: of two, the one that is not named is the answer")
    return scene.middle_reference if slot == 1 else 1


def vocabulary(settings: DatasetSettings) -> list[str]:
    """Every word and punctuation mark that the prompts and answers of a rendered dataset can hold, sorted.

    Covers every axis, template and wording, so that one tokenizer serves all settings of a kind.
    """
    source = drawn_source(settings.kind)
    assert isinstance(settings, DrawnSettings)
    taught = {word: word for word in (*source.words(), *source.object_words(settings))}
    texts = [text for word in taught for text in (word, source.phrase(word))]
    for axis in _PLACES:
        texts += [*SLOT_WORDS[axis], *_PLACES[axis], *_RELATIONS[axis]]
    asking, stem = source.sentences(settings)
    patterns = (asking, _ASK_WHERE, _ASK_WHERE_OF_TWO, _ASK_WHETHER, *_WORDINGS.values())
    texts += ["a", "an", *_WHETHER, *(re.sub(r"\{\w+\}", " ", pattern) for pattern in patterns)]
    if settings.wording == "stem":
        texts += [stem, _STEM_WHERE, _STEM_WHERE_OF_TWO, _STEM_WHETHER]
    elif isinstance(settings.wording, dict):
        texts += list(settings.wording.values())
    elif settings.wording not in _WORDINGS:
        texts.append(settings.wording)
    return sorted(split_words(re.sub(r"\{\w+\}", " ", text) for text in texts))


def split_words(texts: Iterable[str]) -> set[str]:
    """Words and punctuation marks of ``texts``."""
    return {piece for text in texts for piece in re.findall(r"\w+|[^\w\s]", text)}
