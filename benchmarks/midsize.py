"""Random models of a size between the tests' and the published ones, with the canvas and grid of the published ones."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vlm_spatial.models.adapter import Adapter, ModelIdentity
from vlm_spatial.models.load import FAMILIES, load_adapter
from vlm_spatial.models.organisms.checkpoint import Family, Size, new_checkpoint

# Image side in pixels for a patch side of 8 and 16 × 16 visual tokens, as published models have for a 448-pixel canvas.
SIDES = {"gemma3": 512, "qwen2_vl": 256, "qwen2_5_vl": 256}
WORDS = ["which object is on the left right middle top bottom of ?", "red green blue yellow square circle"]


@dataclass(frozen=True)
class MidSize:
    """Depths and widths. With 8 vision layers the vision tower takes 0.4 of a Qwen run's arithmetic: between the genuine
    2B (0.6) and 7B (0.3) models; with 4, 0.3. For Gemma-3 it is 0.85 and 0.75, the 4B model's share.
    """

    text_layers: int = 16
    text_width: int = 512
    text_heads: int = 8
    text_key_value_heads: int = 2
    vision_layers: int = 8
    vision_width: int = 256
    vision_heads: int = 4


def midsize_adapter(family: Family, size: MidSize) -> Adapter:
    """A model with 16 × 16 visual tokens and random weights, on the CPU in float32."""
    side = SIDES[family]
    with TemporaryDirectory() as scratch:
        folder = new_checkpoint(Path(scratch) / family, family, WORDS, size=Size(**vars(size), initializer_range=0.02))
        small = load_adapter(folder, device="cpu")
    config, processor = small.model.config, small.processor
    if family == "gemma3":
        # 64 × 64 patches, averaged 4 × 4 to a token, as in Gemma-3-4B; sliding layers five to one.
        config.vision_config.image_size = side
        config.mm_tokens_per_image = processor.image_seq_length = 256
        config.text_config.sliding_window = 1024
        config.text_config.layer_types = [
            "full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(config.text_config.num_hidden_layers)
        ]
        processor.image_processor.size = {"height": side, "width": side}
        tokenizer = processor.tokenizer
        processor.full_image_sequence = f"\n\n{tokenizer.boi_token}{tokenizer.image_token * 256}{tokenizer.eoi_token}\n\n"
    else:
        processor.image_processor.size = {"shortest_edge": 256, "longest_edge": side * side}
    kind = next(kind for kind in FAMILIES if kind.family == family)
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    model = kind.model_class(config)
    if family == "gemma3":
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=size.vision_width**-0.5)
    return kind(model, processor, ModelIdentity("random", None, kind.architecture, "random", "float32"))
