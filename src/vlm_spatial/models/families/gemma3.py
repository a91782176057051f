"""Gemma-3: SigLIP vision tower, average-pooling projector, bidirectional attention inside the image."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.gemma3 import Gemma3ForConditionalGeneration
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3DecoderLayer,
    Gemma3MultiModalProjector,
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter, ModelIdentity, Prepared, Site, SiteValues
from vlm_spatial.models.inputs import ProcessorCache, Prompt, visual_positions
from vlm_spatial.tokens import TokenGrid


class Gemma3Adapter(Adapter):
    """``Gemma3ForConditionalGeneration``: the image is squeezed to a square, whatever its shape."""

    family: ClassVar[str] = "gemma3"
    architecture: ClassVar[str] = "Gemma3ForConditionalGeneration"
    model_class: ClassVar[Any] = Gemma3ForConditionalGeneration
    causal_image: ClassVar[bool] = False

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        # Pan-and-scan would add crops, and with them visual tokens that no cell of the image stands for.
        # processor.image_token_id is the begin-of-image token, not the one that visual tokens have.
        size = processor.image_processor.size
        resized = (size["width"], size["height"]) if size["width"] and size["height"] else None
        self.cache = ProcessorCache(processor, self.model.config.image_token_id, {"do_pan_and_scan": False}, resized)
        self._masks: tuple[tuple[Tensor, ...], dict[str, Tensor]] | None = None

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        return self.model.model.vision_tower.encoder.layers

    @property
    def connector(self) -> nn.Module:
        return self.model.model.multi_modal_projector

    @property
    def language_blocks(self) -> Sequence[nn.Module]:
        return self.model.model.language_model.layers

    @property
    def vision_shape(self) -> tuple[int, int]:
        return self._kernel() ** 2, self.model.config.vision_config.hidden_size

    def verify(self) -> None:
        self.check_classes(SiglipEncoderLayer, Gemma3MultiModalProjector, Gemma3DecoderLayer)
        if math.isqrt(self.model.config.mm_tokens_per_image) ** 2 != self.model.config.mm_tokens_per_image:
            raise UserError(f"{self.identity.checkpoint}: mm_tokens_per_image {self.model.config.mm_tokens_per_image} is no square number")
        if self.processor.image_seq_length != self.model.config.mm_tokens_per_image:
            raise UserError(
                f"{self.identity.checkpoint}: the processor makes {self.processor.image_seq_length} visual tokens, the model "
                f"expects {self.model.config.mm_tokens_per_image}; use the processor of this checkpoint"
            )

    def grid(self, width: int, height: int) -> TokenGrid:  # noqa: ARG002 - every image becomes the same square
        side = math.isqrt(self.model.config.mm_tokens_per_image)
        return TokenGrid(side, side)

    def prepare(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Prepared:
        rows = self.cache.rows(images, prompts)
        grid = self.grid(*images[0].size)
        pixels = torch.cat([self.cache.image(image)["pixel_values"] for image in images])
        inputs = {
            "input_ids": rows.ids,
            "attention_mask": rows.attention.long(),
            "position_ids": (rows.attention.long().cumsum(dim=1) - 1).clamp(min=0),
            # Without these the image would silently be attended to causally.
            "token_type_ids": rows.visual.long(),
            "pixel_values": pixels.to(self.dtype),
        }
        positions = visual_positions(rows.visual, grid.size)
        return Prepared({name: value.to(self.device) for name, value in inputs.items()}, positions.to(self.device), grid)

    def with_masks(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """With both kinds of layers' attention masks, which take a small model longer to build than a layer to run."""
        layout = tuple(inputs[name] for name in ("attention_mask", "position_ids", "token_type_ids"))
        known = self._masks
        if known is None or not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(known[0], layout, strict=True)):
            attention, positions, kinds = layout
            masks = create_masks_for_vision_model(
                config=self.model.config.get_text_config(),
                # Its shape, type and device are all that is asked of it.
                inputs_embeds=torch.empty(*attention.shape, 1, dtype=self.dtype, device=attention.device),
                attention_mask=attention,
                past_key_values=None,
                position_ids=positions,
                block_sequence_ids=get_block_sequence_ids_for_mask(kinds, device=attention.device),
            )
            self._masks = known = (layout, masks)
        return {**inputs, "attention_mask": known[1]}

    def encode(self, prepared: Prepared) -> None:
        self.model.model.get_image_features(prepared.inputs["pixel_values"])

    def resume_vision(self, layer: int, values: SiteValues, grid: TokenGrid) -> SiteValues:
        states = self._to_patches(values, grid)
        for block in self.vision_blocks[layer + 1 :]:
            states = block(states, attention_mask=None)
        return self.connector(self.model.model.vision_tower.post_layernorm(states)).unsqueeze(2)

    def read(self, site: Site, output: Tensor, prepared: Prepared) -> SiteValues:
        if site.startswith("vision."):
            return self._to_cells(output, prepared.grid)
        return output.unsqueeze(2) if site == "connector" else self.read_language(output, prepared)

    def write(self, site: Site, output: Tensor, values: SiteValues, prepared: Prepared) -> Tensor:
        if site.startswith("vision."):
            return self._to_patches(values, prepared.grid).to(output.dtype)
        return values.squeeze(2).to(output.dtype) if site == "connector" else self.write_language(output, values, prepared)

    def _kernel(self) -> int:
        """Patches along one side of a cell: what the projector averages."""
        return int(self.model.model.multi_modal_projector.kernel_size)

    def _to_cells(self, states: Tensor, grid: TokenGrid) -> SiteValues:
        """``[batch, patches, features]`` in raster order to ``[batch, cells, patches of a cell, features]``."""
        batch, _, features = states.shape
        k = self._kernel()
        split = states.reshape(batch, grid.rows, k, grid.cols, k, features)
        return split.transpose(2, 3).reshape(batch, grid.size, k * k, features)

    def _to_patches(self, values: SiteValues, grid: TokenGrid) -> Tensor:
        batch, _, _, features = values.shape
        k = self._kernel()
        split = values.reshape(batch, grid.rows, grid.cols, k, k, features)
        return split.transpose(2, 3).reshape(batch, grid.size * k * k, features)
