"""What a family says about checkpoints that this workflow makes: tiny random ones for tests, and organisms to be trained."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

IMAGE_SIDE = 96
"""Pixels along one side of the images that new checkpoints see, unless another side is asked for: 6 × 6 visual tokens."""
PATCH_SIDE = 8
MERGE_SIDE = 2
"""Patches along one side of a visual token, where the family merges any."""


_POSITION_FACTOR = 4.0


@dataclass(frozen=True)
class Size:
    """Depths and widths of a new model.

    Attributes:
        rope_theta: base of the language model's rotary frequencies (of all kinds of layer).
        sliding_window: reach of sliding layers, in tokens, in families that have them.
        initializer_range: standard deviation of the language model's first weights. The default is large, so that
            even an untrained model's outputs depend clearly on its inputs.
        image_side: pixels along one side of the images that it sees; 16 for each visual token.
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
    image_side: int = IMAGE_SIDE

    @property
    def grid_side(self) -> int:
        """Visual tokens along one side of an image."""
        return self.image_side // (PATCH_SIDE * MERGE_SIDE)


TINY = Size()


@dataclass(frozen=True)
class Turns:
    """Tokens by which a chat template marks turns. A turn opens with the opening mark and the speaker's name.

    Attributes:
        image_end: the last token that stands for an image.
    """

    opening: str
    user: str
    model: str
    end: str
    image_end: str


@dataclass(frozen=True)
class Teaching:
    """How a family is taught.

    Attributes:
        questions: asked after one image.
        apart: whether each of them is answered as if it were the only one; an image is then described as many times, too.
        by_errors: whether what is answered wrong more often is asked more often.
        captions_only: share of the training in which images are described only, before questions are asked.
        captions_later: share of captions among the lessons from then on.
        decay_from: share of the training after which the learning rate falls linearly to zero.
    """

    questions: int
    apart: bool
    by_errors: bool
    captions_only: float
    captions_later: float
    decay_from: float

    def captions(self, share: float) -> float:
        """Share of captions among the lessons, after a ``share`` of the training."""
        return 1.0 if share < self.captions_only else self.captions_later


CAUSAL_TEACHING = Teaching(questions=6, apart=True, by_errors=True, captions_only=0.3, captions_later=0.1, decay_from=0.5)
"""Where visual tokens see earlier positions only."""


@dataclass(frozen=True)
class OrganismRecipe:
    """How organisms of a family are made.

    Attributes:
        start: changes a new model's first weights in place; the number seeds what is random.
    """

    size: Size
    teaching: Teaching
    start: Callable[[Any, int], None]


@dataclass(frozen=True)
class Recipe:
    """A family's new checkpoints.

    Attributes:
        special: its special tokens, by the name that transformers' tokenizers have for them.
        template: chat template without what is never seen here (tools, video, system turns).
        model: makes a model with random weights for a tokenizer; every image has ``grid_side`` × ``grid_side`` visual tokens.
        processor_files: contents of the processor's configuration files for a size, by name, as published checkpoints have them.
        places: regular expression for names of the parameters by which a vision encoder knows places or mixes patches.
        organism: None where organisms of the family cannot be trained.
    """

    special: Mapping[str, str]
    turns: Turns
    template: str
    model: Callable[[PreTrainedTokenizerFast, Size], PreTrainedModel]
    processor_files: Callable[[Size], dict[str, Any]]
    places: str
    organism: OrganismRecipe | None = None


def text_settings(tokenizer: PreTrainedTokenizerFast, size: Size) -> dict[str, Any]:
    """Fields that the configurations of all Llama-like language models share."""
    return {
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


def vision_settings(kind: str, size: Size, patch: int = PATCH_SIDE) -> dict[str, Any]:
    """Fields that the configurations of CLIP, SigLIP and InternViT share."""
    return {
        "model_type": kind,
        "hidden_size": size.vision_width,
        "intermediate_size": 3 * size.vision_width,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision_heads,
        "image_size": size.image_side,
        "patch_size": patch,
    }


CHAT_SPECIAL: Mapping[str, str] = {
    "pad_token": "<pad>",
    "eos_token": "<|im_end|>",
    "unk_token": "<unk>",
    "im_start_token": "<|im_start|>",
    "image_start_token": "<image_start>",
    "image_end_token": "<image_end>",
    "image_token": "<image>",
}
"""Special tokens of new checkpoints of families without marks of their own."""
CHAT_TURNS = Turns("<|im_start|>", "user", "assistant", "<|im_end|>", image_end="<image>")


def chat_template(image: str) -> str:
    """A chat template with ``CHAT_TURNS``, and ``image`` where an image stands."""
    return CHAT_TEMPLATE.replace("IMAGE", image)


CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ 'IMAGE' }}
{%- elif item['type'] == 'text' -%}{{ item['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


@torch.no_grad()
def redraw(*modules: nn.Module) -> None:
    """New random weights of unit gain, so that nothing which transformers starts at zero (class tokens, position tables) hides
    an error; norms keep their scale.
    """
    for module in modules:
        for name, parameter in module.named_parameters():
            if "norm" in name:
                continue
            if parameter.ndim >= 2:
                fan_in = parameter.shape[-1] if "embed" in name and "patch" not in name else parameter[0].numel()
                parameter.normal_(std=fan_in**-0.5)
            else:
                parameter.normal_(std=0.1)


@torch.no_grad()
def louder_places(adapter: Any, seed: int) -> None:  # noqa: ARG001 - nothing is random
    """Position embeddings of a vision encoder as loud as its patches, so that a place is read from the first step."""
    for name, parameter in adapter.model.named_parameters():
        if re.search(r"position_embeddings?(\.weight)?$", name):
            parameter.mul_(_POSITION_FACTOR)


def square_image(kind: str, side: int, mean: float = 0.5, **more: Any) -> dict[str, Any]:
    """Configuration of an image processor that makes every image one square, as published checkpoints write it."""
    return {
        "image_processor_type": kind,
        "size": {"height": side, "width": side},
        "image_mean": [mean] * 3,
        "image_std": [0.5] * 3,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        **more,
    }
