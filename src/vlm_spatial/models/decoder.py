"""The language model of an adapter, block by block and from any position on.

The blocks are transformers' own, unmodified: a stand-in for their cache supplies the keys and values of the positions
before, and their own keyword arguments (masks, rotary angles) are recorded once from a plain forward pass and sliced.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import (
    BlockEdit,
    HeadOutput,
    Joined,
    KeysValues,
    PositionIds,
    Positions,
    Rescaled,
    in_block,
    join,
    of_positions,
    places,
    run_edited,
    visible,
)
from vlm_spatial.models.inputs import Prompt
from vlm_spatial.models.values import Prepared, SiteValues
from vlm_spatial.tokens import TokenGrid

# Model inputs that hold one value a token, in their last dimension.
_OF_TOKENS = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")


class _Made(Exception):  # noqa: N818 - no error
    """Carries keys and values out of a block, which ends there."""

    def __init__(self, made: KeysValues) -> None:
        super().__init__()
        self.made = made


class _Stop:
    """Stands in for a block's cache: ends the block as soon as it has made its keys and values."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        raise _Made((keys, values))


class _Given:
    """Stands in for a block's cache that already holds every position, the new ones too; multiplied by factors, if any."""

    def __init__(self, every: KeysValues, factors: tuple[Tensor, Tensor] | None = None) -> None:
        self.every = every if factors is None else (every[0] * factors[0].to(every[0]), every[1] * factors[1].to(every[1]))

    def update(self, *_: Any, **__: Any) -> KeysValues:
        return self.every


@dataclass(frozen=True)
class Layout:
    """What sequences must share to be computed together: length, where each cell's token stands, shape of the grid; no padding."""

    length: int
    positions: tuple[int, ...]
    grid: TokenGrid

    @property
    def first(self) -> int:
        """Position of the first cell."""
        return self.positions[0]

    @property
    def end(self) -> int:
        """The position behind the last cell."""
        return self.positions[-1] + 1

    @property
    def cells(self) -> int:
        return len(self.positions)

    @cached_property
    def cells_at(self) -> Int[np.ndarray, " cells"]:
        """Position of each cell."""
        return np.array(self.positions)

    @cached_property
    def unbroken(self) -> int:
        """How many first cells stand one behind the other, without other tokens between them."""
        return int((self.cells_at == self.first + np.arange(self.cells)).cumprod().sum())

    @classmethod
    def of(cls, adapter: Adapter, image: Image.Image, prompt: Prompt) -> "Layout":
        """The layout of one image with its prompt."""
        ids, positions = adapter.tokens(image, prompt)
        return cls(ids.shape[1], tuple(positions[0].tolist()), adapter.grid(*image.size))


