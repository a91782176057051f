"""The manifest beside a store: what it holds, what made it, and the checksum of every file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_spatial.activations.shards import FileRecord, damaged
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json, sha256, write_json


class Manifest(BaseModel):
    """``activations.json``.

    Attributes:
        identity: hash of everything that decides the values; two stores of one identity hold the same arrays.
        shape, rows: of every site: its shape, and what its middle dimension counts (token, patch or region).
        dtype: of the stored values; ``model["dtype"]`` is what the model computed in.
        grid: ``{"rows": …, "cols": …}`` of the visual tokens.
        patches: vision patches a visual token.
        chunks: every file of the store by its path inside: bytes and SHA-256.
        model, processor, code, config: what made the values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    identity: str
    sites: tuple[str, ...]
    shape: dict[str, tuple[int, int, int]]
    rows: dict[str, Literal["token", "patch", "region"]]
    dtype: Literal["float32"]
    pooling: Literal["none", "cell", "token_set"]
    grid: dict[str, int]
    patches: int
    model: dict[str, Any]
    processor: dict[str, Any]
    code: str
    config: dict[str, Any]
    chunks: dict[str, FileRecord]

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(self.model_dump(mode="json"), path)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            UserError: if it is missing (then the store beside it is not whole), or not a manifest.
        """
        if not path.exists():
            raise UserError(f"{path}: no such manifest; a store without one is not whole: run snakemake to make it")
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path}: {key}: {first['msg']}; delete it and run snakemake again") from error

    def check_file(self, store: Path, name: str, *, content: bool) -> None:
        """Compare one file with its record: its size, and its SHA-256 if ``content``.

        Raises:
            UserError: naming the file.
        """
        path = store / name
        record = self.chunks[name]
        if not path.is_file():
            raise damaged(path, "missing")
        size = path.stat().st_size
        if size != record.bytes:
            raise damaged(path, f"{size} bytes, written were {record.bytes}")
        if content and sha256(path) != record.sha256:
            raise damaged(path, "SHA-256 differs from the manifest's")


def default_manifest_path(store: Path) -> Path:
    """``activations.zarr`` → ``activations.json``."""
    return store.with_suffix(".json")


def content_identity(parts: Mapping[str, Any]) -> str:
    """Hex SHA-256 over plain builtins, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def file_records(store: Path) -> dict[str, FileRecord]:
    """Records of every file of a store."""
    files = sorted(p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): FileRecord(p.stat().st_size, sha256(p)) for p in files}


def as_plain(records: Mapping[str, FileRecord]) -> dict[str, dict[str, Any]]:
    """Records as JSON holds them."""
    return {name: asdict(record) for name, record in records.items()}
