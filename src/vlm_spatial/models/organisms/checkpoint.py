"""New checkpoint folders of real architectures, with random weights and a word-level tokenizer.

What comes out is an ordinary transformers checkpoint: ``AutoModelForImageTextToText`` and ``AutoProcessor`` load it,
and nothing of this package is needed for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from vlm_spatial.errors import UserError
from vlm_spatial.files import write_json, written_then_renamed
from vlm_spatial.models.organisms.templates import GEMMA3_TEMPLATE, QWEN2_VL_TEMPLATE

Family = Literal["gemma3", "qwen2_vl", "qwen2_5_vl"]

IMAGE_SIDE = 96
PATCH_SIDE = 8
# Two by two patches make one visual token: 6 × 6 tokens an image.
MERGE_SIDE = 2
GRID_SIDE = IMAGE_SIDE // (PATCH_SIDE * MERGE_SIDE)


@dataclass(frozen=True)
class Size:
    """Depths and widths of a new model.

    Attributes:
        rope_theta: base of the language model's rotary frequencies (both kinds of layer in Gemma-3).
        sliding_window: reach of Gemma-3's sliding layers, in tokens; the other families have none.
        initializer_range: standard deviation of the language model's first weights. The default is large, so that
            even an untrained model's outputs depend clearly on its inputs.
    """

    text_layers: int = 3
    text_width: int = 32
    text_heads: int = 2
    text_key_value_heads: int = 1
    vision_layers: int = 2
    vision_width: int = 32
    vision_heads: int = 2
    rope_theta: float = 10_000.0
    sliding_window: int = 24
    initializer_range: float = 0.2


TINY = Size()


def new_checkpoint(folder: Path, family: Family, words: Sequence[str], seed: int = 0, size: Size = TINY) -> Path:
    """Write a checkpoint folder with random weights, whole or not at all.

    An image of the default canvas becomes 6 × 6 visual tokens. Every word is one token, so an answer's first token is
    the same with and without a prompt before it.

    Args:
        folder: where to write; an existing folder is replaced.
        family: which of transformers' architectures.
        words: every word that prompts and answers may hold; texts are split at white space and punctuation.
        seed: of the weights.
        size: depths and widths.

    Returns:
        ``folder``.

    Raises:
        UserError: for an unknown family or no words.
    """
    if family not in get_args(Family):
        raise UserError(f"organism family {family!r}: allowed are {', '.join(get_args(Family))}")
    tokenizer = word_tokenizer(words, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(family, tokenizer, size)
    with written_then_renamed(folder) as temporary:
        temporary.mkdir()
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name, content in _processor_files(family).items():
            write_json(content, temporary / name)
    return folder


def word_tokenizer(words: Sequence[str], family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer that knows ``words`` and the family's special tokens; anything else is ``<unk>``. Pads on the left.

    Raises:
        UserError: if ``words`` is empty.
    """
    if not words:
        raise UserError("organism words: found none; give the words that prompts and answers are made of")
    special = _GEMMA3_SPECIAL if family == "gemma3" else _QWEN_SPECIAL
    split = pre_tokenizers.Whitespace()
    turns = ("user", "model") if family == "gemma3" else ("user", "assistant")
    pieces = {piece for text in (*words, *turns) for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = [*special.values(), *sorted(pieces - set(special.values()))]
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = split
    standard = {"pad_token", "eos_token", "bos_token", "unk_token"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left",
        chat_template=GEMMA3_TEMPLATE if family == "gemma3" else QWEN2_VL_TEMPLATE,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={name: token for name, token in special.items() if name not in standard},
        **{name: token for name, token in special.items() if name in standard},
    )


_GEMMA3_SPECIAL = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
    "start_of_turn_token": "<start_of_turn>",
    "end_of_turn_token": "<end_of_turn>",
}
_QWEN_SPECIAL = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<unk>",
    "im_start_token": "<|im_start|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}


def _new_model(family: Family, tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.text_width,
        "intermediate_size": 3 * size.text_width,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.text_heads,
        "num_key_value_heads": size.text_key_value_heads,
        "max_position_embeddings": 1024,
        "initializer_range": size.initializer_range,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if family == "gemma3":
        return _gemma3(tokenizer, size, text)
    return _qwen(family, tokenizer, size, text)


def _gemma3(tokenizer: PreTrainedTokenizerFast, size: Size, text: dict[str, Any]) -> PreTrainedModel:
    head_width = size.text_width // size.text_heads
    rope = {"rope_type": "default", "rope_theta": size.rope_theta}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text
            | {
                "model_type": "gemma3_text",
                "head_dim": head_width,
                "query_pre_attn_scalar": head_width,
                "sliding_window": size.sliding_window,
                "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(size.text_layers)],
                "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
            },
            vision_config={
                "model_type": "siglip_vision_model",
                "hidden_size": size.vision_width,
                "intermediate_size": 3 * size.vision_width,
                "num_hidden_layers": size.vision_layers,
                "num_attention_heads": size.vision_heads,
                "image_size": IMAGE_SIDE,
                "patch_size": PATCH_SIDE,
                "vision_use_head": False,
            },
            mm_tokens_per_image=GRID_SIDE**2,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
        )
    )
    # transformers starts this one at zero, which would hide the image altogether.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=size.vision_width**-0.5)
    return model


def _qwen(family: Family, tokenizer: PreTrainedTokenizerFast, size: Size, text: dict[str, Any]) -> PreTrainedModel:
    half_head = size.text_width // size.text_heads // 2
    # Time gets a quarter of the frequencies, height and width share the rest: the proportion of the 7B model.
    side = (half_head - half_head // 4) // 2
    text |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta, "mrope_section": [half_head - 2 * side, side, side]}
    }
    vision: dict[str, Any] = {
        "depth": size.vision_layers,
        "num_heads": size.vision_heads,
        "patch_size": PATCH_SIDE,
        "spatial_merge_size": MERGE_SIDE,
    }
    marks = {
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "vision_start_token_id": tokenizer.vision_start_token_id,
        "vision_end_token_id": tokenizer.vision_end_token_id,
        "tie_word_embeddings": True,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": size.vision_width, "hidden_size": size.text_width, "mlp_ratio": 3}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **marks))
    vision |= {
        "hidden_size": size.vision_width,
        "out_hidden_size": size.text_width,
        "intermediate_size": 3 * size.vision_width,
        # Four tokens a window on a grid of six: whole and cut windows both occur.
        "window_size": 4 * MERGE_SIDE * PATCH_SIDE,
        "fullatt_block_indexes": [size.vision_layers - 1],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks))


def _processor_files(family: Family) -> dict[str, Any]:
    """Processor configuration as published checkpoints hold it, by file name.

    Written as such, since the video processor of the Qwen families cannot be instantiated without torchvision.
    """
    if family == "gemma3":
        image = {
            "image_processor_type": "Gemma3ImageProcessor",
            "processor_class": "Gemma3Processor",
            "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
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
            "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": GRID_SIDE**2},
        }
    name = "Qwen2VLProcessor" if family == "qwen2_vl" else "Qwen2_5_VLProcessor"
    shared = {
        "processor_class": name,
        # Room for the grid and less than one token's side more, so that rounding cannot cost a row.
        "size": {"shortest_edge": (PATCH_SIDE * MERGE_SIDE) ** 2, "longest_edge": (IMAGE_SIDE + PATCH_SIDE) ** 2},
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
