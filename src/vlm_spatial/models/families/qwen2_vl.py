"""Qwen2-VL: native resolution, 2×2 merging connector, three-dimensional rotary positions (M-RoPE)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.qwen2_vl import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger, Qwen2VLDecoderLayer, Qwen2VLVisionBlock
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_position_ids

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import ProcessorCache, Rows
from vlm_spatial.models.native import NativeAdapter
from vlm_spatial.models.on_device import on_device
from vlm_spatial.models.recipe import (
    CAUSAL_TEACHING,
    MERGE_SIDE,
    PATCH_SIDE,
    OrganismRecipe,
    Recipe,
    Size,
    Turns,
    chat_template,
    text_settings,
)
from vlm_spatial.models.values import Classes, ModelIdentity, Prepared, Reach, Site, SiteValues
from vlm_spatial.tokens import TokenGrid

# --- organisms ------------------------------------------------------------------------------------------------------

SPECIAL = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<unk>",
    "im_start_token": "<|im_start|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
TURNS = Turns("<|im_start|>", "user", "assistant", "<|im_end|>", image_end="<|vision_end|>")
TEMPLATE = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
# Position enters these vision encoders through the attention alone, so there is no embedding to silence.
PLACES = r"\.visual\..*attn\.proj\.(weight|bias)$"
# Queries and keys have biases. Between biases alone, attention depends on the distance alone: with M-RoPE, on rows and columns.
_BIAS_DEVIATION = 1.5


def text_with_rope(tokenizer: PreTrainedTokenizerFast, size: Size) -> dict[str, Any]:
    """The language model's settings, with M-RoPE."""
    half_head = size.text_width // size.text_heads // 2
    # Time gets a quarter of the frequencies, height and width share the rest: the proportion of the 7B model.
    side = (half_head - half_head // 4) // 2
    rope = {"rope_type": "default", "rope_theta": size.rope_theta, "mrope_section": [half_head - 2 * side, side, side]}
    return text_settings(tokenizer, size) | {"rope_parameters": rope}


def vision_of(size: Size) -> dict[str, Any]:
    """Settings of the vision encoder that the Qwen families share."""
    return {
        "depth": size.vision_layers,
        "num_heads": size.vision_heads,
        "patch_size": PATCH_SIDE,
        "spatial_merge_size": MERGE_SIDE,
    }


def marks_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Ids of the image's marks."""
    return {
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "vision_start_token_id": tokenizer.vision_start_token_id,
        "vision_end_token_id": tokenizer.vision_end_token_id,
    }


def processor_files(processor: str, size: Size) -> dict[str, Any]:
    """Written as such, since the family's video processor cannot be instantiated without torchvision."""
    shared = {
        "processor_class": processor,
        # Room for the grid and less than one token's side more, so that rounding cannot cost a row.
        "size": {"shortest_edge": (PATCH_SIDE * MERGE_SIDE) ** 2, "longest_edge": (size.image_side + PATCH_SIDE) ** 2},
        "patch_size": PATCH_SIDE,
        "merge_size": MERGE_SIDE,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return {
        "preprocessor_config.json": shared | {"image_processor_type": "Qwen2VLImageProcessor"},
        "video_preprocessor_config.json": shared | {"video_processor_type": "Qwen2VLVideoProcessor"},
    }


def _new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    vision = vision_of(size) | {"embed_dim": size.vision_width, "hidden_size": size.text_width, "mlp_ratio": 3}
    text = text_with_rope(tokenizer, size)
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **marks_of(tokenizer))
    )


@torch.no_grad()
def _start_gently(adapter: Adapter, seed: int) -> None:
    """Lets heads attend by place from the first step: the vision encoder knows distances only, so that a place has to be told by
    the language model, from the distance to the text around the image.
    """
    random = torch.Generator().manual_seed(seed)
    for block in adapter.language_blocks:
        for name, parameter in block.named_parameters():
            if name.endswith(("q_proj.bias", "k_proj.bias")):
                parameter.copy_(_BIAS_DEVIATION * torch.randn(parameter.shape, generator=random))


RECIPE = Recipe(
    special=SPECIAL,
    turns=TURNS,
    template=TEMPLATE,
    model=_new_model,
    processor_files=lambda size: processor_files("Qwen2VLProcessor", size),
    places=PLACES,
    organism=OrganismRecipe(
        # M-RoPE gives the image's axes the lowest frequencies, so that a usual base of 10,000 leaves six columns almost alike,
        # and nothing is learned.
        Size(5, 96, 3, 3, 4, 64, 4, rope_theta=4.0, initializer_range=0.02),
        # This family describes sooner than Gemma-3, and reads a place from its distance to the question, which one question after
        # another would make vary.
        CAUSAL_TEACHING,
        _start_gently,
    ),
)


# --- adapter --------------------------------------------------------------------------------------------------------


class ImageOnlyProcessor(Qwen2VLProcessor):
    """The family's processor without its video half, which needs torchvision; no video is ever processed here."""

    # transformers takes the parts that a processor must have from the names of these arguments.
    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


