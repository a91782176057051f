"""Operations of a model's blocks, worked out from shapes: hooks that may run inside a timed stretch, on any device.

torch's own counter slows every call down, and fails on grouped-query attention on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlm_spatial.models.adapter import Adapter


@dataclass(frozen=True)
class Shape:
    """What a position costs in a model, in floating-point operations.

    Attributes:
        vision, language: of the linear layers of one block.
        vision_pair, language_pair: of attention, for one query and one key.
        keys: that a patch attends to: those of its image.
        head: of the vocabulary, for one position.
        connector: for one row of the connector's output.
        depths: blocks of the vision encoder and of the language model.
    """

    vision: int
    language: int
    vision_pair: int
    language_pair: int
    keys: int
    head: int
    connector: int
    depths: tuple[int, int]

    @classmethod
    def of(cls, adapter: Adapter, side: int = 448) -> "Shape":
        """The model's own; it may be on the meta device.

        Args:
            side: of an image, in pixels.
        """
        vision, text = adapter.model.config.vision_config, adapter.model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        patches, features = adapter.vision_shape
        return cls(
            vision=_linear(adapter.vision_blocks[0]),
            language=_linear(adapter.language_blocks[0]),
            vision_pair=4 * features,
            language_pair=4 * text.num_attention_heads * head,
            keys=adapter.grid(side, side).size * patches,
            head=2 * adapter.vocabulary * adapter.width,
            connector=_linear(adapter.connector),
            depths=(int(getattr(vision, "depth", 0) or vision.num_hidden_layers), len(adapter.language_blocks)),
        )

    def forward(self, positions: int, cells: int) -> int:
        """One plain forward pass over one image, with logits of the last position.

        Args:
            positions: of the prompt, the image's among them.
        """
        vision = self.depths[0] * self.keys * (self.vision + self.vision_pair * self.keys)
        language = self.depths[1] * positions * (self.language + self.language_pair * positions)
        return vision + cells * self.connector + language + self.head


def _linear(module: nn.Module) -> int:
    """Two operations a weight and row."""
    return 2 * sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


@dataclass
class Work:
    """What was counted. ``calls`` are those of blocks."""

    vision_patches: int = 0
    language_positions: int = 0
    language_pairs: int = 0
    connector_rows: int = 0
    head_rows: int = 0
    calls: int = field(default=0)

    def operations(self, shape: Shape) -> int:
        """Operations that a model of ``shape`` makes of it, at the depth at which it was counted."""
        return (
            self.vision_patches * (shape.vision + shape.vision_pair * shape.keys)
            + self.language_positions * shape.language
            + self.language_pairs * shape.language_pair
            + self.connector_rows * shape.connector
            + self.head_rows * shape.head
        )


@contextmanager
def counted_work(adapter: Adapter) -> Iterator[Work]:
    """Counts, while the context lasts, what the model's blocks compute."""
    work = Work()

    def vision(_module: Any, _inputs: Any, output: Any) -> None:
        work.calls += 1
        work.vision_patches += _rows(output)

    def language(_module: Any, _inputs: Any, named: dict[str, Any], output: Any) -> None:
        work.calls += 1
        rows, mask = _rows(output), named.get("attention_mask")
        work.language_positions += rows
        # Plain causal attention needs no mask where every key is one of the queries.
        work.language_pairs += rows * (_tensor(output).shape[1] if mask is None else mask.shape[-1])

    def connector(_module: Any, _inputs: Any, output: Any) -> None:
        work.connector_rows += _rows(output)

    def head(_module: Any, _inputs: Any, output: Any) -> None:
        work.head_rows += _rows(output)

    handles = [block.register_forward_hook(vision) for block in adapter.vision_blocks]
    handles += [block.register_forward_hook(language, with_kwargs=True) for block in adapter.language_blocks]
    handles.append(adapter.connector.register_forward_hook(connector))
    handles.append(adapter.model.get_output_embeddings().register_forward_hook(head))
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


def _tensor(output: Any) -> Tensor:
    found = output if isinstance(output, torch.Tensor) else output[0]
    assert isinstance(found, torch.Tensor)
    return found


def _rows(output: Any) -> int:
    return _tensor(output).shape[:-1].numel()
