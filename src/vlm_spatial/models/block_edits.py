"""Edits inside language blocks: who attends to whom, what a head writes, where a position seems to stand.

The blocks stay transformers' own. An edit changes what a block is given (its mask, its rotary angles, its keys and values) or what its
output projection is given (the heads' outputs). The plain forward pass and the engine share the edits, so that each can be held against the
other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from vlm_spatial.models.adapter import Adapter

Positions = Int[np.ndarray, " positions"]
"""Positions in a prompt's tokens; negative ones count from its end."""

KeysValues = tuple[Float[Tensor, "batch heads positions width"], Float[Tensor, "batch heads positions width"]]


@dataclass(frozen=True)
class Knockout:
    """Attention of some positions to some others closed, before the softmax, in blocks ``first`` to ``last``.

    The weights that are left add up to 1 again. A position always keeps itself.

    Attributes:
        queries, keys: the positions that no longer attend, and those that they no longer attend to.
        heads: the heads in which; all if None.
    """

    queries: Positions
    keys: Positions
    first: int
    last: int
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Rescaled:
    """What some positions see of some others, multiplied, in blocks ``first`` to ``last``; for everyone else nothing changes.

    Several edits multiply where they meet.

    Attributes:
        queries, keys: the positions that see, and those that are seen.
        of_keys: factor of the keys, and so of the scores before the softmax.
        of_values: factor of the values; 0 keeps the attention weights and removes what they carry.
    """

    queries: Positions
    keys: Positions
    first: int
    last: int
    of_keys: float = 1.0
    of_values: float = 1.0


@dataclass(frozen=True)
class HeadOutput:
    """What heads of block ``first`` hand to the output projection, replaced at some positions.

    Attributes:
        values: ``[positions, heads, head width]``.
    """

    first: int
    heads: tuple[int, ...]
    queries: Positions
    values: Float[Tensor, "positions heads width"]

    @property
    def last(self) -> int:
        """The one block that it is about."""
        return self.first


@dataclass(frozen=True)
class PositionIds:
    """Other position ids for the rotary angles of blocks ``first`` to ``last``; the tokens keep their order, and the mask theirs.

    Attributes:
        ids: of every position, as the model's own input ``position_ids`` has them for one row.
    """

    ids: Int[Tensor, "*axes 1 positions"]
    first: int
    last: int

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for edits that do the same."""
        return self.first, self.last, tuple(self.ids.flatten().tolist())


BlockEdit = Knockout | Rescaled | HeadOutput | PositionIds


def places(positions: Positions, length: int) -> Positions:
    """Positions counted from the start."""
    return np.where(positions < 0, positions + length, positions)


def head_width(adapter: "Adapter") -> int:
    """Features that one head of a language block hands to the output projection."""
    return int(attention_of(adapter.language_blocks[0]).head_dim)


def head_count(adapter: "Adapter") -> int:
    """Attention heads of a language block."""
    return _heads(adapter.language_blocks[0])


def attention_of(block: nn.Module) -> Any:
    """A language block's attention."""
    return block.self_attn


def _heads(block: nn.Module) -> int:
    return int(attention_of(block).o_proj.in_features) // int(attention_of(block).head_dim)


class Joined:
    """Stands in for a block's cache: remembers the new keys and values, and puts a prefix before them.

    Args:
        prefix: keys and values of the positions before.
        factors: of the keys and of the values, ``[batch, 1, positions, 1]``.
    """

    def __init__(self, prefix: KeysValues | None = None, factors: tuple[Tensor, Tensor] | None = None) -> None:
        self.prefix, self.factors = prefix, factors
        self.new: KeysValues | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        self.new = keys, values
        every = (keys, values) if self.prefix is None else join(self.prefix, self.new)
        return every if self.factors is None else (every[0] * self.factors[0].to(keys), every[1] * self.factors[1].to(values))


def join(first: KeysValues, second: KeysValues) -> KeysValues:
    """Keys and values of two stretches of positions, one after the other."""
    return torch.cat([first[0], second[0]], dim=2), torch.cat([first[1], second[1]], dim=2)


def in_block(edits: Sequence[Sequence[BlockEdit]], layer: int) -> list[list[BlockEdit]]:
    """Each row's edits of one block; position ids are not among them, as they come with the block's arguments."""
    return [[edit for edit in row if edit.first <= layer <= edit.last and not isinstance(edit, PositionIds)] for row in edits]


def run_edited(
    block: nn.Module,
    forward: Callable[..., Tensor],
    hidden: Float[Tensor, "batch positions features"],
    named: dict[str, Any],
    edits: Sequence[Sequence[BlockEdit]],
    length: int,
    cache: Callable[[tuple[Tensor, Tensor] | None], Any],
) -> tuple[Float[Tensor, "batch positions features"], Any]:
    """A block's output under edits.

    Args:
        forward: runs the block.
        hidden: the block's input at the last positions of a prompt.
        named: the block's keyword arguments for them, without a cache.
        edits: those of each row that are made in this block.
        length: of the prompt.
        cache: makes the cache, whose keys and values are multiplied by factors (None: as they are).

    Returns:
        the output, and the cache without factors.
    """
    count = hidden.shape[1]
    start = length - count
    arguments = dict(named)
    closed = _closed(edits, block, count, length, hidden.device)
    if closed is not None:
        arguments["attention_mask"] = _with_closed(named.get("attention_mask"), closed, count, length, hidden)
    plain = cache(None)
    with _head_outputs(block, edits, length, start):
        output = forward(hidden, past_key_values=plain, **arguments)
        rescaled = [_rescaled_views([edit for edit in of_row if isinstance(edit, Rescaled)], length) for of_row in edits]
        turns = max(map(len, rescaled))
        if turns:
            output = output.clone()
        # One more run for each view that a row has: what the others see is not to change.
        for turn in range(turns):
            chosen = [(row, views[turn]) for row, views in enumerate(rescaled) if turn < len(views)]
            factors = torch.ones(2, len(hidden), 1, length, 1, dtype=hidden.dtype, device=hidden.device)
            for row, (_, by_position) in chosen:
                factors[:, row, 0, :, 0] = by_position.to(factors)
            again = forward(hidden, past_key_values=cache((factors[0], factors[1])), **arguments)
            for row, (positions, _) in chosen:
                queries = positions[positions >= start] - start
                output[row, queries] = again[row, queries]
    return output, plain


