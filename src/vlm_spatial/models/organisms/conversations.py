"""Lessons as model inputs: conversations as the chat template writes them, their turns one after another or each for itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.organisms.lessons import Lesson
from vlm_spatial.models.recipe import Turns
from vlm_spatial.scenes.build import render

IGNORED = -100
# Tokens that open a turn: its mark and its role.
_OPENING = 2


def model_inputs(lessons: Sequence[Lesson], processor: Any, turns: Turns) -> dict[str, Tensor]:
    """Model inputs of a batch of lessons, with ``labels`` on the answers (but for given words) and the end of each answer only."""
    conversations = []
    for lesson in lessons:
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(lesson.turns):
            image = [{"type": "image", "image": render(lesson.image or lesson.scene)}] if number == 0 else []
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": turn.prompt}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
        conversations.append(messages)
    inputs = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt", "padding": True}
    )
    ids = inputs["input_ids"]
    learned, numbers = answer_mask(ids, processor.tokenizer, turns), turn_numbers(ids, processor.tokenizer, turns)
    for row, lesson in enumerate(lessons):
        for number, turn in enumerate(lesson.turns):
            given = torch.tensor(processor.tokenizer.convert_tokens_to_ids(sorted(turn.given)), dtype=ids.dtype)
            learned[row] &= ~(torch.isin(ids[row], given) & (numbers[row] == number))
    return {**inputs, "labels": torch.where(learned, ids, IGNORED)}


def set_apart(inputs: Mapping[str, Tensor], tokenizer: Any, adapter: Adapter) -> dict[str, Tensor]:
    """Inputs by which each turn of a conversation sees the image and itself, at the positions that it would have as the only one.

    The model then says what it would say to every turn alone, and reads the image once. Every token sees earlier ones only: visual tokens
    that see one another in both directions would need another mask.

    Args:
        inputs: of :func:`model_inputs`.
        adapter: of a family whose visual tokens see earlier positions only; it says the positions of whole conversations.

    Returns:
        ``inputs`` with ``attention_mask`` (batch, 1, tokens, tokens; true where a token is seen) and ``position_ids``.
    """
    ids, turns = inputs["input_ids"], adapter.recipe.turns
    positions = adapter.positions(inputs)
    starts, numbers = _starts_of_turns(ids, tokenizer, turns), turn_numbers(ids, tokenizer, turns)
    later_starts = starts & (numbers > 0)
    # As the only turn, a later one would go on where the image ends: its own opening is neither seen nor counted.
    unseen = later_starts | _shifted(later_starts, 1) | ~inputs["attention_mask"].bool()
    image_marks = ids == tokenizer.convert_tokens_to_ids(turns.image_end)
    image_ends_ahead = image_marks.flip(1).cumsum(dim=1).flip(1)
    in_opening = (image_ends_ahead > 0) & ~unseen
    # Where an image has no end mark, each of its tokens looks like one.
    image_ends = image_marks & (image_ends_ahead == 1)
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    same_turn = numbers[:, :, None] == numbers[:, None, :]
    seen = causal & ~unseen[:, None, :] & (in_opening[:, None, :] | same_turn)
    # What nobody sees sees itself: a softmax over nothing is not a number.
    seen |= torch.eye(ids.shape[1], dtype=torch.bool)

    first_texts = _shifted(image_ends, 1) | _shifted(later_starts, _OPENING)
    # With several axes, text counts along all of them alike.
    at = positions if positions.ndim == 2 else positions[0]
    first_of_own = torch.where(first_texts, at, 0).cummax(dim=1).values
    first_of_all = torch.where(first_texts, at, torch.iinfo(at.dtype).max).amin(dim=1, keepdim=True)
    moved = torch.where(first_of_own > 0, first_of_own - first_of_all, 0)
    return {**inputs, "attention_mask": seen.unsqueeze(1), "position_ids": positions - moved}


def turn_numbers(ids: Int[Tensor, "batch tokens"], tokenizer: Any, turns: Turns) -> Int[Tensor, "batch tokens"]:
    """Which of the user's turns, from 0, each token belongs to, itself or the answer; -1 for what stands before."""
    return _starts_of_turns(ids, tokenizer, turns).cumsum(dim=1) - 1


def answer_mask(ids: Int[Tensor, "batch tokens"], tokenizer: Any, turns: Turns) -> Bool[Tensor, "batch tokens"]:
    """Tokens of the model's own turns, from the first word of an answer to the end-of-turn mark."""
    start, role, end = tokenizer.convert_tokens_to_ids([turns.opening, turns.model, turns.end])
    opened = _shifted((ids == start) & (ids.roll(-1, dims=1) == role), _OPENING)
    turn_ended = _shifted(ids == end, 1)
    # Position of the latest opening against that of the latest end: inside an answer if the opening is later.
    position = torch.arange(1, ids.shape[1] + 1)
    latest_open = (position * opened).cummax(dim=1).values
    latest_end = (position * turn_ended).cummax(dim=1).values
    return latest_open > latest_end


def _starts_of_turns(ids: Int[Tensor, "batch tokens"], tokenizer: Any, turns: Turns) -> Bool[Tensor, "batch tokens"]:
    start, user = tokenizer.convert_tokens_to_ids([turns.opening, turns.user])
    return (ids == start) & (ids.roll(-1, dims=1) == user)


def _shifted(mask: Bool[Tensor, "batch tokens"], by: int) -> Bool[Tensor, "batch tokens"]:
    """The mask of the tokens ``by`` places later."""
    shifted = torch.zeros_like(mask)
    shifted[:, by:] = mask[:, :-by]
    return shifted