class Decoder:
    """Runs language blocks for sequences of one layout.

    Args:
        adapter: the model.
        layout: of the sequences.
        example: one prepared row of that layout.
    """

    def __init__(self, adapter: Adapter, layout: Layout, example: Prepared) -> None:
        self.adapter = adapter
        self.layout = layout
        self._example = example
        self._arguments = recorded_arguments(adapter, example)
        self._sliced: dict[tuple[int, int], dict[str, Any]] = {}
        self._cells = torch.as_tensor(layout.positions)

    @classmethod
    def of(cls, adapter: Adapter, layout: Layout, image: Image.Image, prompt: Prompt) -> "Decoder":
        """For the first positions of a prompt, as many as the layout has."""
        whole = adapter.prepare([image], [prompt])
        inputs = {name: value[..., : layout.length] if name in _OF_TOKENS else value for name, value in whole.inputs.items()}
        return cls(adapter, layout, Prepared(inputs, whole.visual_positions, whole.grid))

    @property
    def depth(self) -> int:
        return len(self.adapter.language_blocks)

    @property
    def position_ids(self) -> Int[Tensor, "*axes 1 positions"]:
        """The model's own, of every position."""
        ids: Tensor = self._example.inputs["position_ids"]
        return ids

    def moved(self, edits: Sequence[PositionIds]) -> "Decoder":
        """The same, with other position ids in some blocks."""
        other = copy(self)
        other._sliced = {}
        other._arguments = list(self._arguments)
        for edit in edits:
            arguments = arguments_of_ids(self.adapter, self._example, edit)
            for layer in range(edit.first, edit.last + 1):
                other._arguments[layer] = other._arguments[layer] | of_positions(arguments[layer])
        return other

    def effective(self, edits: Sequence[BlockEdit]) -> tuple[BlockEdit, ...]:
        """The edits without those that change nothing: factors of 1, the model's own position ids, keys that were closed anyway.

        A head's output counts as a change, whatever its values.
        """
        # The model's own ids may take back what an edit before them moved.
        moved = any(self._changes(edit) for edit in edits if isinstance(edit, PositionIds))
        return tuple(edit for edit in edits if (moved if isinstance(edit, PositionIds) else self._changes(edit)))

    def changed_at(self, edit: BlockEdit) -> Positions:
        """The positions whose values an edit changes in its first block; the last one, where ids are the model's own."""
        if not isinstance(edit, PositionIds):
            return places(edit.queries, self.layout.length)
        changed = (edit.ids.cpu() != self.position_ids.cpu()).flatten(0, -2).any(dim=0).nonzero()[:, 0].numpy()
        # They take back what another edit moved.
        return changed if len(changed) else np.array([self.layout.length - 1])

    def _changes(self, edit: BlockEdit) -> bool:
        if isinstance(edit, HeadOutput):
            return True
        if isinstance(edit, PositionIds):
            return not torch.equal(edit.ids.cpu(), self.position_ids.cpu())
        if isinstance(edit, Rescaled) and edit.of_keys == edit.of_values == 1:
            return False
        queries, keys = places(edit.queries, self.layout.length), places(edit.keys, self.layout.length)
        # A position keeps itself.
        others = torch.as_tensor(queries[:, None] != keys)
        layers = range(edit.first, edit.last + 1)
        return any(bool((self._seen(layer)[..., queries, :][..., keys].cpu() & others).any()) for layer in layers)

    def _seen(self, layer: int) -> Bool[Tensor, "batch heads queries keys"]:
        return visible(self._arguments[layer].get("attention_mask"), self.layout.length, self.layout.length)

    def entering(
        self, layer: int, hidden: Float[Tensor, "batch positions features"], connector: SiteValues | None, start: int = 0
    ) -> Float[Tensor, "batch positions features"]:
        """What block ``layer`` gets where the block before it made ``hidden``, at the positions from ``start`` on.

        Args:
            connector: its values in each row; needed where ``0 < layer <= adapter.late_entries``.
        """
        if not 0 < layer <= self.adapter.late_entries:
            return hidden
        self._cells = self._cells.to(hidden.device)
        return self.adapter.after_block(layer - 1, hidden, self._cells, connector, start)

    def block(
        self,
        layer: int,
        hidden: Float[Tensor, "batch positions features"],
        start: int = 0,
        prefix: KeysValues | None = None,
        edits: Sequence[Sequence[BlockEdit]] = (),
    ) -> tuple[Float[Tensor, "batch positions features"], KeysValues]:
        """Block ``layer`` on the positions from ``start`` to the end.

        Args:
            layer: number of the block.
            hidden: its input at these positions.
            start: the first of them.
            prefix: keys and values of the positions before ``start``; None if ``start`` is 0.
            edits: those of each row, of any block.

        Returns:
            its output, and the keys and values of these positions.
        """
        block = self.adapter.language_blocks[layer]
        device = next(block.parameters()).device
        before, named, here = _to(prefix, device), self._from(layer, start, device), in_block(edits, layer)
        if any(here):
            length = self.layout.length
            output, cache = run_edited(block, block, hidden.to(device), named, here, length, lambda by: Joined(before, by))
        else:
            cache = Joined(before)
            output = block(hidden.to(device), past_key_values=cache, **named)
        assert cache.new is not None
        return output, cache.new

    def answer(
        self,
        hidden: Float[Tensor, "batch positions features"],
        start: int = 0,
        prefix: KeysValues | None = None,
        edits: Sequence[Sequence[BlockEdit]] = (),
    ) -> tuple[Float[Tensor, "batch vocabulary"], KeysValues]:
        """Logits of the last position, float32: the last block and the head for that position only.

        Args:
            hidden: the last block's input from position ``start`` on.
            start: the first of these positions.
            prefix: the last block's keys and values of the positions before ``start``; None if ``start`` is 0.
            edits: those of each row, of any block.

        Returns:
            the logits, and the last block's keys and values of these positions.
        """
        layer = self.depth - 1
        block = self.adapter.language_blocks[layer]
        device = next(block.parameters()).device
        hidden = hidden.to(device)
        known = self.keys_values(layer, hidden, start)
        before = _to(prefix, device)
        every = known if before is None else join(before, known)
        last, here = self._from(layer, self.layout.length - 1, device), in_block(edits, layer)
        if any(here):
            length = self.layout.length
            output = run_edited(block, block, hidden[:, -1:], last, here, length, lambda by: _Given(every, by))[0]
        else:
            output = block(hidden[:, -1:], past_key_values=_Given(every), **last)
        return self.adapter.head(output[:, -1]), known

    def keys_values(self, layer: int, hidden: Float[Tensor, "batch positions features"], start: int = 0) -> KeysValues:
        """Keys and values that block ``layer`` makes of its input, without its attention and MLP; whatever its family."""
        block = self.adapter.language_blocks[layer]
        hidden = hidden.to(next(block.parameters()).device)
        try:
            block(hidden, past_key_values=_Stop(), **self._from(layer, start, hidden.device))
        except _Made as stopped:
            return stopped.made
        raise AssertionError("a language block that asks no cache")

    def _from(self, layer: int, start: int, device: torch.device) -> dict[str, Any]:
        """The block's keyword arguments, cut to the positions from ``start`` on."""
        if (layer, start) not in self._sliced:
            cut = {}
            for name, value in self._arguments[layer].items():
                if name == "attention_mask":
                    value = _mask(value, self.layout.length, start).to(device)
                elif name == "position_embeddings":
                    value = tuple(part[:, start:].to(device) for part in value)
                elif name == "position_ids" and value is not None:
                    value = value[..., start:].to(device)
                cut[name] = value
            self._sliced[layer, start] = cut
        return self._sliced[layer, start]


