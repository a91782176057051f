"""The language model of an adapter, block by block and from any position on.

The blocks are transformers' own, unmodified: a stand-in for their cache supplies the keys and values of the positions
before, and their own keyword arguments (masks, rotary angles) are recorded once from a plain forward pass and sliced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter, Prepared
from vlm_spatial.tokens import TokenGrid

KeysValues = tuple[Float[Tensor, "batch heads positions width"], Float[Tensor, "batch heads positions width"]]


class _Joined:
    """Stands in for a block's cache: remembers the new keys and values, and puts a prefix before them."""

    def __init__(self, prefix: KeysValues | None = None) -> None:
        self.prefix = prefix
        self.new: KeysValues | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        self.new = keys, values
        return (keys, values) if self.prefix is None else join(self.prefix, self.new)


class _Given:
    """Stands in for a block's cache that already holds every position, the new ones too."""

    def __init__(self, every: KeysValues) -> None:
        self.every = every

    def update(self, *_: Any, **__: Any) -> KeysValues:
        return self.every


def join(first: KeysValues, second: KeysValues) -> KeysValues:
    """Keys and values of two stretches of positions, one after the other."""
    return torch.cat([first[0], second[0]], dim=2), torch.cat([first[1], second[1]], dim=2)


@dataclass(frozen=True)
class Layout:
    """What sequences must share to be computed together: length, place and shape of the image; no padding."""

    length: int
    first: int
    rows: int
    cols: int

    @property
    def cells(self) -> int:
        return self.rows * self.cols

    @classmethod
    def of(cls, visual: Bool[Tensor, " positions"], grid: TokenGrid) -> "Layout":
        """The layout of one row of tokens.

        Raises:
            UserError: if its visual tokens do not follow each other without gap.
        """
        places = visual.nonzero().flatten().tolist()
        if places != list(range(places[0], places[0] + grid.size)):
            raise UserError("inputs: the visual tokens of an image do not follow each other; the engine needs that, use run_plain")
        return cls(len(visual), places[0], grid.rows, grid.cols)


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
        self._arguments = _recorded_arguments(adapter, example)
        self._sliced: dict[tuple[int, int], dict[str, Any]] = {}

    @property
    def depth(self) -> int:
        return len(self.adapter.language_blocks)

    def block(
        self, layer: int, hidden: Float[Tensor, "batch positions features"], start: int = 0, prefix: KeysValues | None = None
    ) -> tuple[Float[Tensor, "batch positions features"], KeysValues]:
        """Block ``layer`` on the positions from ``start`` to the end.

        Args:
            layer: number of the block.
            hidden: its input at these positions.
            start: the first of them.
            prefix: keys and values of the positions before ``start``; None if ``start`` is 0.

        Returns:
            its output, and the keys and values of these positions.
        """
        block = self.adapter.language_blocks[layer]
        device = next(block.parameters()).device
        cache = _Joined(_to(prefix, device))
        output = block(hidden.to(device), past_key_values=cache, **self._from(layer, start, device))
        assert cache.new is not None
        return output, cache.new

    def answer(
        self, hidden: Float[Tensor, "batch positions features"], start: int = 0, prefix: KeysValues | None = None
    ) -> tuple[Float[Tensor, "batch vocabulary"], KeysValues]:
        """Logits of the last position, float32: the last block and the head for that position only.

        Args:
            hidden: the last block's input from position ``start`` on.
            start: the first of these positions.
            prefix: the last block's keys and values of the positions before ``start``; None if ``start`` is 0.

        Returns:
            the logits, and the last block's keys and values of these positions.
        """
        layer = self.depth - 1
        block = self.adapter.language_blocks[layer]
        device = next(block.parameters()).device
        hidden = hidden.to(device)
        known = _keys_values(block, hidden, self._from(layer, start, device)["position_embeddings"])
        before = _to(prefix, device)
        cache = _Given(known if before is None else join(before, known))
        last = self._from(layer, self.layout.length - 1, device)
        return self.adapter.head(block(hidden[:, -1:], past_key_values=cache, **last)[:, -1]), known

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


def _keys_values(block: Any, hidden: Tensor, rotary: Sequence[Tensor]) -> KeysValues:
    """Keys and values that a decoder block makes of its input, without its queries, attention and MLP."""
    attention = block.self_attn
    normed = block.input_layernorm(hidden)
    shape = (*normed.shape[:-1], -1, attention.head_dim)
    keys = attention.k_proj(normed).view(shape).transpose(1, 2)
    values = attention.v_proj(normed).view(shape).transpose(1, 2)
    if hasattr(attention, "k_norm"):
        keys = attention.k_norm(keys)
    cos, sin = (part.unsqueeze(1) for part in rotary)
    half = keys.shape[-1] // 2
    turned = torch.cat([-keys[..., half:], keys[..., :half]], dim=-1)
    return keys * cos + turned * sin, values


def _recorded_arguments(adapter: Adapter, example: Prepared) -> list[dict[str, Any]]:
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