@contextmanager
def edited_blocks(adapter: "Adapter", edits: Sequence[BlockEdit], angles: Callable[[PositionIds], list[dict[str, Any]]]) -> Iterator[None]:
    """Make edits in every plain pass of one row, without padding, while the context lasts.

    Args:
        angles: every block's arguments under other position ids.
    """
    if not edits:
        yield
        return
    moved = [(edit, angles(edit)) for edit in edits if isinstance(edit, PositionIds)]
    blocks = list(adapter.language_blocks)
    own = [vars(block).get("forward") for block in blocks]

    def forward_of(layer: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward_edited(hidden: Tensor, **named: Any) -> Tensor:
            for edit, arguments in moved:
                if edit.first <= layer <= edit.last:
                    named |= of_positions(arguments[layer])
            here = in_block([edits], layer)
            if not here[0]:
                return forward(hidden, **named)
            named.pop("past_key_values", None)

            def cache(factors: tuple[Tensor, Tensor] | None) -> Joined | None:
                return None if factors is None else Joined(factors=factors)

            return run_edited(blocks[layer], forward, hidden, named, here, hidden.shape[1], cache)[0]

        return forward_edited

    try:
        for layer, block in enumerate(blocks):
            vars(block)["forward"] = forward_of(layer, block.forward)
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                vars(block)["forward"] = forward


def of_positions(arguments: dict[str, Any]) -> dict[str, Any]:
    """A block's arguments that follow from position ids."""
    return {name: arguments[name] for name in ("position_embeddings", "position_ids") if name in arguments}


def visible(mask: Tensor | None, count: int, length: int) -> Bool[Tensor, "batch heads queries keys"]:
    """Which keys the last ``count`` positions see; None stands for plain causal attention."""
    if mask is None:
        return torch.ones(length, length, dtype=torch.bool).tril()[None, None, length - count :]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _closed(
    edits: Sequence[Sequence[BlockEdit]], block: nn.Module, count: int, length: int, device: torch.device
) -> Bool[Tensor, "batch heads queries keys"] | None:
    """What knockouts close, for the last ``count`` positions; None if nothing."""
    knockouts = [(row, edit) for row, of_row in enumerate(edits) for edit in of_row if isinstance(edit, Knockout)]
    if not knockouts:
        return None
    start = length - count
    heads = 1 if all(edit.heads is None for _, edit in knockouts) else _heads(block)
    closed = torch.zeros(len(edits), heads, count, length, dtype=torch.bool, device=device)
    for row, edit in knockouts:
        queries = places(edit.queries, length) - start
        pairs = np.ix_(queries[queries >= 0], places(edit.keys, length))
        for head in range(heads) if edit.heads is None else edit.heads:
            closed[row, head][pairs] = True
    own = torch.arange(count, device=device)
    closed[:, :, own, own + start] = False
    return closed


def _with_closed(mask: Tensor | None, closed: Tensor, count: int, length: int, hidden: Tensor) -> Tensor | None:
    """A mask with more closed; the same mask, of the same kind, if what is closed was closed already."""
    seen = visible(mask, count, length).to(hidden.device)
    if not (seen & closed).any():
        return mask
    if mask is None or mask.dtype == torch.bool:
        return seen & ~closed
    return mask.masked_fill(closed, torch.finfo(mask.dtype).min)


@contextmanager
def _head_outputs(block: nn.Module, edits: Sequence[Sequence[BlockEdit]], length: int, start: int) -> Iterator[None]:
    """Replace heads' outputs before the output projection."""
    written = [(row, edit) for row, of_row in enumerate(edits) for edit in of_row if isinstance(edit, HeadOutput)]
    if not written:
        yield
        return

    def replaced(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        made = inputs[0].clone()
        for row, edit in written:
            queries = places(edit.queries, length) - start
            kept = queries >= 0
            by_head = made[row].unflatten(-1, (-1, edit.values.shape[2]))
            by_head[np.ix_(queries[kept], np.asarray(edit.heads))] = edit.values[kept].to(made)
        return (made,)

    handle = attention_of(block).o_proj.register_forward_pre_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


def _rescaled_views(edits: Sequence[Rescaled], length: int) -> list[tuple[Positions, Float[Tensor, "2 positions"]]]:
    """Positions that see the prompt alike, and the factors of keys and of values they see it with: those of several edits multiply."""
    by_query: dict[int, list[Rescaled]] = defaultdict(list)
    for edit in edits:
        for query in places(edit.queries, length).tolist():
            by_query[query].append(edit)
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for query, of_query in by_query.items():
        alike[tuple(id(edit) for edit in of_query)].append(query)
    made = []
    for queries in alike.values():
        factors = torch.ones(2, length)
        for edit in by_query[queries[0]]:
            factors[:, places(edit.keys, length)] *= torch.tensor([[edit.of_keys], [edit.of_values]])
        made.append((np.array(queries), factors))
    return made