def _to(pair: KeysValues | None, device: torch.device) -> KeysValues | None:
    return None if pair is None else (pair[0].to(device), pair[1].to(device))


def _mask(mask: Tensor | None, length: int, start: int) -> Tensor:
    """Rows of an attention mask from ``start`` on; None stands for plain causal attention."""
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    return mask[..., start:, :]


def recorded_arguments(adapter: Adapter, example: Prepared) -> list[dict[str, Any]]:
    """Keyword arguments that each language block gets in a plain forward pass, without cache.

    Nothing is computed: they depend on where tokens and images stand, so the image is left out and the blocks pass their
    input on.
    """
    recorded: list[dict[str, Any]] = []

    def record(hidden: Tensor, **named: Any) -> Tensor:
        recorded.append({name: value for name, value in named.items() if name != "past_key_values"})
        return hidden

    inputs = {name: value for name, value in example.inputs.items() if not name.startswith("pixel_")}
    # Not a hook: a hook cannot keep a block from running. accelerate, too, sets forward on the instance.
    own = [vars(block).get("forward") for block in adapter.language_blocks]
    try:
        for block in adapter.language_blocks:
            vars(block)["forward"] = record
        adapter.run(Prepared(inputs, example.visual_positions, example.grid))
    finally:
        for block, forward in zip(adapter.language_blocks, own, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                vars(block)["forward"] = forward
    return recorded


def arguments_of_ids(adapter: Adapter, example: Prepared, edit: PositionIds) -> list[dict[str, Any]]:
    """What every language block would get under other position ids.

    Args:
        example: one row, of as many positions as the edit has.
    """
    ids = edit.ids.to(example.inputs["position_ids"].device)
    return recorded_arguments(adapter, Prepared(example.inputs | {"position_ids": ids}, example.visual_positions, example.grid))
