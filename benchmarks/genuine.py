"""The published configurations of Qwen2-VL-7B- and 2B-Instruct and of Gemma-3-4B-it with random weights, whole or with fewer layers.

Every width, head, patch, vocabulary and rotary setting is that of the published ``config.json``. The tokenizer is the published one where
its files are given; elsewhere a word-level one takes the place, and the marks of the image have its ids.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.published import write_processor
from torch import nn
from transformers import Gemma3Config, PreTrainedConfig, Qwen2VLConfig
from transformers.initialization import no_init_weights

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.folder import chat_template
from vlm_spatial.models.on_device import set_up_cuda
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.values import ModelIdentity

NAME, REVISION = "random/weights", "0" * 40
"""Of the identity: as of a model of the hub."""
WORDS = ["which object is on the left right middle top bottom of ?", "red green blue yellow square circle"]
LAYERS: dict[str, tuple[int, int]] = {"qwen2_vl": (28, 32), "qwen2_vl_2b": (28, 32), "gemma3": (34, 27)}
"""Layers of the language model and of the vision encoder: Qwen2-VL-7B, Qwen2-VL-2B, Gemma-3-4B."""
# A prime, so that words that stand near one another never share a row.
_ROWS = 4099
_SPREAD = 0.02


def genuine_adapter(
    family: str,
    layers: int | None = None,
    vision_layers: int | None = None,
    device: torch.device | str = "cpu",
    dtype: str = "bfloat16",
    tokenizer: Path | None = None,
    words: Sequence[str] = WORDS,
    gemma_side: int = 896,
    shared_vocabulary: bool = False,
) -> Adapter:
    """The published model of ``family``, a key of ``LAYERS``, with random weights; ``layers`` and ``vision_layers`` cut its depth down.

    Args:
        tokenizer: folder of the published one.
        words: that a word-level tokenizer in its place knows.
        gemma_side: pixels along a side of Gemma-3's pictures, 896 as published. It makes 256 visual tokens of any.
        shared_vocabulary: the matrix that makes logits is the embedding, as it is in the smaller models anyway: 2 GB less in float32.
    """
    text, vision = LAYERS[family]
    name = family.removesuffix("_2b")
    processor = _processor(name, tokenizer, words)
    depths = layers or text, vision_layers or vision
    config = _gemma3_4b(processor, *depths, gemma_side) if name == "gemma3" else _qwen2_vl(processor, *depths, small=name != family)
    config._attn_implementation = "sdpa"
    kind = family_named(name)
    set_up_cuda()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(getattr(torch, dtype))
        with torch.device(device), no_init_weights():
            model = kind.model_class(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    if shared_vocabulary:
        model.lm_head.weight = model.get_input_embeddings().weight
    _draw(model)
    if name == "gemma3":
        # transformers starts this one at zero, which would hide the image altogether.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=1152**-0.5)
    return kind(model, processor, ModelIdentity(NAME, REVISION, kind.architecture, "random", dtype))


def loader(adapter: Adapter) -> Callable[..., Adapter]:
    """To be called in place of ``load_adapter``: the same model, asked as an entry of ``models`` says, whichever checkpoint it names."""

    def load(
        *,
        prompting: Mapping[str, Any] | None = None,
        quirks: Mapping[str, Any] | None = None,
        answers: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        **_: Any,
    ) -> Adapter:
        asked, odd = PromptingSettings.model_validate(prompting or {}), QuirkSettings.model_validate(quirks or {})
        processor = copy(adapter.processor)
        if max_pixels is not None:
            processor.image_processor = deepcopy(processor.image_processor)
            processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": max_pixels}
        again = type(adapter)(adapter.model, processor, replace(adapter.identity, prompting=asked.digest, quirks=odd.digest))
        again.cache.prompting = asked
        again.cache.answers = AnswerSettings.model_validate(answers or {})
        again.take_quirks(odd)
        again.cache.check()
        return again

    return load


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    """Weights with transformers' usual spread. A matrix repeats itself after ``_ROWS`` rows: to draw a billion numbers, and that several
    times as transformers does, takes longer than the stages.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                rows = parameter.flatten(1)
                drawn = torch.randn(min(_ROWS, len(rows)), rows.shape[1], dtype=rows.dtype, device=rows.device) * _SPREAD
                for start in range(0, len(rows), _ROWS):
                    rows[start : start + _ROWS] = drawn[: len(rows) - start]
            elif name == "bias":
                parameter.zero_()
            elif isinstance(module, nn.LayerNorm):
                parameter.fill_(1)


def _processor(family: str, tokenizer: Path | None, words: Sequence[str]) -> Any:
    with TemporaryDirectory() as scratch:
        folder = new_checkpoint(Path(scratch) / family, family, words)
        if tokenizer is not None:
            (folder / "chat_template.jinja").unlink()
            write_processor(folder, family, tokenizer)
        processor = family_named(family).load_processor(str(folder))
        processor.chat_template = chat_template(folder)
    return processor


def _qwen2_vl(processor: Any, layers: int, vision_layers: int, *, small: bool) -> PreTrainedConfig:
    """Of Qwen2-VL-2B if ``small``, else of 7B."""
    tokenizer = processor.tokenizer
    processor.image_processor.patch_size = 14
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 12_845_056}
    vocabulary, width, inner, heads, groups = (151_936, 1536, 8960, 12, 2) if small else (152_064, 3584, 18_944, 28, 4)
    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": vision_layers,
            "embed_dim": 1280,
            "hidden_size": width,
            "mlp_ratio": 4,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=small,
    )


def _gemma3_4b(processor: Any, layers: int, vision_layers: int, side: int) -> PreTrainedConfig:
    tokenizer = processor.tokenizer
    processor.image_processor.size = {"height": side, "width": side}
    processor.image_seq_length = 256
    begin, each, end = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
    processor.full_image_sequence = f"\n\n{begin}{each * 256}{end}\n\n"
    return Gemma3Config(
        text_config={
            "model_type": "gemma3_text",
            "vocab_size": 262_208,
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 1024,
            "max_position_embeddings": 131_072,
            "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(layers)],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            },
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 16,
            "image_size": side,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=256,
        boi_token_index=tokenizer.convert_tokens_to_ids(begin),
        eoi_token_index=tokenizer.convert_tokens_to_ids(end),
        image_token_index=tokenizer.convert_tokens_to_ids(each),
    )
