"""LLaVA-OneVision on its base image alone: SigLIP vision tower, two-layer projector, one newline token behind the grid."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from vlm_spatial.errors import UserError
from vlm_spatial.models.inputs import Rows
from vlm_spatial.models.recipe import (
    CHAT_SPECIAL,
    CHAT_TURNS,
    MERGE_SIDE,
    PATCH_SIDE,
    Recipe,
    Size,
    chat_template,
    redraw,
    square_image,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.square import TemplateSquareAdapter
from vlm_spatial.models.values import Classes, ModelIdentity, Prepared, Reach, SiteValues
from vlm_spatial.tokens import TokenGrid


def _pinpoints(size: Size) -> list[list[int]]:
    side = size.image_side
    return [[side, side], [side, 2 * side], [2 * side, side]]


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": size.rope_theta}
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=vision_settings("siglip_vision_model", size, PATCH_SIDE * MERGE_SIDE) | {"vision_use_head": False},
            text_config=text_settings(tokenizer, size) | {"model_type": "qwen2", "rope_parameters": rope},
            image_token_index=tokenizer.image_token_id,
            video_token_index=tokenizer.video_token_id,
            image_grid_pinpoints=_pinpoints(size),
        )
    )
    redraw(model.model.vision_tower, model.model.multi_modal_projector)
    return model


RECIPE = Recipe(
    special={**CHAT_SPECIAL, "video_token": "<video>"},
    turns=CHAT_TURNS,
    template=chat_template("<image>"),
    model=_new_model,
    processor_files=lambda size: {
        "preprocessor_config.json": square_image(
            "LlavaOnevisionImageProcessor", size.image_side, image_grid_pinpoints=_pinpoints(size), do_pad=True
        )
    },
    places=r"\.vision_tower\..*(position_embedding\.weight|out_proj\.(weight|bias))$",
)


class LlavaOnevisionAdapter(TemplateSquareAdapter):
    """``LlavaOnevisionForConditionalGeneration``: the image is squeezed to a square and seen once, without crops."""

    family: ClassVar[str] = "llava_onevision"
    architecture: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    model_class: ClassVar[Any] = LlavaOnevisionForConditionalGeneration
    classes: ClassVar[Classes] = ((SiglipEncoderLayer,), (LlavaOnevisionMultiModalProjector,), (Qwen2DecoderLayer,))
    recipe: ClassVar[Recipe] = RECIPE
    reach: Reach = "causal"
    kernel = 1
    vision_path: ClassVar[str] = "model.vision_tower.encoder.layers"
    connector_path: ClassVar[str] = "model.multi_modal_projector"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        self.use_template({})

    def verify(self) -> None:
        config = self.model.config
        if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "full":
            raise UserError(
                f"{self.identity.checkpoint}: vision_feature_layer {config.vision_feature_layer} with vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported; -1 with 'full' is"
            )

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def image_string(self, grid: TokenGrid) -> str:
        # The last one is the newline.
        return super().image_string(grid) + self.image_token

    def cells_of(self, visual: Bool[Tensor, "batch positions"]) -> Bool[Tensor, "batch positions"]:
        return visual & (visual.flip(1).cumsum(dim=1).flip(1) > 1)

    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:  # noqa: ARG002
        return {
            # The first crop is the whole image.
            "pixel_values": self.pixels([one["pixel_values"][:, :1] for one in made]),
            "image_sizes": torch.cat([one["image_sizes"] for one in made]),
            # A number other than 1 says that samples have several images each, which are seen without crops.
            "batch_num_images": torch.tensor([len(made) + 1]),
        }

    def encode(self, prepared: Prepared) -> None:
        self.model.model.get_image_features(**{name: prepared.inputs[name] for name in ("pixel_values", "image_sizes", "batch_num_images")})

    def connect(self, states: Tensor) -> Tensor:
        return self.connector(states)

    def embed(
        self, ids: Int[Tensor, "batch positions"], positions: Int[Tensor, "batch cells"], connector: SiteValues
    ) -> Float[Tensor, "batch positions features"]:
        embedded = super().embed(ids, positions, connector)
        visual = ids == self.model.config.image_token_id
        embedded[visual & ~self.cells_of(visual)] = self.model.model.image_newline.to(embedded)
        return embedded