class Qwen2VLAdapter(NativeAdapter):
    """``Qwen2VLForConditionalGeneration``: the image keeps its shape, rounded to whole visual tokens."""

    family: ClassVar[str] = "qwen2_vl"
    architecture: ClassVar[str] = "Qwen2VLForConditionalGeneration"
    model_class: ClassVar[Any] = Qwen2VLForConditionalGeneration
    classes: ClassVar[Classes] = ((Qwen2VLVisionBlock,), (PatchMerger,), (Qwen2VLDecoderLayer,))
    recipe: ClassVar[Recipe] = RECIPE
    reach: Reach = "causal"
    position_axes: ClassVar[tuple[int, ...]] = (3,)
    vision_path: ClassVar[str] = "model.visual.blocks"
    connector_path: ClassVar[str] = "model.visual.merger"
    vision_rotary_path: ClassVar[str | None] = "model.visual.rotary_pos_emb"

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        self.cache = ProcessorCache(processor, self.model.config.image_token_id)

    @classmethod
    def load_processor(cls, folder: str) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        older = Path(folder) / "chat_template.json"
        template = read_json(older, "save the checkpoint again")["chat_template"] if older.is_file() else tokenizer.chat_template
        return ImageOnlyProcessor(image_processor=image_processor, tokenizer=tokenizer, chat_template=template)

    @property
    def vision_shape(self) -> tuple[int, int]:
        return self._merge**2, self.model.config.vision_config.embed_dim

    @property
    def _merge(self) -> int:
        """Patches along one side of a cell."""
        return int(self.model.model.visual.spatial_merge_size)

    def verify(self) -> None:
        patch, merge = self.processor.image_processor.patch_size, self.processor.image_processor.merge_size
        vision = self.model.config.vision_config
        if (patch, merge) != (vision.patch_size, vision.spatial_merge_size):
            raise UserError(
                f"{self.identity.checkpoint}: the processor cuts patches of {patch} px and merges {merge}×{merge}, the model expects "
                f"{vision.patch_size} px and {vision.spatial_merge_size}×{vision.spatial_merge_size}; use the processor of this checkpoint"
            )

    def grid_made(self, made: Mapping[str, Tensor]) -> TokenGrid:
        _, height, width = made["image_grid_thw"][0].tolist()
        return TokenGrid(height // self._merge, width // self._merge)

    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.cat([one["pixel_values"] for one in made]).to(self.dtype),
            "image_grid_thw": torch.cat([one["image_grid_thw"] for one in made]),
            "mm_token_type_ids": rows.visual.int(),
        }

    def positions(self, inputs: Mapping[str, Tensor]) -> Int[Tensor, "3 batch positions"]:
        # Passed in every call: left to itself the model reuses the offsets of its last one.
        of_layout = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        return self.model.model.get_rope_index(**{name: inputs[name] for name in of_layout})[0]

    def encode(self, prepared: Prepared) -> None:
        self.model.model.get_image_features(prepared.inputs["pixel_values"], prepared.inputs["image_grid_thw"])

    def resume_vision(
        self,
        layer: int,
        values: SiteValues,
        grid: TokenGrid,
        rest: Tensor | None = None,  # noqa: ARG002
        earlier: SiteValues | None = None,  # noqa: ARG002
    ) -> SiteValues:
        visual = self.model.model.visual
        batch = values.shape[0]
        thw = self._patch_grids(grid, batch)
        states = self._pack(values, grid)
        # Rotary angles of every patch, in the order the blocks see them.
        places = get_vision_position_ids(thw, self._merge).reshape(batch, grid.size, -1, 2)[:, self._order(grid)].reshape(-1, 2)
        rotary = visual.rotary_pos_emb(states, places.to(values.device))
        for index in range(layer + 1, len(self.vision_blocks)):
            states = self.vision_blocks[index](
                states, cu_seqlens=self._segments(index, thw), position_embeddings=tuple(rotary), max_seqlen=None
            )
        return self._unpack(self.connector(states), batch, grid)

    def _patch_grids(self, grid: TokenGrid, batch: int) -> Int[Tensor, "batch 3"]:
        """Patches of each image, as the processor says them.

        On the CPU where the blocks take their attention apart by image: they read the bounds there, and would wait for a GPU at each block.
        """
        thw = torch.tensor([[1, grid.rows * self._merge, grid.cols * self._merge]]).expand(batch, 3)
        return thw.to(self.device) if is_flash_attention_requested(self.model.model.visual.config) else thw

    def _segments(self, layer: int, thw: Int[Tensor, "batch 3"]) -> Int[Tensor, " bounds"]:  # noqa: ARG002 - windowed in Qwen2.5-VL
        """Where attention segments of vision block ``layer`` begin and end in the packed patches."""
        return get_vision_attention_seqlens(thw, self.model.model.visual.config)[0]

    def _order(self, grid: TokenGrid) -> Int[Tensor, " cells"]:
        """The row-major cell that stands at each place of the packed sequence of one image."""
        return torch.arange(grid.size)

    def read(self, site: Site, output: Tensor, prepared: Prepared) -> SiteValues:
        if site.startswith("language."):
            return self.read_language(output, prepared)
        return self._unpack(output, prepared.batch, prepared.grid)

    def write(self, site: Site, output: Tensor, values: SiteValues, prepared: Prepared) -> Tensor:
        if site.startswith("language."):
            return self.write_language(output, values, prepared)
        return self._pack(values, prepared.grid).to(output.dtype)

    def _unpack(self, states: Tensor, batch: int, grid: TokenGrid) -> SiteValues:
        """``[Σ patches, features]`` in the blocks' order to cells in row-major order; a cell's patches lie together."""
        values = torch.empty_like(states).reshape(batch, grid.size, -1, states.shape[-1])
        values[:, on_device(self._order(grid), states.device)] = states.reshape(values.shape)
        return values

    def _pack(self, values: SiteValues, grid: TokenGrid) -> Tensor:
        return values[:, on_device(self._order(grid), values.device)].reshape(-1, values.shape[-1])
