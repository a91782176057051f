"""A checkpoint folder or hub id to a verified adapter: safetensors only, no remote code, every failure one clear line."""

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.errors import UserError, first_line
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.folder import chat_template, check_folder, family_in, quantisation
from vlm_spatial.models.on_device import device_named, set_up_cuda
from vlm_spatial.models.peft import check_peft, identity_with_peft, merge_peft
from vlm_spatial.models.self_check import self_check
from vlm_spatial.models.values import ModelIdentity
from vlm_spatial.tokens import TokenGrid

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tables that older releases saved and newer ones work out.
_BUFFERS = (".inv_freq", ".position_ids", ".masked_bias")
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def load_adapter(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | None = None,
    attn_implementation: str | None = None,
    peft: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    prompting: Mapping[str, Any] | PromptingSettings | None = None,
    quirks: Mapping[str, Any] | QuirkSettings | None = None,
    answers: Mapping[str, Any] | AnswerSettings | None = None,
) -> Adapter:
    """Load a checkpoint and verify that it is built as its family's adapter expects.

    Args:
        checkpoint: a folder as ``save_pretrained`` writes it, or a hub id.
        revision: commit of a hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.
        device_map: ``auto`` spreads the model over all devices; needs the package accelerate.
        attn_implementation: ``sdpa`` or ``eager``; the family's own by default.
        peft: folder of a LoRA adapter, which is merged into the weights and part of their identity.
        min_pixels, max_pixels: area that images of a family with native resolution are scaled to.
        prompting: what stands around the question.
        quirks: oddities of the published run.
        answers: in which forms answers count.

    Raises:
        UserError: for anything that keeps the checkpoint from being loaded whole: the folder, the hub, the
            architecture, the weights, the processor, the device or its memory.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r}: allowed are {', '.join(_DTYPES)}")
    asked = PromptingSettings.model_validate(prompting or {})
    odd = QuirkSettings.model_validate(quirks or {})
    target = device_named(device)
    folder = checkpoint_folder(str(checkpoint), revision)
    check_folder(folder, asked.chat_template, device)
    if peft is not None:
        check_peft(Path(peft))
        if quantisation(folder) is not None:
            raise UserError(f"{peft}: an adapter cannot be merged into quantised weights ({folder}); give the base model as it was before")
    family = family_named(family_in(folder))
    _check_config(family, folder)
    processor = _processor(family, folder)
    processor.chat_template = chat_template(folder, asked.chat_template)
    _set_pixels(processor, min_pixels, max_pixels, folder)
    attention = attn_implementation or family.attention
    model = _model(family, folder, _DTYPES[dtype], target, device_map, attention)
    if peft is not None:
        merge_peft(model, Path(peft))
    weights = identity_with_peft(folder, peft)
    identity = ModelIdentity(
        str(checkpoint), revision, family.architecture, weights, dtype, processor_identity(processor), asked.digest, attention, odd.digest
    )
    set_up_cuda()
    adapter = family(model, processor, identity)
    adapter.cache.prompting = asked
    adapter.cache.answers = AnswerSettings.model_validate(answers or {})
    adapter.take_quirks(odd)
    adapter.cache.check()
    self_check(adapter)
    return adapter


def grid_of_folder(folder: Path, side: int, min_pixels: int | None = None, max_pixels: int | None = None) -> TokenGrid:
    """Token grid that an image of ``side × side`` pixels has in a checkpoint; its weights are not read.

    Raises:
        UserError: if configuration or processor cannot be used.
    """
    return without_weights(folder, min_pixels, max_pixels).grid(side, side)


def without_weights(folder: Path, min_pixels: int | None = None, max_pixels: int | None = None) -> Adapter:
    """The model that a folder describes, without the values of its weights: what configuration and processor alone decide.

    Raises:
        UserError: if configuration or processor cannot be used.
    """
    family = family_named(family_in(folder))
    _check_config(family, folder)
    processor = _processor(family, folder)
    _set_pixels(processor, min_pixels, max_pixels, folder)
    try:
        with torch.device("meta"):
            model = family.model_class(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # model classes raise what they like for configurations that they cannot build
        raise UserError(f"{folder}: cannot be loaded as {family.architecture} ({first_line(error)})") from error
    identity = ModelIdentity(str(folder), None, family.architecture, "", "float32", processor_identity(processor), "", family.attention)
    return family(model, processor, identity)


def processor_identity(processor: Any) -> str:
    """The image processor in use (its class depends on what is installed) and a hash of its settings."""
    images = processor.image_processor
    return f"{type(images).__name__} {hashlib.sha256(images.to_json_string().encode()).hexdigest()[:16]}"


def _set_pixels(processor: Any, least: int | None, most: int | None, folder: Path) -> None:
    if least is None and most is None:
        return
    size = processor.image_processor.size
    known = dict(size) if not isinstance(size, dict) else size
    if not known.get("shortest_edge") or not known.get("longest_edge"):
        raise UserError(f"{folder}: min_pixels and max_pixels are for families with native resolution; this one scales images to {known}")
    chosen = {"shortest_edge": least or known["shortest_edge"], "longest_edge": most or known["longest_edge"]}
    if chosen["shortest_edge"] > chosen["longest_edge"]:
        raise UserError(f"{folder}: min_pixels {chosen['shortest_edge']} is more than max_pixels {chosen['longest_edge']}")
    processor.image_processor.size = chosen


def checkpoint_folder(checkpoint: str, revision: str | None) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded or found in the hub's cache.

    Raises:
        UserError: saying why it cannot be had, and what to do.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint) or checkpoint.startswith((".", "/")):
        raise UserError(f"checkpoint {checkpoint}: no such folder, and not a hub id such as Qwen/Qwen2-VL-7B-Instruct")
    try:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=list(_FILES)))
    except GatedRepoError as error:
        raise UserError(f"checkpoint {checkpoint}: gated; accept its licence on the hub and run `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"checkpoint {checkpoint}: revision {revision} not found; give the 40-digit commit of the hub's Files page"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"checkpoint {checkpoint}: no such folder, and no such public hub repository; check the name") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"checkpoint {checkpoint}: no such folder, and the hub cannot be reached ({type(error).__name__}); "
            "download it elsewhere and give the folder's path"
        ) from error


def _check_config(family: type[Adapter], folder: Path) -> None:
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # every model's configuration checks itself in its own way
        raise UserError(f"{folder / 'config.json'}: is no configuration of {family.architecture} ({first_line(error)})") from error


def _model(family: type[Adapter], folder: Path, dtype: torch.dtype, device: torch.device, device_map: str | None, attention: str) -> Any:
    # Quantised weights are put where they belong as they are read; most kinds cannot be moved later.
    placed = {"device_map": device_map or {"": str(device)}} if device_map or quantisation(folder) else {}
    # transformers reports what it could not match as a warning; here that is an error, raised below.
    quiet = logging.getLogger("transformers")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        model, report = family.model_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **placed,
        )
        if not placed:
            model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(folder, device) from error
    except ImportError as error:
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); install the package named") from error
    except Exception as error:  # so do its model classes, for configurations that they cannot build
        if "alloc" in str(error) and "memory" in str(error):
            raise _out_of_memory(folder, device) from error
        raise UserError(f"{folder}: cannot be loaded as {family.architecture} ({first_line(error)})") from error
    finally:
        quiet.setLevel(level)
    # Left alone, weights that are missing or of another shape would be random numbers.
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not name.endswith(_BUFFERS))
    other = sorted(f"{name} ({list(found)} instead of {list(wanted)})" for name, found, wanted in report["mismatched_keys"])
    for problem, names in (("lacks", missing), ("has other shapes for", other)):
        if names:
            raise UserError(f"{folder}: the weights file {problem} {len(names)} tensors that config.json calls for, such as {names[0]}")
    if unexpected:
        raise UserError(
            f"{folder}: the weights file holds {len(unexpected)} tensors that {family.architecture} has no place for, such as "
            f"{unexpected[0]}; config.json and weights are not of one model"
        )
    return model


def _processor(family: type[Adapter], folder: Path) -> Any:
    try:
        processor = family.load_processor(str(folder))
    except Exception as error:  # transformers and its tokenizers raise what they like, plain Exception among it
        raise UserError(
            f"{folder}: no complete processor ({first_line(error)}); save it beside the weights with save_pretrained"
        ) from error
    return processor


def _out_of_memory(folder: Path, device: torch.device) -> UserError:
    return UserError(
        f"{folder}: does not fit into the memory of {device}; set dtype to bfloat16, device_map to auto, or use a larger machine"
    )
