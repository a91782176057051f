"""Qwen3-VL: Qwen2-VL with DeepStack. Some vision blocks' patches are merged, too, and added behind the first language blocks.

The connector's values are all that enters the language model: the merger's output and, along the features, the DeepStack parts.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.qwen3_vl import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, Qwen3VLVisionBlock, Qwen3VLVisionModel
from transformers.vision_utils import get_vision_position_ids

from vlm_spatial.models.families.qwen2_vl import PLACES, SPECIAL, TEMPLATE, TURNS, Qwen2VLAdapter, marks_of, processor_files, vision_of
from vlm_spatial.models.recipe import Recipe, Size, redraw, text_settings
from vlm_spatial.models.values import Classes, Prepared, Site, SiteValues
from vlm_spatial.tokens import TokenGrid


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    half_head = size.text_width // size.text_heads // 2
    side = (half_head - half_head // 4) // 2
    rope = {
        "rope_type": "default",
        "rope_theta": size.rope_theta,
        "mrope_section": [half_head - 2 * side, side, side],
        "mrope_interleaved": True,
    }
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            vision_config=vision_of(size)
            | {
                "hidden_size": size.vision_width,
                "intermediate_size": 3 * size.vision_width,
                "out_hidden_size": size.text_width,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": list(range(min(2, size.vision_layers))),
            },
            text_config=text_settings(tokenizer, size)
            | {"model_type": "qwen3_vl_text", "head_dim": size.text_width // size.text_heads, "rope_parameters": rope},
            tie_word_embeddings=True,
            **marks_of(tokenizer),
        )
    )
    redraw(model.model.visual)
    return model


class Qwen3VLAdapter(Qwen2VLAdapter):
    """``Qwen3VLForConditionalGeneration``; replacing values at the connector replaces the DeepStack parts as well."""

    family: ClassVar[str] = "qwen3_vl"
    architecture: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    model_class: ClassVar[Any] = Qwen3VLForConditionalGeneration
    classes: ClassVar[Classes] = ((Qwen3VLVisionBlock,), (Qwen3VLVisionModel,), (Qwen3VLTextDecoderLayer,))
    recipe: ClassVar[Recipe] = Recipe(
        special=SPECIAL,
        turns=TURNS,
        template=TEMPLATE,
        model=_new_model,
        processor_files=lambda size: processor_files("Qwen3VLProcessor", size),
        places=PLACES,
    )
    whole_state = False
    connector_path: ClassVar[str] = "model.visual"

    @property
    def late_entries(self) -> int:  # type: ignore[override]
        return len(self.model.model.visual.deepstack_visual_indexes)

    @property
    def vision_shape(self) -> tuple[int, int]:
        return self._merge**2, self.model.config.vision_config.hidden_size

    def resume_vision(
        self,
        layer: int,
        values: SiteValues,
        grid: TokenGrid,
        rest: Tensor | None = None,  # noqa: ARG002
        earlier: SiteValues | None = None,
    ) -> SiteValues:
        visual, batch = self.model.model.visual, values.shape[0]
        thw = self._patch_grids(grid, batch)
        states = self._pack(values, grid)
        rotary = visual.rotary_pos_emb(states, get_vision_position_ids(thw, self._merge).to(values.device))
        stacked = list(visual.deepstack_visual_indexes)
        parts: dict[int, Tensor] = {}
        for index in range(layer, len(self.vision_blocks)):
            if index > layer:
                states = self.vision_blocks[index](
                    states, cu_seqlens=self._segments(index, thw), position_embeddings=rotary, max_seqlen=None
                )
            if index in stacked:
                parts[stacked.index(index)] = self._unpack(visual.deepstack_merger_list[stacked.index(index)](states), batch, grid)
        for number, index in enumerate(stacked):
            if index < layer:
                assert earlier is not None
                parts[number] = earlier[..., (1 + number) * self.width : (2 + number) * self.width].to(states)
        return torch.cat([self._unpack(visual.merger(states), batch, grid), *(parts[number] for number in range(len(stacked)))], dim=-1)

    def after_block(
        self,
        layer: int,
        hidden: Float[Tensor, "batch positions features"],
        positions: Int[Tensor, " cells"],
        connector: SiteValues | None,
        start: int = 0,
    ) -> Float[Tensor, "batch positions features"]:
        if layer >= self.late_entries:
            return hidden
        assert connector is not None
        part = connector[:, :, 0, (1 + layer) * self.width : (2 + layer) * self.width].to(hidden)
        reached = positions >= start
        added = hidden.clone()
        added[:, positions[reached] - start] += part[:, reached]
        return added

    def read(self, site: Site, output: Any, prepared: Prepared) -> SiteValues:
        if site != "connector":
            return super().read(site, output, prepared)
        return self._unpack(_joined(output), prepared.batch, prepared.grid)

    def write(self, site: Site, output: Any, values: SiteValues, prepared: Prepared) -> Any:
        if site != "connector":
            return super().write(site, output, values, prepared)
        return _replaced(output, self._pack(values, prepared.grid))

    @classmethod
    def changed(cls, site: Site, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        return _replaced(output, change(_joined(output))) if site == "connector" else change(output)


def _joined(output: Any) -> Float[Tensor, "cells features"]:
    """All that enters the language model, in the vision encoder's output."""
    return torch.cat([output.pooler_output, *output.deepstack_features], dim=-1)


def _replaced(output: Any, values: Float[Tensor, "cells features"]) -> Any:
    """A copy of the vision encoder's output with other values for the language model."""
    first, *others = values.to(output.pooler_output).split(output.pooler_output.shape[-1], dim=-1)
    return type(output)(**{**output, "pooler_output": first.contiguous(), "deepstack_features": [part.contiguous() for part in others]})
