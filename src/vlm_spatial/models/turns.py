"""The turns of a chat, as chat templates read them."""

from collections.abc import Callable
from typing import Any

from vlm_spatial.errors import UserError

MARK = "question 7261954"
"""Stands for the question when a chat template is asked what it writes around it."""
Chat = list[dict[str, Any]]


def turns(prompt: str, image: Any = None, system: str = "", *, plain: bool = False) -> Chat:
    """An image and a question behind it, after a system turn if there is a text for one.

    Args:
        image: left out of the turn that shows it if None.
        plain: whether the system turn is a text, as templates of Mistral's models want it, and not a list of parts.
    """
    shown = {"type": "image"} if image is None else {"type": "image", "image": image}
    # Pixtral's first templates look for a text under "content".
    chat: Chat = [{"role": "user", "content": [shown, {"type": "text", "text": prompt, "content": prompt}]}]
    if system:
        chat.insert(0, {"role": "system", "content": system if plain else [{"type": "text", "text": system}]})
    return chat


def fill_in_mark(fill: Callable[[Chat], str], system: str) -> tuple[str, bool]:
    """A chat template's text for ``MARK`` as the question, and whether it wants the system turn plain.

    Args:
        fill: fills the template in; raises ``UserError`` where it cannot.

    Raises:
        UserError: if the template cannot be filled in either way, or leaves the question or the system turn out.
    """
    try:
        text, plain = fill(turns(MARK, system=system)), False
        as_parts = _says(text, system)
    except UserError:
        if not system:
            raise
        as_parts = False
    if not as_parts:
        text, plain = fill(turns(MARK, system=system, plain=True)), True
        if not _says(text, system):
            raise UserError(
                "chat template: leaves the system turn out; choose another one in models.*.prompting.chat_template, or no system"
            )
    if MARK not in text:
        raise UserError("chat template: leaves the question out; choose another one in models.*.prompting.chat_template")
    return text, plain


def _says(text: str, system: str) -> bool:
    """Whether a text holds the system turn's as such, not as Python writes a list of it."""
    return system.strip() in text and "'type': 'text'" not in text
