"""What goes into a model and comes out of it: sites, what they hold, edits of it, prepared inputs, and the model's identity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_spatial.tokens import TokenGrid

Site = str
"""``vision.<layer>``, ``connector`` or ``language.<layer>``: a block's output, before any final norm. ``embedding``, which has prompt
positions only, is what enters the first language block."""

SiteValues = Float[Tensor, "batch cells patches features"]
"""What a site holds at the image: cells are row-major; ``patches`` is 1 from the connector on."""

TextValues = Float[Tensor, "batch positions features"]
"""What a language site holds at every prompt position."""

Edit = Callable[[SiteValues], SiteValues]
TextEdit = Callable[[TextValues], TextValues]

Reach = Literal["causal", "image", "prompt"]
"""What a visual token may attend to: earlier positions only; its whole image as well; the whole prompt."""

EMBEDDING = "embedding"

Classes = tuple[tuple[type, ...], tuple[type, ...], tuple[type, ...]]
"""What vision blocks, the connector and language blocks may be instances of."""


@dataclass(frozen=True)
class ModelIdentity:
    """What a result is tied to. ``weights`` is a hash over names, shapes and bytes of the weights."""

    checkpoint: str
    revision: str | None
    architecture: str
    weights: str
    dtype: str
    processor: str = ""
    """The image processor in use, and a hash of its settings."""
    prompting: str = ""
    """Hash of what stands around the question; empty for the chat template alone."""
    attention: str = "sdpa"
    quirks: str = ""
    """Hash of the oddities of the published run that are on; empty for none."""


@dataclass(frozen=True)
class Prepared:
    """A batch of image-and-question inputs, one image a row, ready for the model.

    Attributes:
        inputs: keyword arguments of the model's forward, on its device, position ids included.
        visual_positions: ``[batch, cells]``, where each visual token stands in the (left-padded) sequence.
        grid: the token grid, one for the whole batch.
    """

    inputs: dict[str, Any]
    visual_positions: Int[Tensor, "batch cells"]
    grid: TokenGrid

    @property
    def batch(self) -> int:
        return self.visual_positions.shape[0]

    @classmethod
    def layout(cls, batch: int, grid: TokenGrid) -> "Prepared":
        """Without inputs: enough to read and write vision sites and the connector."""
        return cls({}, torch.empty(batch, grid.size, dtype=torch.long), grid)
