"""Qwen2.5-VL: Qwen2-VL with windowed vision attention, whose blocks and connector see the cells window by window."""

from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLPatchMerger, Qwen2_5_VLVisionBlock
from transformers.vision_utils import get_vision_window_index

from vlm_spatial.models.families.qwen2_vl import (
    PLACES,
    SPECIAL,
    TEMPLATE,
    TURNS,
    Qwen2VLAdapter,
    marks_of,
    processor_files,
    text_with_rope,
    vision_of,
)
from vlm_spatial.models.recipe import MERGE_SIDE, PATCH_SIDE, Recipe, Size
from vlm_spatial.models.values import Classes
from vlm_spatial.tokens import TokenGrid


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    vision = vision_of(size) | {
        "hidden_size": size.vision_width,
        "out_hidden_size": size.text_width,
        "intermediate_size": 3 * size.vision_width,
        # Four tokens a window on a grid of six: whole and cut windows both occur.
        "window_size": 4 * MERGE_SIDE * PATCH_SIDE,
        "fullatt_block_indexes": [size.vision_layers - 1],
    }
    text = text_with_rope(tokenizer, size)
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **marks_of(tokenizer))
    )


RECIPE = Recipe(
    special=SPECIAL,
    turns=TURNS,
    template=TEMPLATE,
    model=_new_model,
    processor_files=lambda size: processor_files("Qwen2_5_VLProcessor", size),
    places=PLACES,
)


class Qwen25VLAdapter(Qwen2VLAdapter):
    """``Qwen2_5_VLForConditionalGeneration``. Sites are in row-major order here as everywhere: the windows are undone."""

    family: ClassVar[str] = "qwen2_5_vl"
    architecture: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    model_class: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration
    classes: ClassVar[Classes] = ((Qwen2_5_VLVisionBlock,), (Qwen2_5_VLPatchMerger,), (Qwen2_5_VLDecoderLayer,))
    recipe: ClassVar[Recipe] = RECIPE

    @property
    def vision_shape(self) -> tuple[int, int]:
        return self._merge**2, self.model.config.vision_config.hidden_size

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
