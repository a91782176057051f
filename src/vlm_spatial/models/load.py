"""A checkpoint folder or hub id to a verified adapter: safetensors only, no remote code, every failure one clear line."""

import logging
import re
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

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter, ModelIdentity
from vlm_spatial.models.families import family_of
from vlm_spatial.models.folder import architecture_of
from vlm_spatial.models.weights import weights_identity

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def load_adapter(
    checkpoint: str | Path, *, revision: str | None = None, dtype: str = "float32", device: str = "auto", device_map: str | None = None
) -> Adapter:
    """Load a checkpoint and verify that it is built as its family's adapter expects.

    Args:
        checkpoint: a folder as ``save_pretrained`` writes it, or a hub id.
        revision: commit of a hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.
        device_map: ``auto`` spreads the model over all devices; needs the package accelerate.

    Raises:
        UserError: for anything that keeps the checkpoint from being loaded whole: the folder, the hub, the
            architecture, the weights, the device or its memory.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r}: allowed are {', '.join(_DTYPES)}")
    target = _device(device)
    folder = checkpoint_folder(str(checkpoint), revision)
    family = family_of(architecture_of(folder))
    identity = ModelIdentity(str(checkpoint), revision, family.architecture, weights_identity(folder), dtype)
    model = _model(family, folder, _DTYPES[dtype], target, device_map)
    return family(model, _processor(family, folder), identity)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {name!r}: allowed are auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': this machine has none that torch can use; set device to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


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


def _model(family: type[Adapter], folder: Path, dtype: torch.dtype, device: torch.device, device_map: str | None) -> Any:
    placed = {"device_map": device_map} if device_map else {}
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
            attn_implementation=family.attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **placed,
        )
        if not device_map:
            model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(folder, device) from error
    except ImportError as error:
        raise UserError(f"{folder}: cannot be loaded ({_first_line(error)}); install the package named") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if "alloc" in str(error) and "memory" in str(error):
            raise _out_of_memory(folder, device) from error
        raise UserError(f"{folder}: cannot be loaded as {family.architecture} ({_first_line(error)})") from error
    finally:
        quiet.setLevel(level)
    # Left alone, weights that are missing or of another shape would be random numbers.
    missing = sorted(report["missing_keys"])
    other = sorted(f"{name} ({list(found)} instead of {list(wanted)})" for name, found, wanted in report["mismatched_keys"])
    for problem, names in (("lacks", missing), ("has other shapes for", other)):
        if names:
            raise UserError(f"{folder}: the weights file {problem} {len(names)} tensors that config.json calls for, such as {names[0]}")
    return model


def _processor(family: type[Adapter], folder: Path) -> Any:
    try:
        processor = family.load_processor(str(folder))
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"{folder}: no complete processor ({_first_line(error)}); save it beside the weights with save_pretrained"
        ) from error
    if not processor.chat_template:
        raise UserError(f"{folder}: the processor has no chat template; an instruction-tuned checkpoint is needed")
    return processor


def _out_of_memory(folder: Path, device: torch.device) -> UserError:
    return UserError(
        f"{folder}: does not fit into the memory of {device}; set dtype to bfloat16, device_map to auto, or use a larger machine"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
