"""Families whose vision encoders keep patches in raster order."""

from abc import abstractmethod

from torch import Tensor

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import SiteValues
from vlm_spatial.tokens import TokenGrid


class RasterAdapter(Adapter):
    """A cell is a square of ``kernel`` × ``kernel`` patches."""

    @property
    @abstractmethod
    def kernel(self) -> int:
        """Patches along one side of a cell."""

    @property
    def vision_shape(self) -> tuple[int, int]:
        return self.kernel**2, self.model.config.vision_config.hidden_size

    def _to_cells(self, states: Tensor, grid: TokenGrid) -> SiteValues:
        """``[batch, patches, features]`` in raster order to ``[batch, cells, patches of a cell, features]``."""
        batch, _, features = states.shape
        k = self.kernel
        split = states.reshape(batch, grid.rows, k, grid.cols, k, features)
        return split.transpose(2, 3).reshape(batch, grid.size, k * k, features)

    def _to_patches(self, values: SiteValues, grid: TokenGrid) -> Tensor:
        batch, _, _, features = values.shape
        k = self.kernel
        split = values.reshape(batch, grid.rows, grid.cols, k, k, features)
        return split.transpose(2, 3).reshape(batch, grid.size * k * k, features)
