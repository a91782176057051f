"""Qwen2.5-VL: Qwen2-VL with windowed vision attention, whose blocks and connector see the cells window by window."""

from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLPatchMerger, Qwen2_5_VLVisionBlock
from transformers.vision_utils import get_vision_window_index

from vlm_spatial.models.families.qwen2_vl import Qwen2VLAdapter
from vlm_spatial.tokens import TokenGrid


class Qwen25VLAdapter(Qwen2VLAdapter):
    """``Qwen2_5_VLForConditionalGeneration``. Sites are in row-major order here as everywhere: the windows are undone."""

    family: ClassVar[str] = "qwen2_5_vl"
    architecture: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    model_class: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration
    block_classes: ClassVar[tuple[type, type, type]] = (Qwen2_5_VLVisionBlock, Qwen2_5_VLPatchMerger, Qwen2_5_VLDecoderLayer)

    def _windows(self, thw: Int[Tensor, "batch 3"]) -> tuple[Int[Tensor, " cells"], Int[Tensor, " bounds"]]:
        visual = self.model.model.visual
        return get_vision_window_index(
            thw, spatial_merge_size=visual.spatial_merge_size, window_size=visual.window_size, patch_size=visual.patch_size
        )

    def _order(self, grid: TokenGrid) -> Int[Tensor, " cells"]:
        return self._windows(torch.tensor([[1, grid.rows * self._merge, grid.cols * self._merge]]))[0]

    def _segments(self, layer: int, thw: Int[Tensor, "batch 3"]) -> Int[Tensor, " bounds"]:
        whole_image = layer in self.model.model.visual.fullatt_block_indexes
        return super()._segments(layer, thw) if whole_image else self._windows(thw)[1]
