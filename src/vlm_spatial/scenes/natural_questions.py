"""Questions about pictures that show more than the objects that are meant: these are named, and stand in a balanced order.

"Which is furthest to the left: the cake, the knife or the person?"
"""

import re
from collections.abc import Sequence
from itertools import permutations

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.scene import Content, Scene
from vlm_spatial.scenes.sources.settings import Template
from vlm_spatial.tokens import Axis

# As people say them, where a label says it otherwise.
_SPOKEN = {"tv": "TV", "hair drier": "hair dryer"}
# Words that are plural, though they name one thing.
_PLURAL = frozenset(
    ["scissors", "skis", "glasses", "sunglasses", "pants", "trousers", "jeans", "shorts", "headphones", "binoculars", "tongs"]
)
# Written with a vowel and spoken without, and the reverse.
_LIKE_A_CONSONANT = re.compile(r"(uni([^nm]|$)|use|usu|euro|one\b|ukulele|utensil|u-)", re.IGNORECASE)
_LIKE_A_VOWEL = re.compile(r"(hour|honest|heir|honou?r)", re.IGNORECASE)

_FURTHEST: dict[Axis, tuple[str, str, str]] = {
    "horizontal": ("furthest to the left", "between the other two from left to right", "furthest to the right"),
    "vertical": ("highest up", "between the other two from top to bottom", "lowest down"),
}
_FURTHER: dict[Axis, tuple[str, str]] = {
    "horizontal": ("further to the left", "further to the right"),
    "vertical": ("higher up", "lower down"),
}
_PLACES: dict[Axis, tuple[str, str, str]] = {
    "horizontal": ("on the left", "in the middle", "on the right"),
    "vertical": ("at the top", "in the middle", "at the bottom"),
}
_PLACE_WORDS: dict[Axis, tuple[str, str, str]] = {
    "horizontal": ("left", "middle", "right"),
    "vertical": ("top", "middle", "bottom"),
}
_NEXT: dict[Axis, tuple[str, str]] = {
    "horizontal": ("directly to the left of", "directly to the right of"),
    "vertical": ("directly above", "directly below"),
}
_RELATIONS: dict[Axis, tuple[str, str]] = {
    "horizontal": ("to the left", "to the right"),
    "vertical": ("above", "below"),
}
_RELATION_WORDS: dict[Axis, tuple[str, str]] = {"horizontal": ("left", "right"), "vertical": ("above", "below")}


def spoken(label: str) -> str:
    """A label as people say it: ``dining_table`` is a dining table, ``tv`` a TV."""
    words = re.sub(r"[_\s]+", " ", label).strip()
    return _SPOKEN.get(words.lower(), words)


def content_named(label: str) -> Content:
    """The object that a label names."""
    name = spoken(label)
    return Content(name, name, name)


def is_plural(name: str) -> bool:
    """Whether a name takes ``are``."""
    return name.split()[-1].lower() in _PLURAL


def with_article(name: str) -> str:
    """``an umbrella``, ``a unicorn``, ``scissors``."""
    if is_plural(name):
        return name
    vowel = name[:1].lower() in "aeiouàáâäæèéêëìíîïòóôöøùúûü" and not _LIKE_A_CONSONANT.match(name)
    # A name in capitals is spelt: an SUV, a TV.
    if len(name) > 1 and name.isupper():
        vowel = name[0] in "AEFHILMNORSX"
    return f"{'an' if vowel or _LIKE_A_VOWEL.match(name) else 'a'} {name}"


def is_there(name: str) -> str:
    """The question whether the picture shows it."""
    return f"{'Are' if is_plural(name) else 'Is'} there {with_article(name)} in the picture?"


def ask_named(
    scene: Scene, template: Template, slot: int, order: int | None = None, own: str | None = None
) -> tuple[str, str, tuple[str, ...]]:
    """Question, answer and candidates of a scene of two or three objects.

    Args:
        order: of the options in the question, counted through; by default the scene's number and the slot, so that over many scenes the
            right one stands at each place equally often.
        own: the question after the relation of two objects in words of the user's, which name ``OF_TWO``.

    Raises:
        UserError: for a template that has no such question.
    """
    phrase = dict(zip(scene.slots, scene.phrases, strict=True))
    word = dict(zip(scene.slots, scene.objects, strict=True))
    number = scene.seed + slot if order is None else order
    axis, two = scene.axis, len(scene.slots) == 2
    later = int(slot == 2)
    match template:
        case "slot_to_object":
            which = _FURTHER[axis][later] if two else _FURTHEST[axis][slot]
            return f"Which is {which}: {_any_of(_ordered(list(phrase.values()), number))}?", word[slot], tuple(sorted(scene.objects))
        case "object_to_slot":
            # By the object, not by its slot: of a picture and its mirror image the same is asked.
            number = scene.seed + sorted(phrase.values()).index(phrase[slot]) if order is None else order
            every = _all_of(_ordered(list(phrase.values()), number))
            options = [_PLACES[axis][each] for each in scene.slots]
            places = _listed(options[::-1] if two and number % 2 else options, "or")
            verb = "are" if is_plural(phrase[slot]) else "is"
            answers = tuple(_PLACE_WORDS[axis][each] for each in scene.slots)
            return f"Of {every}, {verb} the {phrase[slot]} {places}?", _PLACE_WORDS[axis][slot], answers
        case "relation_to_object":
            if two:
                return _relation_of_two(axis, phrase[slot], phrase[2 - slot], later, number, own)
            reference = scene.middle_reference if slot == 1 else 1
            others = [phrase[each] for each in scene.slots if each != reference]
            question = f"Which is {_NEXT[axis][int(reference < slot)]} the {phrase[reference]}: {_any_of(_ordered(others, number))}?"
            return question, word[slot], tuple(sorted(word[each] for each in scene.slots if each != reference))
    raise UserError(f"template {template!r}: has no question that names its objects")


def _relation_of_two(axis: Axis, asked: str, other: str, later: int, number: int, own: str | None) -> tuple[str, str, tuple[str, ...]]:
    words = _RELATION_WORDS[axis]
    if own is not None:
        first, second = _ordered(words, number)
        return own.format(object=asked, reference=other, first=first, second=second, blank=""), words[later], words
    return relation_wordings(axis, asked, other, number)[0], words[later], words


def relation_wordings(axis: Axis, target: str, reference: str, number: int = 0) -> tuple[str, str]:
    """The question on how the target stands to the reference, and one that asks it in other words, naming the target second.

    Args:
        number: of the order of the options.
    """
    verb, (first, second) = "are" if is_plural(target) else "is", _ordered(_RELATIONS[axis], number)
    of = " of" if axis == "horizontal" else ""
    asked = f"{first} or {second}{of}"
    return (
        f"{verb.capitalize()} the {target} {asked} the {reference}?",
        f"If one looks at the {reference}, {verb} the {target} {asked} it?",
    )


def _ordered(names: Sequence[str], number: int) -> list[str]:
    """The names in one of their orders; every order comes once while ``number`` counts through."""
    every = list(permutations(sorted(names)))
    return list(every[number % len(every)])


def _any_of(names: Sequence[str]) -> str:
    return _listed([f"the {name}" for name in names], "or")


def _all_of(names: Sequence[str]) -> str:
    return _listed([f"the {name}" for name in names], "and")


def _listed(parts: Sequence[str], word: str) -> str:
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
