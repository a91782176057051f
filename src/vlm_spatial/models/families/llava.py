"""LLaVA-1.5: CLIP vision tower whose class token and last block are dropped, two-layer projector, causal attention."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from vlm_spatial.errors import UserError
from vlm_spatial.models.recipe import (
    CAUSAL_TEACHING,
    CHAT_SPECIAL,
    CHAT_TURNS,
    MERGE_SIDE,
    PATCH_SIDE,
    OrganismRecipe,
    Recipe,
    Size,
    chat_template,
    louder_places,
    redraw,
    square_image,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.square import TemplateSquareAdapter
from vlm_spatial.models.values import Classes, ModelIdentity, Reach


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    # One patch is a cell; one more vision block than is used.
    vision = vision_settings("clip_vision_model", size, PATCH_SIDE * MERGE_SIDE) | {"num_hidden_layers": size.vision_layers + 1}
    rope = {"rope_type": "default", "rope_theta": size.rope_theta}
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text_settings(tokenizer, size) | {"model_type": "llama", "rope_parameters": rope},
            image_token_index=tokenizer.image_token_id,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )
    redraw(model.model.vision_tower, model.model.multi_modal_projector)
    return model


RECIPE = Recipe(
    special=CHAT_SPECIAL,
    turns=CHAT_TURNS,
    template=chat_template("<image>"),
    model=_new_model,
    # As published: the middle square, which the adapter undoes.
    processor_files=lambda size: {
        "preprocessor_config.json": square_image(
            "CLIPImageProcessor",
            size.image_side,
            size={"shortest_edge": size.image_side},
            crop_size={"height": size.image_side, "width": size.image_side},
            do_center_crop=True,
        )
    },
    places=r"\.vision_tower\..*(position_embedding\.weight|out_proj\.(weight|bias))$",
    organism=OrganismRecipe(Size(5, 96, 3, 3, 3, 64, 4, initializer_range=0.02), CAUSAL_TEACHING, louder_places),
)


class LlavaAdapter(TemplateSquareAdapter):
    """``LlavaForConditionalGeneration`` with a CLIP tower. The image is squeezed to a square; stock settings crop it."""

    family: ClassVar[str] = "llava"
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"
    model_class: ClassVar[Any] = LlavaForConditionalGeneration
    classes: ClassVar[Classes] = (
        (CLIPEncoderLayer,),
        (LlavaMultiModalProjector,),
        (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer),
    )
    recipe: ClassVar[Recipe] = RECIPE
    reach: Reach = "causal"
    whole_state = False
    class_tokens = 1
    kernel = 1
    vision_path: ClassVar[str] = "model.vision_tower.encoder.layers"
    connector_path: ClassVar[str] = "model.multi_modal_projector"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        size = self.model.config.vision_config.image_size
        self.use_template({"size": {"height": size, "width": size}, "do_center_crop": False})

    def verify(self) -> None:
        config = self.model.config
        if not isinstance(config.vision_feature_layer, int) or config.vision_feature_select_strategy != "default":
            raise UserError(
                f"{self.identity.checkpoint}: vision_feature_layer {config.vision_feature_layer} with vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported; one layer with 'default' is"
            )

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        every = self.model.get_submodule(self.vision_path)
        # Hidden states count from the embeddings, which are number 0.
        return every[: self.model.config.vision_feature_layer % (len(every) + 1)]

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def connect(self, states: Tensor) -> Tensor:
        return self.connector(states[:, 1:])
