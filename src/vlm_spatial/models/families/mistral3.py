"""Mistral Small 3.1 and Ministral 3: Pixtral's vision encoder and row breaks, with a connector that merges patches into cells."""

from typing import Any, ClassVar

from torch import Tensor
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.ministral3.modeling_ministral3 import Ministral3DecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector
from transformers.models.pixtral.modeling_pixtral import PixtralAttentionLayer

from vlm_spatial.models.families.pixtral import PLACES, SPECIAL, TURNS, PixtralAdapter, processor_files, text_of
from vlm_spatial.models.recipe import MERGE_SIDE, PATCH_SIDE, Recipe, Size, chat_template, redraw, vision_settings
from vlm_spatial.models.values import Classes
from vlm_spatial.tokens import TokenGrid


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    model = Mistral3ForConditionalGeneration(
        Mistral3Config(
            vision_config=vision_settings("pixtral", size),
            text_config=text_of(tokenizer, size),
            image_token_index=tokenizer.image_token_id,
            spatial_merge_size=MERGE_SIDE,
        )
    )
    redraw(model.model.vision_tower, model.model.multi_modal_projector)
    return model


class Mistral3Adapter(PixtralAdapter):
    """``Mistral3ForConditionalGeneration``."""

    family: ClassVar[str] = "mistral3"
    architecture: ClassVar[str] = "Mistral3ForConditionalGeneration"
    model_class: ClassVar[Any] = Mistral3ForConditionalGeneration
    classes: ClassVar[Classes] = ((PixtralAttentionLayer,), (Mistral3MultiModalProjector,), (MistralDecoderLayer, Ministral3DecoderLayer))
    recipe: ClassVar[Recipe] = Recipe(
        special=SPECIAL,
        turns=TURNS,
        template=chat_template("[IMG]"),
        model=_new_model,
        processor_files=lambda size: processor_files(PATCH_SIDE, size),
        places=PLACES,
    )

    @property
    def kernel(self) -> int:
        return int(self.model.config.spatial_merge_size)

    def connect(self, states: Tensor, grid: TokenGrid) -> Tensor:
        size = (grid.rows * self._cell_side, grid.cols * self._cell_side)
        return self.connector(states.flatten(0, 1), [size] * len(states))
