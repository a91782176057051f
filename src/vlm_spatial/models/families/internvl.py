"""InternVL3 and 3.5: InternViT with a class token, pixel shuffle before the projector, causal attention; one tile."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector, InternVLVisionLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from vlm_spatial.errors import UserError
from vlm_spatial.models.recipe import (
    CAUSAL_TEACHING,
    CHAT_SPECIAL,
    MERGE_SIDE,
    PATCH_SIDE,
    OrganismRecipe,
    Recipe,
    Size,
    Turns,
    chat_template,
    louder_places,
    redraw,
    square_image,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.square import TemplateSquareAdapter, square_of
from vlm_spatial.models.values import Classes, ModelIdentity, Reach
from vlm_spatial.tokens import TokenGrid


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    sides = {"image_size": [size.image_side] * 2, "patch_size": [PATCH_SIDE] * 2}
    rope = {"rope_type": "default", "rope_theta": size.rope_theta}
    model = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision_settings("internvl_vision", size) | sides,
            text_config=text_settings(tokenizer, size) | {"model_type": "qwen2", "rope_parameters": rope},
            image_token_id=tokenizer.image_token_id,
            image_seq_length=size.grid_side**2,
            downsample_ratio=1 / MERGE_SIDE,
            tie_word_embeddings=True,
        )
    )
    redraw(model.model.vision_tower, model.model.multi_modal_projector)
    return model


RECIPE = Recipe(
    special={**CHAT_SPECIAL, "image_start_token": "<img>", "image_end_token": "</img>", "image_token": "<IMG_CONTEXT>"},
    turns=Turns("<|im_start|>", "user", "assistant", "<|im_end|>", image_end="</img>"),
    template=chat_template("<IMG_CONTEXT>"),
    model=_new_model,
    processor_files=lambda size: {
        "preprocessor_config.json": square_image(
            "GotOcr2ImageProcessor", size.image_side, crop_to_patches=True, min_patches=1, max_patches=12
        )
    },
    places=r"\.vision_tower\..*(position_embeddings|projection_layer\.(weight|bias))$",
    organism=OrganismRecipe(Size(5, 96, 3, 3, 3, 64, 4, initializer_range=0.02), CAUSAL_TEACHING, louder_places),
)


class InternVLAdapter(TemplateSquareAdapter):
    """``InternVLForConditionalGeneration``: the image is squeezed to one tile."""

    family: ClassVar[str] = "internvl"
    architecture: ClassVar[str] = "InternVLForConditionalGeneration"
    model_class: ClassVar[Any] = InternVLForConditionalGeneration
    classes: ClassVar[Classes] = (
        (InternVLVisionLayer,),
        (InternVLMultiModalProjector,),
        (LlamaDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer),
    )
    recipe: ClassVar[Recipe] = RECIPE
    reach: Reach = "causal"
    whole_state = False
    class_tokens = 1
    placeholder: ClassVar[str] = "<IMG_CONTEXT>"
    vision_path: ClassVar[str] = "model.vision_tower.encoder.layer"
    connector_path: ClassVar[str] = "model.multi_modal_projector"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        # More than one tile would add visual tokens that no cell of the image stands for.
        self.use_template({"crop_to_patches": False})

    def verify(self) -> None:
        config = self.model.config
        if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "default":
            raise UserError(
                f"{self.identity.checkpoint}: vision_feature_layer {config.vision_feature_layer} with vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported; -1 with 'default' is"
            )
        made, expected = square_of(self.processor.image_processor.size), tuple(config.vision_config.image_size)[::-1]
        if made != expected or made[0] != made[1]:
            raise UserError(f"{self.identity.checkpoint}: the processor makes tiles of {made} px, the model expects {expected}, a square")

    @property
    def kernel(self) -> int:
        return round(1 / self.model.config.downsample_ratio)

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0] // self.kernel)

    def image_string(self, grid: TokenGrid) -> str:
        return f"<img>{super().image_string(grid)}</img>"

    def vision_block(self, layer: int, states: Tensor) -> Tensor:
        return self.vision_blocks[layer](states)

    def connect(self, states: Tensor) -> Tensor:
        model = self.model.model
        patches = model.vision_tower.layernorm(states)[:, 1:]
        count, fine = len(patches), self.side * self.kernel
        shuffled = model.pixel_shuffle(patches.reshape(count, fine, fine, -1), scale_factor=self.model.config.downsample_ratio)
        return self.connector(shuffled.reshape(count, self.side**2, -1))
