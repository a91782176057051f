"""Pixtral: a vision encoder of native resolution with two-dimensional rotary positions, two-layer projector, row breaks, causal attention.

The vision encoder gets the images of a batch as one sequence, ``[1, patches of all images, features]``, with a mask that keeps them apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.pixtral.modeling_pixtral import PixtralAttentionLayer

from vlm_spatial.errors import UserError
from vlm_spatial.models.inputs import Rows
from vlm_spatial.models.native import NativeAdapter
from vlm_spatial.models.raster import RasterAdapter
from vlm_spatial.models.recipe import (
    CHAT_SPECIAL,
    MERGE_SIDE,
    PATCH_SIDE,
    Recipe,
    Size,
    Turns,
    chat_template,
    redraw,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.template import TemplateAdapter
from vlm_spatial.models.values import Classes, ModelIdentity, Prepared, Reach, Site, SiteValues
from vlm_spatial.tokens import TokenGrid

ROW_BREAK = "[IMG_BREAK]"
"""Behind every row of cells but the last."""
IMAGE_END = "[IMG_END]"
"""Behind the last row of cells."""

SPECIAL: Mapping[str, str] = {
    **{name: mark for name, mark in CHAT_SPECIAL.items() if not name.startswith("image_")},
    "image_token": "[IMG]",
    "image_break_token": ROW_BREAK,
    "image_end_token": IMAGE_END,
}
TURNS = Turns("<|im_start|>", "user", "assistant", "<|im_end|>", image_end=IMAGE_END)
PLACES = r"\.vision_tower\..*attention\.o_proj\.weight$"


def text_of(tokenizer: PreTrainedTokenizerFast, size: Size, kind: str = "mistral") -> dict[str, Any]:
    """The language model's settings."""
    rope = {"rope_type": "default", "rope_theta": size.rope_theta}
    return text_settings(tokenizer, size) | {
        "model_type": kind,
        "head_dim": size.text_width // size.text_heads,
        "sliding_window": None,
        "rope_parameters": rope,
    }


def processor_files(patch: int, size: Size) -> dict[str, Any]:
    """As published: the longest side is limited, the shape kept. ``patch`` is the vision encoder's, in pixels, whatever is merged later."""
    return {
        "preprocessor_config.json": {
            "image_processor_type": "PixtralImageProcessor",
            "patch_size": {"height": patch, "width": patch},
            "size": {"longest_edge": size.image_side},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        }
    }


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    # One patch is a cell.
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision_settings("pixtral", size, PATCH_SIDE * MERGE_SIDE),
            text_config=text_of(tokenizer, size),
            image_token_index=tokenizer.image_token_id,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )
    redraw(model.model.vision_tower, model.model.multi_modal_projector)
    return model


class PixtralAdapter(NativeAdapter, RasterAdapter, TemplateAdapter):
    """``LlavaForConditionalGeneration`` with a Pixtral tower: the image keeps its shape, rounded up to whole cells."""

    family: ClassVar[str] = "pixtral"
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"
    model_class: ClassVar[Any] = LlavaForConditionalGeneration
    classes: ClassVar[Classes] = ((PixtralAttentionLayer,), (LlavaMultiModalProjector,), (MistralDecoderLayer,))
    recipe: ClassVar[Recipe] = Recipe(
        special=SPECIAL,
        turns=TURNS,
        template=chat_template("[IMG]"),
        model=_new_model,
        processor_files=lambda size: processor_files(PATCH_SIDE * MERGE_SIDE, size),
        places=PLACES,
    )
    reach: Reach = "causal"
    placeholder: ClassVar[str] = "[IMG]"
    vision_path: ClassVar[str] = "model.vision_tower.transformer.layers"
    connector_path: ClassVar[str] = "model.multi_modal_projector"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        self.use_template({"patch_size": {"height": self._cell_side, "width": self._cell_side}})

    def verify(self) -> None:
        config = self.model.config
        strategy = getattr(config, "vision_feature_select_strategy", "full")
        if config.vision_feature_layer != -1 or strategy != "full":
            raise UserError(
                f"{self.identity.checkpoint}: vision_feature_layer {config.vision_feature_layer} with vision_feature_select_strategy "
                f"{strategy!r} is not supported; -1 with 'full' is"
            )
        known = self.processor.tokenizer.get_vocab()
        missing = [mark for mark in (ROW_BREAK, IMAGE_END) if mark not in known]
        if missing:
            raise UserError(
                f"{self.identity.checkpoint}: its tokenizer lacks {' and '.join(missing)}, which end rows of an image; use the tokenizer "
                "that it was published with"
            )

    @property
    def kernel(self) -> int:
        return 1

    @property
    def _cell_side(self) -> int:
        """In pixels."""
        return int(self.model.config.vision_config.patch_size) * self.kernel

    def grid_made(self, made: Mapping[str, Tensor]) -> TokenGrid:
        height, width = made["image_sizes"][0].tolist()
        return TokenGrid(height // self._cell_side, width // self._cell_side)

    def image_string(self, grid: TokenGrid) -> str:
        return ROW_BREAK.join([self.image_token * grid.cols] * grid.rows) + IMAGE_END

    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:  # noqa: ARG002
        return {
            "pixel_values": torch.cat([one["pixel_values"] for one in made]).to(self.dtype),
            "image_sizes": torch.cat([one["image_sizes"] for one in made]),
        }

    def encode(self, prepared: Prepared) -> None:
        self.model.model.get_image_features(prepared.inputs["pixel_values"], image_sizes=prepared.inputs["image_sizes"])

    def connect(self, states: Tensor, grid: TokenGrid) -> Tensor:  # noqa: ARG002 - needed where patches are merged
        """The connector's output for the last vision block's, image by image."""
        return self.connector(states)

    def resume_vision(
        self,
        layer: int,
        values: SiteValues,
        grid: TokenGrid,
        rest: Tensor | None = None,  # noqa: ARG002
        earlier: SiteValues | None = None,  # noqa: ARG002
    ) -> SiteValues:
        # Image by image along the batch, so that no mask is needed.
        states = self._to_patches(values, grid)
        rows, cols = (torch.arange(count * self.kernel, device=states.device) for count in (grid.rows, grid.cols))
        angles = self.model.model.vision_tower.patch_positional_embedding(states, torch.cartesian_prod(rows, cols))
        for block in self.vision_blocks[layer + 1 :]:
            states = block(states, attention_mask=None, position_embeddings=angles)
        return self.connect(states, grid).reshape(len(values), grid.size, 1, -1)

    def read(self, site: Site, output: Tensor, prepared: Prepared) -> SiteValues:
        if site.startswith("language."):
            return self.read_language(output, prepared)
        states = output.reshape(prepared.batch, -1, output.shape[-1])
        return states.unsqueeze(2) if site == "connector" else self._to_cells(states, prepared.grid)

    def write(self, site: Site, output: Tensor, values: SiteValues, prepared: Prepared) -> Tensor:
        if site.startswith("language."):
            return self.write_language(output, values, prepared)
        written = values if site == "connector" else self._to_patches(values, prepared.grid)
        return written.to(output).reshape(output.shape)
