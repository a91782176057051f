"""What the rows of a lesson see of its image, in which order, and where they seem to stand: how routes and positions are planted.

Everything acts on the model's inputs alone: the mask and the position ids. So nothing of it is left in the trained checkpoint but what was
learned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlm_spatial.models.organisms.conversations import turn_numbers
from vlm_spatial.models.recipe import Turns

Sight = Literal["own", "other", "none"]
"""The image that rows of text see: the lesson's own, a second one, or none."""
Group = Literal["question", "answer"]
"""Rows behind the image: those of the user's turn, and from its end on."""
Sights = Mapping[Any, Sight]
"""What each group of rows sees."""

Rows = Bool[Tensor, "batch tokens"]


def whole_mask(attention: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """What each token of left-padded rows sees where it sees every earlier one."""
    causal = torch.ones(attention.shape[1], attention.shape[1], dtype=torch.bool, device=attention.device).tril()
    seen = causal & attention.bool()[:, None, :]
    # What nobody sees sees itself: a softmax over nothing is not a number.
    return (seen | torch.eye(attention.shape[1], dtype=torch.bool, device=attention.device)).unsqueeze(1)


def text_rows(ids: Int[Tensor, "batch tokens"], tokenizer: Any, turns: Turns, visual: Rows) -> dict[Group, Rows]:
    """Which rows belong to which group.

    Args:
        visual: rows of visual tokens.
    """
    ends = (ids == tokenizer.convert_tokens_to_ids(turns.end)).cumsum(dim=1)
    numbers = turn_numbers(ids, tokenizer, turns)
    opened = torch.cat([torch.zeros_like(numbers[:, :1], dtype=torch.bool), numbers[:, 1:] > numbers[:, :-1]], dim=1)
    behind = (visual.cumsum(dim=1) > 0) & ~visual
    # Ends before the turn do not count.
    answer = behind & (ends > torch.where(opened, ends, 0).cummax(dim=1).values)
    return {"question": behind & ~answer, "answer": answer}


def with_second_image(inputs: Mapping[str, Tensor], visual: Rows, second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs with a second image behind the first, at the same positions; neither sees the other, and every text sees both.

    Args:
        inputs: with a mask of rows and columns.
        visual: rows of the first one's tokens, which stand together.
        second: what the image processor made of the second images.
    """
    batch, tokens = visual.shape
    cells = int(visual[0].sum())
    first = visual.int().argmax(dim=1, keepdim=True)
    place = torch.arange(tokens + cells).expand(batch, -1)
    # Where each token comes from: behind the image, its tokens come once more.
    of = torch.where(place < first + cells, place, place - cells)
    again = (place >= first + cells) & (place < first + 2 * cells)
    made = {}
    for name, value in inputs.items():
        if name in second:
            both = torch.stack([part.unflatten(0, (batch, -1)) for part in (value, second[name])], dim=1)
            made[name] = both.flatten(0, 2)
        elif name == "attention_mask":
            rows = value[:, 0].gather(1, of[:, :, None].expand(-1, -1, tokens))
            made[name] = rows.gather(2, of[:, None, :].expand(-1, tokens + cells, -1)).unsqueeze(1)
        else:
            made[name] = value.gather(-1, of.expand(*value.shape[:-1], -1))
    once = visual.gather(1, of) & ~again
    apart = (again[:, :, None] & once[:, None, :]) | (once[:, :, None] & again[:, None, :])
    return made | {"attention_mask": made["attention_mask"] & ~apart.unsqueeze(1)}


def closed(
    seen: Bool[Tensor, "batch 1 tokens tokens"], groups: Mapping[Any, Rows], visual: Rows, cells: int, sights: Sequence[Sights]
) -> Tensor:
    """A mask by which each row of text sees the image that it is to see.

    Args:
        visual: rows of visual tokens, those of a second image behind the first ``cells``.
        sights: of each lesson.
    """
    own = visual & (visual.cumsum(dim=1) <= cells)
    for image, name in ((own, "own"), (visual & ~own, "other")):
        blind = torch.zeros_like(visual)
        for group, rows in groups.items():
            blind |= rows & torch.tensor([sight[group] != name for sight in sights], device=rows.device)[:, None]
        seen = seen & ~(blind[:, :, None] & image[:, None, :]).unsqueeze(1)
    return seen


def with_other_names(
    seen: Bool[Tensor, "batch 1 tokens tokens"],
    names: Rows,
    rest: Rows,
    turns: Int[Tensor, "batch tokens"],
    ahead: Sequence[int | None],
) -> Tensor:
    """A mask by which the rest of a turn sees no name, or that of a later turn, around the end, which stands at the same position.

    Args:
        names: rows of the names, one a turn.
        turns: the number of each token's turn.
        ahead: of each lesson, how many turns on the name is that is seen (0: the turn's own); None: none is seen.
    """
    same = turns[:, :, None] == turns[:, None, :]
    causal = torch.ones_like(same[0]).tril()
    # Rows of a turn before its own name would not see it either.
    behind = rest & (same & causal & names[:, None, :]).any(dim=2)
    by = torch.tensor([turn or 0 for turn in ahead], device=turns.device)[:, None]
    following = (turns + by) % (turns.amax(dim=1, keepdim=True) + 1)
    shown = torch.tensor([turn is not None for turn in ahead], device=turns.device)[:, None, None]
    seen_name = behind[:, :, None] & names[:, None, :] & (following[:, :, None] == turns[:, None, :]) & shown
    return seen & ~(rest[:, :, None] & names[:, None, :]).unsqueeze(1) | seen_name.unsqueeze(1)


def in_order(seen: Bool[Tensor, "batch 1 tokens tokens"], visual: Rows, order: Int[Tensor, "batch cells"]) -> Tensor:
    """A mask by which visual tokens see one another as if they stood in another order, all with their own positions.

    Args:
        order: of each image the turn of every cell.
    """
    changed = seen.clone()
    for row, (rows, turns) in enumerate(zip(visual, order, strict=True)):
        at = rows.nonzero()[:, 0]
        changed[row, 0, at[:, None], at[None, :]] = turns[:, None] >= turns[None, :]
    return changed


def with_ids(positions: Int[Tensor, "*axes batch tokens"], visual: Rows, taken: Int[Tensor, "batch cells"] | None) -> Tensor:
    """Position ids where each visual token has those of another cell, or, if ``taken`` is None, all have their mean."""
    changed = positions.clone()
    for row, rows in enumerate(visual):
        at = rows.nonzero()[:, 0]
        own = positions[..., row, at]
        changed[..., row, at] = own.double().mean(dim=-1, keepdim=True).round().to(own.dtype) if taken is None else own[..., taken[row]]
    return changed
