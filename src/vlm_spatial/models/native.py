"""Families whose images keep their shape, rounded to whole visual tokens."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor, nn

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import ModelIdentity
from vlm_spatial.tokens import TokenGrid


class NativeAdapter(Adapter):
    """The grid depends on the image's size."""

    keeps_shape = True

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        self._grids: dict[tuple[int, int], TokenGrid] = {}

    @abstractmethod
    def grid_made(self, made: Mapping[str, Tensor]) -> TokenGrid:
        """Token grid of what the image processor made of one image."""

    def grid(self, width: int, height: int) -> TokenGrid:
        if (width, height) not in self._grids:
            # Asked of the processor itself: its rounding rules change between releases.
            self._grids[width, height] = self.grid_made(self.cache.image(Image.new("RGB", (width, height))))
        return self._grids[width, height]
