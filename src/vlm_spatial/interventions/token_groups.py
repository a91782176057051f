"""Which positions of a prompt belong together: the image, the question's tokens behind it, the chat template's last ones, the last one.

Positions are found by comparing prompts: what a prompt has in common with one that asks something else, from its start and from its end,
is the chat template's. No tokenizer is asked how it works.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import Positions
from vlm_spatial.models.decoder import Layout
from vlm_spatial.models.inputs import Begun, Prompt
from vlm_spatial.tokens import SLOTS

# Questions that begin and end otherwise than each other, so that no real one agrees with both.
_OTHERS = ("0 x", "9 ;")


def text_groups(adapter: Adapter, image: Image.Image, prompt: Prompt) -> dict[str, Positions]:
    """``image``, ``question``, ``tail``, ``last`` and ``answer`` (the last two together) of one prompt.

    ``image`` goes from the first cell's token to the last one's. ``question`` is all between it and ``tail``: the question's own tokens and
    what a chat template writes between image and question, which could pass the image on as well. ``tail`` is what the template writes
    behind the question, with the beginning of an answer, without the last token.

    Raises:
        UserError: if there is no question.
    """
    layout = Layout.of(adapter, image, prompt)
    own = adapter.tokens(image, prompt)[0][0].numpy()
    common = min(_common(own[::-1], _other(adapter, image, prompt, text)[::-1]) for text in _OTHERS)
    # A template that writes nothing behind the question leaves its last token to answer.
    end = layout.length - max(common, 1)
    groups = {
        "image": np.arange(layout.first, layout.end),
        "question": np.arange(layout.end, end),
        "tail": np.arange(end, layout.length - 1),
        "last": np.array([layout.length - 1]),
        "answer": np.arange(end, layout.length),
    }
    if not len(groups["question"]):
        raise UserError(f"prompt {prompt!r}: token group 'question' has no token here, so no attention from it can be closed")
    return groups


def from_end(adapter: Adapter, image: Image.Image, prompt: Prompt, group: str) -> Positions:
    """A text group's positions, counted from the end of the prompt: -1 is the last."""
    groups = text_groups(adapter, image, prompt)
    return groups[group] - groups["last"][0] - 1


def cell_groups(adapter: Adapter, image: Image.Image, prompt: Prompt, case: Case) -> dict[str, Positions]:
    """Positions of cells: ``object``, ``strip``, ``rim`` of the slot asked about, ``reference`` (the object named), ``background``; and
    ``strip.<slot>`` and ``objects``. A group without cells is left out.
    """
    cells = Layout.of(adapter, image, prompt).cells_at
    asked, tokens = case.slots[0], case.tokens
    groups = {name: cells[tokens.mask(name, [asked])] for name in ("object", "strip", "rim", "background")}  # type: ignore[arg-type]
    if case.template == "relation_to_object" and len(tokens.objects) == SLOTS:
        # A neighbour that is not exchanged itself: the middle one, or of the middle one the other outer one.
        groups["reference"] = cells[tokens.objects[1 if asked != 1 else SLOTS - sum(case.slots)]]
    groups |= {f"strip.{slot}": cells[strip] for slot, strip in zip(tokens.slots, tokens.strips, strict=True)}
    groups["objects"] = cells[tokens.mask("object", tokens.slots)]
    return {name: group for name, group in groups.items() if len(group)}


def _other(adapter: Adapter, image: Image.Image, prompt: Prompt, text: str) -> Int[np.ndarray, " positions"]:
    other: Prompt = Begun(text, prompt.tokens) if isinstance(prompt, Begun) else text
    return adapter.tokens(image, other)[0][0].numpy()


def _common(first: Int[np.ndarray, " a"], second: Int[np.ndarray, " b"]) -> int:
    """How many first entries are equal."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length


def word_position(adapter: Adapter, image: Image.Image, prompt: Prompt, words: Sequence[str]) -> int | None:
    """The last token of the one word that a prompt names. None unless it names exactly one of ``words``, which must be two or more."""
    named = [word for word in words if names_once(prompt, word)]
    return name_position(adapter, image, prompt, named[0], words) if len(named) == 1 and len(words) > 1 else None


def names_once(prompt: Prompt, word: str) -> bool:
    """Whether a prompt names a word exactly once."""
    return len(_named(prompt, word)) == 1


def name_position(adapter: Adapter, image: Image.Image, prompt: Prompt, word: str, words: Sequence[str]) -> int:
    """The last token of a word that a prompt names once.

    The same prompt with another of ``words`` in its place ends alike. What the two have in common, from the end, stands behind that token.
    """
    text = _text(prompt)
    begin, end = _named(prompt, word)[0]
    own = adapter.tokens(image, prompt)[0][0].numpy()
    others = [text[:begin] + other + text[end:] for other in words if other != word]
    common = min(_common(own[::-1], _other(adapter, image, prompt, other)[::-1]) for other in others)
    return len(own) - common - 1


def _text(prompt: Prompt) -> str:
    return prompt.prompt if isinstance(prompt, Begun) else prompt


def _named(prompt: Prompt, word: str) -> list[tuple[int, int]]:
    """Where the text has a word."""
    return [found.span() for found in re.finditer(rf"\b{re.escape(word)}\b", _text(prompt))]
