"""Gemma-3: SigLIP vision tower, average-pooling projector, bidirectional attention inside the image."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.gemma3 import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3DecoderLayer,
    Gemma3MultiModalProjector,
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import ProcessorCache, Rows
from vlm_spatial.models.recipe import (
    OrganismRecipe,
    Recipe,
    Size,
    Teaching,
    Turns,
    text_settings,
    vision_settings,
)
from vlm_spatial.models.square import SquareAdapter, whole_root
from vlm_spatial.models.values import Classes, ModelIdentity, Reach

# --- organisms ------------------------------------------------------------------------------------------------------

TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

# Gemma-3 normalises what every block adds. At gain 1 random blocks drown the embeddings; training then starts with noise.
_BLOCK_GAIN = 0.2
_EMBEDDING_DEVIATION = 0.05
# SigLIP's position embeddings start far below the colours of the patches.
_POSITION_FACTOR = 4.0


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    head_width = size.text_width // size.text_heads
    rope = {"rope_type": "default", "rope_theta": size.rope_theta}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text_settings(tokenizer, size)
            | {
                "model_type": "gemma3_text",
                "head_dim": head_width,
                "query_pre_attn_scalar": head_width,
                "sliding_window": size.sliding_window,
                "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(size.text_layers)],
                "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
            },
            vision_config=vision_settings("siglip_vision_model", size) | {"vision_use_head": False},
            mm_tokens_per_image=size.grid_side**2,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
        )
    )
    # transformers starts this one at zero, which would hide the image altogether.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=size.vision_width**-0.5)
    return model


def _processor_files(size: Size) -> dict[str, Any]:
    image = {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "size": {"height": size.image_side, "width": size.image_side},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "do_pan_and_scan": None,
        "resample": 2,
    }
    return {
        "preprocessor_config.json": image,
        "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": size.grid_side**2},
    }


@torch.no_grad()
def _start_gently(adapter: Adapter, seed: int) -> None:  # noqa: ARG001 - nothing is random
    """Halves the steps to the first right captions."""
    for name, parameter in adapter.model.named_parameters():
        if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            # Gemma's norms multiply by one plus their weight.
            parameter.fill_(_BLOCK_GAIN - 1)
        elif name.endswith("position_embedding.weight"):
            parameter.mul_(_POSITION_FACTOR)
        elif name.endswith("embed_tokens.weight"):
            parameter.mul_(_EMBEDDING_DEVIATION / parameter.std())


RECIPE = Recipe(
    special={
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "start_of_turn_token": "<start_of_turn>",
        "end_of_turn_token": "<end_of_turn>",
    },
    turns=Turns("<start_of_turn>", "user", "model", "<end_of_turn>", image_end="<end_of_image>"),
    template=TEMPLATE,
    model=_new_model,
    processor_files=_processor_files,
    places=r"\.vision_tower\..*(position_embedding\.weight|out_proj\.(weight|bias))$",
    organism=OrganismRecipe(
        Size(4, 96, 3, 3, 4, 64, 4, rope_theta=10_000.0, sliding_window=512, initializer_range=0.02),
        Teaching(questions=6, apart=False, by_errors=False, captions_only=0.4, captions_later=0.25, decay_from=0.7),
        _start_gently,
    ),
)


# --- adapter --------------------------------------------------------------------------------------------------------


class Gemma3Adapter(SquareAdapter):
    """``Gemma3ForConditionalGeneration``: the image is squeezed to a square, whatever its shape."""

    family: ClassVar[str] = "gemma3"
    architecture: ClassVar[str] = "Gemma3ForConditionalGeneration"
    model_class: ClassVar[Any] = Gemma3ForConditionalGeneration
    classes: ClassVar[Classes] = ((SiglipEncoderLayer,), (Gemma3MultiModalProjector,), (Gemma3DecoderLayer,))
    recipe: ClassVar[Recipe] = RECIPE
    reach: Reach = "image"
    vision_path: ClassVar[str] = "model.vision_tower.encoder.layers"
    connector_path: ClassVar[str] = "model.multi_modal_projector"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        # Pan-and-scan would add crops, and with them visual tokens that no cell of the image stands for.
        # processor.image_token_id is the begin-of-image token, not the one that visual tokens have.
        self.cache = ProcessorCache(processor, self.model.config.image_token_id, {"do_pan_and_scan": False})
        self._masks: tuple[tuple[Tensor, ...], dict[str, Tensor]] | None = None

    def verify(self) -> None:
        if whole_root(self.model.config.mm_tokens_per_image) is None:
            raise UserError(f"{self.identity.checkpoint}: mm_tokens_per_image {self.model.config.mm_tokens_per_image} is no square number")
        if self.processor.image_seq_length != self.model.config.mm_tokens_per_image:
            raise UserError(
                f"{self.identity.checkpoint}: the processor makes {self.processor.image_seq_length} visual tokens, the model "
                f"expects {self.model.config.mm_tokens_per_image}; use the processor of this checkpoint"
            )

    @property
    def side(self) -> int:
        return whole_root(self.model.config.mm_tokens_per_image) or 0

    @property
    def kernel(self) -> int:
        return int(self.model.model.multi_modal_projector.kernel_size)

    def connect(self, states: Tensor) -> Tensor:
        return self.connector(self.model.model.vision_tower.post_layernorm(states))

    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:
        # Without these the image would silently be attended to causally.
        return {"token_type_ids": rows.visual.long(), **super().image_inputs(made, rows)}

    def connector_output(self) -> list[tuple[nn.Parameter, bool]]:
        return [(self.model.model.multi_modal_projector.mm_input_projection_weight, False)]

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
