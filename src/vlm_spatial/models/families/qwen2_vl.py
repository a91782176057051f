"""Qwen2-VL: native resolution, 2×2 merging connector, three-dimensional rotary positions (M-RoPE)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.qwen2_vl import Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger, Qwen2VLDecoderLayer, Qwen2VLVisionBlock
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_position_ids

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.adapter import Adapter, ModelIdentity, Prepared, Site, SiteValues
from vlm_spatial.models.inputs import ProcessorCache, Prompt, visual_positions
from vlm_spatial.tokens import TokenGrid


class ImageOnlyProcessor(Qwen2VLProcessor):
    """The family's processor without its video half, which needs torchvision; no video is ever processed here."""

    # transformers takes the parts that a processor must have from the names of these arguments.
    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


class Qwen2VLAdapter(Adapter):
    """``Qwen2VLForConditionalGeneration``: the image keeps its shape, rounded to whole visual tokens."""

    family: ClassVar[str] = "qwen2_vl"
    architecture: ClassVar[str] = "Qwen2VLForConditionalGeneration"
    model_class: ClassVar[Any] = Qwen2VLForConditionalGeneration
    causal_image: ClassVar[bool] = True
    block_classes: ClassVar[tuple[type, type, type]] = (Qwen2VLVisionBlock, PatchMerger, Qwen2VLDecoderLayer)

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        super().__init__(model, processor, identity)
        self.cache = ProcessorCache(processor, self.model.config.image_token_id)
        self._grids: dict[tuple[int, int], TokenGrid] = {}

    @classmethod
    def load_processor(cls, folder: str) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        older = Path(folder) / "chat_template.json"
        template = read_json(older, "save the checkpoint again")["chat_template"] if older.is_file() else tokenizer.chat_template
        return ImageOnlyProcessor(image_processor=image_processor, tokenizer=tokenizer, chat_template=template)

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        return self.model.model.visual.blocks

    @property
    def connector(self) -> nn.Module:
        return self.model.model.visual.merger

    @property
    def language_blocks(self) -> Sequence[nn.Module]:
        return self.model.model.language_model.layers

    @property
    def vision_shape(self) -> tuple[int, int]:
        return self._merge**2, self.model.model.visual.merger.ln_q.weight.shape[0]

    @property
    def _merge(self) -> int:
        """Patches along one side of a cell."""
        return int(self.model.model.visual.spatial_merge_size)

    def verify(self) -> None:
        self.check_classes(*self.block_classes)
        patch, merge = self.processor.image_processor.patch_size, self.processor.image_processor.merge_size
        vision = self.model.config.vision_config
        if (patch, merge) != (vision.patch_size, vision.spatial_merge_size):
            raise UserError(
                f"{self.identity.checkpoint}: the processor cuts patches of {patch} px and merges {merge}×{merge}, the model expects "
                f"{vision.patch_size} px and {vision.spatial_merge_size}×{vision.spatial_merge_size}; use the processor of this checkpoint"
            )

    def grid(self, width: int, height: int) -> TokenGrid:
        if (width, height) not in self._grids:
            # Asked of the processor itself: its rounding rules change between releases.
            made = self.cache.image(Image.new("RGB", (width, height)))["image_grid_thw"][0].tolist()
            self._grids[width, height] = TokenGrid(made[1] // self._merge, made[2] // self._merge)
        return self._grids[width, height]

    def prepare(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Prepared:
        rows = self.cache.rows(images, prompts)
        grids = sorted({(grid.rows, grid.cols) for grid in (self.grid(*image.size) for image in images)})
        if len(grids) > 1:
            raise UserError(f"inputs: images of token grids {grids} in one batch; batch only images of one grid")
        grid = TokenGrid(*grids[0])
        made = [self.cache.image(image) for image in images]
        thw = torch.cat([one["image_grid_thw"] for one in made])
        kinds = rows.visual.int()
        inputs = {
            "input_ids": rows.ids,
            "attention_mask": rows.attention.long(),
            "pixel_values": torch.cat([one["pixel_values"] for one in made]).to(self.dtype),
            "image_grid_thw": thw,
            "mm_token_type_ids": kinds,
            # Passed in every call: left to itself the model reuses the offsets of its last one.
            "position_ids": self._positions(rows.ids, kinds, thw, rows.attention.long()),
        }
        positions = visual_positions(rows.visual, grid.size)
        return Prepared({name: value.to(self.device) for name, value in inputs.items()}, positions.to(self.device), grid)

    def _positions(self, ids: Tensor, kinds: Tensor, thw: Tensor, attention: Tensor) -> Int[Tensor, "3 batch positions"]:
        return self.model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=thw, attention_mask=attention)[0]

    def encode(self, prepared: Prepared) -> None:
        self.model.model.get_image_features(prepared.inputs["pixel_values"], prepared.inputs["image_grid_thw"])

    def resume_vision(self, layer: int, values: SiteValues, grid: TokenGrid) -> SiteValues:
        visual = self.model.model.visual
        batch = values.shape[0]
        order = self._order(grid).to(values.device)
        thw = torch.tensor([[1, grid.rows * self._merge, grid.cols * self._merge]], device=values.device).expand(batch, 3)
        states = self._pack(values, grid)
        # Rotary angles of every patch, in the order the blocks see them.
        places = get_vision_position_ids(thw, self._merge).reshape(batch, grid.size, -1, 2)[:, order].reshape(-1, 2)
        rotary = visual.rotary_pos_emb(states, places)
        for index in range(layer + 1, len(self.vision_blocks)):
            states = self.vision_blocks[index](
                states, cu_seqlens=self._segments(index, thw), position_embeddings=tuple(rotary), max_seqlen=None
            )
        return self._unpack(self.connector(states), batch, grid)

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
        values[:, self._order(grid).to(states.device)] = states.reshape(values.shape)
        return values

    def _pack(self, values: SiteValues, grid: TokenGrid) -> Tensor:
        return values[:, self._order(grid).to(values.device)].reshape(-1, values.shape[-1])
