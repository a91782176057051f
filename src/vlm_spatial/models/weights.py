"""Weight files of a checkpoint folder: are they whole, and which weights are they? Reads headers, needs no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json

_INDEX = "model.safetensors.index.json"
# Above this, reading every byte would take longer than the analysis of a few scenes.
_HASH_WHOLE_BELOW = 2 * 1024**3
_SAMPLE = 4096


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in name order: those of its index, or ``model.safetensors``.

    Raises:
        UserError: if there is none, or one that the index names is missing.
    """
    index = folder / _INDEX
    if index.is_file():
        contents = read_json(index, "download or save the checkpoint again")
        if not isinstance(contents, dict) or not isinstance(contents.get("weight_map"), dict):
            raise UserError(f"{index}: has no weight_map; save the checkpoint again with save_pretrained")
        names = sorted(set(contents["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return [folder / name for name in names]
    if not index.is_file() and any(folder.glob("*.bin")):
        raise UserError(f"{folder}: holds pickled weights (*.bin) only; save them as safetensors with model.save_pretrained")
    raise UserError(f"{folder / missing[0]}: missing weight file; download or save the checkpoint again")


def check_weights(folder: Path) -> None:
    """Refuse weight files that are missing, truncated or no safetensors; reads their headers only.

    Raises:
        UserError: naming the file.
    """
    for path in weight_files(folder):
        _header(path)


def weights_identity(folder: Path) -> str:
    """Hex SHA-256 of a checkpoint's weights, after checking that no file is truncated.

    Covers every tensor's name, type, shape and bytes; of weights over 2 GiB in all, each tensor's first and last
    4 KiB stand for its bytes. Does not depend on where the folder lies, nor on how tensors are spread over files.

    Raises:
        UserError: if a file is missing, truncated or no safetensors file.
    """
    files = weight_files(folder)
    whole = sum(path.stat().st_size for path in files) < _HASH_WHOLE_BELOW
    tensors = {}
    for path in files:
        start, header = _header(path)
        with path.open("rb") as stream:
            for name, entry in header.items():
                tensors[name] = _tensor_digest(stream, start, entry, whole)
    digest = hashlib.sha256(b"whole" if whole else b"sampled")
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name]}\n".encode())
    return digest.hexdigest()


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
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); download or save it again") from error
    if size != 8 + length + end:
        raise UserError(f"{path}: truncated, {size} bytes where its header promises {8 + length + end}; download or save it again")
    return 8 + length, header


def _tensor_digest(stream: Any, start: int, entry: dict[str, Any], whole: bool) -> str:
    first, last = (start + offset for offset in entry["data_offsets"])
    digest = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode())
    spans = [(first, last)] if whole else [(first, min(first + _SAMPLE, last)), (max(first, last - _SAMPLE), last)]
    for begin, end in spans:
        stream.seek(begin)
        while begin < end:
            block = stream.read(min(1 << 22, end - begin))
            digest.update(block)
            begin += len(block)
    return digest.hexdigest()
