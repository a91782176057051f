"""PaliGemma 1 and 2: SigLIP vision tower, linear projector, and a prompt whose tokens all see one another."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
from transformers.models.paligemma.modeling_paligemma import PaliGemmaMultiModalProjector
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from vlm_spatial.models.families import OWN_TEMPLATES
from vlm_spatial.models.inputs import Rows
from vlm_spatial.models.recipe import (
    MERGE_SIDE,
    PATCH_SIDE,
    Recipe,
    Size,
    Turns,
    redraw,
    square_image,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.square import TemplateSquareAdapter
from vlm_spatial.models.values import Classes, ModelIdentity, Reach


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    head_width = size.text_width // size.text_heads
    model = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config=vision_settings("siglip_vision_model", size, PATCH_SIDE * MERGE_SIDE) | {"vision_use_head": False},
            text_config=text_settings(tokenizer, size)
            | {
                "model_type": "gemma2",
                "head_dim": head_width,
                "query_pre_attn_scalar": head_width,
                "sliding_window": size.sliding_window,
                "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(size.text_layers)],
                "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta},
            },
            image_token_index=tokenizer.image_token_id,
            projection_dim=size.text_width,
            hidden_size=size.text_width,
        )
    )
    redraw(model.model.vision_tower, model.model.multi_modal_projector)
    return model


RECIPE = Recipe(
    special={"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", "image_token": "<image>"},
    # Without marks of turns, which its prompts do not have.
    turns=Turns("<bos>", "", "", "<eos>", image_end="<image>"),
    template=OWN_TEMPLATES["PaliGemmaForConditionalGeneration"],
    model=_new_model,
    processor_files=lambda size: {"preprocessor_config.json": square_image("SiglipImageProcessor", size.image_side)},
    places=r"\.vision_tower\..*(position_embedding\.weight|out_proj\.(weight|bias))$",
)


class PaliGemmaAdapter(TemplateSquareAdapter):
    """``PaliGemmaForConditionalGeneration``: the image is squeezed to a square; image tokens see the question."""

    family: ClassVar[str] = "paligemma"
    architecture: ClassVar[str] = "PaliGemmaForConditionalGeneration"
    model_class: ClassVar[Any] = PaliGemmaForConditionalGeneration
    classes: ClassVar[Classes] = ((SiglipEncoderLayer,), (PaliGemmaMultiModalProjector,), (GemmaDecoderLayer, Gemma2DecoderLayer))
    # Gemma-2 caps attention scores, which sdpa cannot.
    attention: ClassVar[str] = "eager"
    recipe: ClassVar[Recipe] = RECIPE
    reach: Reach = "prompt"
    kernel = 1
    vision_path: ClassVar[str] = "model.vision_tower.encoder.layers"
    connector_path: ClassVar[str] = "model.multi_modal_projector"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        self.use_template({})

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def logit_cap(self) -> float | None:
        return getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)

    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:
        # Without these attention would silently be causal.
        return {"token_type_ids": torch.zeros_like(rows.ids), **super().image_inputs(made, rows)}

    def positions(self, inputs: Mapping[str, Tensor]) -> Int[Tensor, "batch positions"]:
        # They count from 1.
        return inputs["attention_mask"].long().cumsum(dim=1)

    def connect(self, states: Tensor) -> Tensor:
        return self.connector(self.model.model.vision_tower.post_layernorm(states))
