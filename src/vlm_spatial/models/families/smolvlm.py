"""SmolVLM and Idefics3: SigLIP vision tower, pixel shuffle inside the connector, causal attention; the whole image only."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3EncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector, SmolVLMEncoderLayer

from vlm_spatial.models.recipe import (
    CHAT_SPECIAL,
    MERGE_SIDE,
    Recipe,
    Size,
    Turns,
    chat_template,
    redraw,
    square_image,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.square import TemplateSquareAdapter
from vlm_spatial.models.values import Classes, ModelIdentity, Reach
from vlm_spatial.tokens import TokenGrid

_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"


def _recipe(model_class: Any, config_class: Any, kind: str, image_processor: str) -> Recipe:
    def new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
        rope = {"rope_type": "default", "rope_theta": size.rope_theta}
        model = model_class(
            config_class(
                vision_config=vision_settings(kind, size),
                text_config=text_settings(tokenizer, size) | {"model_type": "llama", "rope_parameters": rope},
                image_token_id=tokenizer.image_token_id,
                scale_factor=MERGE_SIDE,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=False,
            )
        )
        redraw(model.model.vision_model, model.model.connector)
        return model

    def files(size: Size) -> dict[str, Any]:
        longest = {"longest_edge": size.image_side}
        return {
            "preprocessor_config.json": square_image(
                image_processor, size.image_side, size=longest, max_image_size=longest, do_image_splitting=True, do_pad=True, resample=1
            )
        }

    return Recipe(
        special={**CHAT_SPECIAL, "image_start_token": _AROUND, "image_end_token": _WHOLE},
        turns=Turns("<|im_start|>", "user", "assistant", "<|im_end|>", image_end="<image>"),
        template=chat_template("<image>"),
        model=new_model,
        processor_files=files,
        places=r"\.vision_model\..*(position_embedding\.weight|out_proj\.(weight|bias))$",
    )


class SmolVLMAdapter(TemplateSquareAdapter):
    """``SmolVLMForConditionalGeneration``: the image is squeezed to a square."""

    family: ClassVar[str] = "smolvlm"
    architecture: ClassVar[str] = "SmolVLMForConditionalGeneration"
    model_class: ClassVar[Any] = SmolVLMForConditionalGeneration
    classes: ClassVar[Classes] = ((SmolVLMEncoderLayer,), (SmolVLMConnector,), (LlamaDecoderLayer,))
    recipe: ClassVar[Recipe] = _recipe(SmolVLMForConditionalGeneration, SmolVLMConfig, "smolvlm_vision", "SmolVLMImageProcessor")
    reach: Reach = "causal"
    vision_path: ClassVar[str] = "model.vision_model.encoder.layers"
    connector_path: ClassVar[str] = "model.connector"
    language_path: ClassVar[str] = "model.text_model"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        # Splitting would add crops, and with them visual tokens that no cell of the image stands for.
        self.use_template({"do_image_splitting": False})

    @property
    def kernel(self) -> int:
        return int(self.model.config.scale_factor)

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size // self.kernel)

    def image_string(self, grid: TokenGrid) -> str:
        return f"{_AROUND}{_WHOLE}{super().image_string(grid)}{_AROUND}"

    def connect(self, states: Tensor) -> Tensor:
        return self.connector(self.model.model.vision_model.post_layernorm(states))


class Idefics3Adapter(SmolVLMAdapter):
    """``Idefics3ForConditionalGeneration``: the same modules under other class names."""

    family: ClassVar[str] = "idefics3"
    architecture: ClassVar[str] = "Idefics3ForConditionalGeneration"
    model_class: ClassVar[Any] = Idefics3ForConditionalGeneration
    classes: ClassVar[Classes] = ((Idefics3EncoderLayer,), (Idefics3Connector,), (LlamaDecoderLayer,))
    recipe: ClassVar[Recipe] = _recipe(Idefics3ForConditionalGeneration, Idefics3Config, "idefics3_vision", "Idefics3ImageProcessor")
