"""Random models of any size with the canvas and grid of the published ones: 16 × 16 visual tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint, word_tokenizer
from vlm_spatial.models.recipe import Size
from vlm_spatial.models.values import ModelIdentity

WORDS = ["which object is on the left right middle top bottom of ?", "red green blue yellow square circle"]


@dataclass(frozen=True)
class MidSize:
    """Depths and widths. With 8 vision layers the vision tower takes 0.4 of a Qwen run's arithmetic: between the genuine
    2B (0.6) and 7B (0.3) models; with 4, 0.3. For Gemma-3 it is 0.85 and 0.75, the 4B model's share.

    Attributes:
        text_mlp_width: of the language model's MLP; three times ``text_width`` if None.
        grid: visual tokens along one side.
    """

    text_layers: int = 16
    text_width: int = 512
    text_heads: int = 8
    text_key_value_heads: int = 2
    vision_layers: int = 8
    vision_width: int = 256
    vision_heads: int = 4
    text_mlp_width: int | None = None
    grid: int = 16


QUICK = MidSize(text_layers=4, text_width=64, text_heads=2, text_key_value_heads=1, vision_layers=2, vision_width=32, vision_heads=2)
SEVEN_B = MidSize(28, 3584, 28, 4, vision_layers=32, vision_width=1280, vision_heads=16, text_mlp_width=18944)
"""Qwen2-VL-7B-Instruct's language model and vision tower (its vocabulary, which patches do not touch, is left out)."""
SIZES = {"quick": QUICK, "mid": MidSize(), "7b": SEVEN_B}


def side_of(family: str, size: MidSize) -> int:
    """Pixels along one side of an image that gives the model's grid."""
    # Gemma-3 averages 4 × 4 patches of 8 pixels to a token.
    return (32 if family == "gemma3" else 16) * size.grid


def midsize_adapter(
    family: str, size: MidSize, device: torch.device | str = "cpu", dtype: str = "float32", words: Sequence[str] = WORDS
) -> Adapter:
    """A model of ``size`` with random weights, made on ``device``; its tokenizer knows ``words``."""
    kind = family_named(family)
    seen = Size(image_side=16 * size.grid, initializer_range=0.02)
    with TemporaryDirectory() as scratch:
        processor = load_adapter(new_checkpoint(Path(scratch) / family, family, words, size=seen), device="cpu").processor
    given = {name: value for name, value in vars(size).items() if name not in ("text_mlp_width", "grid")}
    # Without memory: only its configuration is wanted.
    with torch.device("meta"):
        config = kind.recipe.model(word_tokenizer(words, kind.recipe), replace(seen, **given)).config
    if size.text_mlp_width is not None:
        config.text_config.intermediate_size = size.text_mlp_width
    if family == "gemma3":
        # 64 × 64 patches for 16 × 16 tokens, as in Gemma-3-4B; sliding layers five to one.
        side = side_of(family, size)
        config.vision_config.image_size = side
        config.text_config.sliding_window = 1024
        config.text_config.layer_types = [
            "full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(config.text_config.num_hidden_layers)
        ]
        processor.image_processor.size = {"height": side, "width": side}
    torch.manual_seed(0)
    config._attn_implementation = kind.attention
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(getattr(torch, dtype))
        with torch.device(device):
            model = kind.model_class(config)
    finally:
        torch.set_default_dtype(before)
    if family == "gemma3":
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=size.vision_width**-0.5)
    return kind(model, processor, ModelIdentity("random", None, kind.architecture, "random", dtype))
