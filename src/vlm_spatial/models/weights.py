"""Weight files of a checkpoint folder: are they whole, and which weights are they? Reads headers, needs no torch."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.workflow.file_cache import FileCache

SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
CACHE = Path(".cache/vlm_spatial/weights.json")
"""Where identities of weights are remembered, below the working folder; safe to delete."""
# Types that only quantised weights have; buffers such as position numbers are I64.
_QUANTISED = frozenset({"U8", "I8", "I16", "I32", "F8_E4M3", "F8_E5M2", "F4"})
_UNMERGED = ("lora_A", "lora_B", "lora_embedding", "lora_magnitude", ".base_layer.")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads, in name order: ``model.safetensors``, else those of the index.

    Raises:
        UserError: if there is none, or one that the index names is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / _INDEX
    names = [SINGLE]
    if index.is_file():
        contents = read_json(index, "download or save the checkpoint again")
        named = contents.get("weight_map") if isinstance(contents, dict) else None
        if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
            raise UserError(f"{index}: has no weight_map; save the checkpoint again with save_pretrained")
        names = sorted(set(named.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return [folder / name for name in names]
    if not index.is_file() and any(folder.glob("*.bin")):
        raise UserError(f"{folder}: holds pickled weights (*.bin) only; save them as safetensors with model.save_pretrained")
    raise UserError(f"{folder / missing[0]}: missing weight file; download or save the checkpoint again")


def check_weights(folder: Path, quantised: bool = False) -> None:
    """Refuse weight files that are missing, truncated, no safetensors or not merged; reads their headers only.

    Args:
        quantised: whether the configuration says so; without, quantised tensors are refused too.

    Raises:
        UserError: naming the file.
    """
    for path in weight_files(folder):
        for name, entry in _header(path)[1].items():
            if any(mark in name for mark in _UNMERGED):
                raise UserError(
                    f"{path}: holds a PEFT adapter that is not merged ({name}); save the model after merge_and_unload(), or give the "
                    "adapter's own folder as models.*.peft"
                )
            if not quantised and entry["dtype"] in _QUANTISED and len(entry["shape"]) > 1:
                raise UserError(
                    f"{path}: holds quantised weights ({name} is {entry['dtype']}), but config.json has no quantization_config that says "
                    "how; use the checkpoint in float32, bfloat16 or float16"
                )


def weights_identity(folder: Path, cache: Path | None = CACHE) -> str:
    """Hex SHA-256 of a checkpoint's weights, after checking that no file is truncated.

    Covers every tensor's name, type, shape and bytes. Does not depend on where the folder lies, nor on how tensors are spread over
    files. Worked out once, until a file changes.

    Args:
        cache: the file that remembers.

    Raises:
        UserError: if a file is missing, truncated or no safetensors file.
    """
    return tensors_identity(weight_files(folder), cache)


def tensors_identity(files: Iterable[Path], cache: Path | None = CACHE) -> str:
    """The same of some safetensors files."""
    paths = list(files)
    remembered = FileCache(cache)
    found: str = remembered.of("\n".join(str(path.absolute()) for path in paths), paths, lambda: _digest(paths))
    remembered.save()
    return found


def _digest(files: Iterable[Path]) -> str:
    tensors = {}
    for path in files:
        start, header = _header(path)
        with path.open("rb") as stream:
            for name, entry in header.items():
                tensors[name] = _tensor_digest(stream, start, entry)
    digest = hashlib.sha256(b"whole")
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name]}\n".encode())
    return digest.hexdigest()


def check_header(path: Path) -> None:
    """Refuse a file that is truncated or no safetensors file.

    Raises:
        UserError: naming it.
    """
    _header(path)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Offset of the first tensor byte and the tensor entries of one file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if not 2 <= length <= size - 8:
                raise ValueError(f"{size} bytes in all")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if any(not isinstance(entry["dtype"], str) or not isinstance(entry["shape"], list) for entry in header.values()):
                raise ValueError("a tensor without type or shape")
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); download or save it again") from error
    if size != 8 + length + end:
        raise UserError(f"{path}: truncated, {size} bytes where its header promises {8 + length + end}; download or save it again")
    if not header:
        raise UserError(f"{path}: holds no tensor; download or save it again")
    return 8 + length, header


def _tensor_digest(stream: Any, start: int, entry: dict[str, Any]) -> str:
    begin, end = (start + offset for offset in entry["data_offsets"])
    digest = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode())
    stream.seek(begin)
    while begin < end:
        block = stream.read(min(1 << 22, end - begin))
        digest.update(block)
        begin += len(block)
    return digest.hexdigest()
