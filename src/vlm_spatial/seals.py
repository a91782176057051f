"""Seals: beside every result, what made it and the checksum of every byte.

``behaviour.parquet`` has ``.behaviour.parquet.seal``, ``activations.zarr`` has ``.activations.zarr.seal``. A seal travels with
the results, so they can be checked wherever they are copied, with or without Snakemake's own records.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vlm_spatial.errors import UserError
from vlm_spatial.files import sha256, written_then_renamed

# Snakemake marks finished directory outputs with this; it is no part of the result.
_IGNORED = ".snakemake_timestamp"


class Record(BaseModel):
    """One file of a result."""

    size: int
    mtime_ns: int
    sha256: str


class Seal(BaseModel):
    """What made a result, and what it holds; ``files`` is by path below a folder, or ``""`` for a single file."""

    stage: str
    settings: dict[str, Any]
    modules: dict[str, str]
    packages: dict[str, str]
    content: dict[str, str]
    files: dict[str, Record]


def seal_path(result: Path) -> Path:
    """Where the seal of ``result`` lies."""
    return result.with_name(f".{result.name}.seal")


def read_seal(result: Path) -> Seal | None:
    """The seal of ``result``; ``None`` if there is none that can be read."""
    try:
        return Seal.model_validate_json(seal_path(result).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def break_seals(results: Iterable[Path]) -> None:
    """Remove the seals of results that are about to be made anew."""
    for result in results:
        seal_path(result).unlink(missing_ok=True)


def write_seal(
    result: Path, *, stage: str, settings: dict[str, Any], modules: dict[str, str], packages: dict[str, str], content: dict[str, str]
) -> None:
    """Seal a finished result.

    Raises:
        UserError: if the stage did not make it.
    """
    if not result.exists():
        raise UserError(f"{result}: stage {stage} ended without making it")
    files = {name: _record(path) for name, path in _files(result)}
    _write(result, Seal(stage=stage, settings=settings, modules=modules, packages=packages, content=content, files=files))


def _write(result: Path, seal: Seal) -> None:
    with written_then_renamed(seal_path(result)) as temporary:
        temporary.write_text(json.dumps(seal.model_dump(), sort_keys=True))


def _files(result: Path) -> Iterator[tuple[str, Path]]:
    if result.is_file():
        yield "", result
        return
    for folder, _, names in os.walk(result):
        for name in names:
            if name != _IGNORED:
                path = Path(folder, name)
                yield path.relative_to(result).as_posix(), path


def _record(path: Path) -> Record:
    stat = path.stat()
    return Record(size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256(path))


def damage(result: Path, *, thorough: bool) -> str | None:
    """What is wrong with a sealed result, in words; ``None`` if nothing is.

    Quick, it reads only files whose size or time changed (and then renews the times in the seal); ``thorough``, every byte.
    """
    seal = read_seal(result)
    if seal is None:
        return f"{result} has no seal, so nothing says what made it"
    renewed = {}
    for name, record in seal.files.items():
        path = result / name if name else result
        try:
            stat = path.stat()
            changed = (stat.st_size, stat.st_mtime_ns) != (record.size, record.mtime_ns)
            if (changed or thorough) and (stat.st_size != record.size or sha256(path) != record.sha256):
                return f"{path} was altered after it was made"
        except FileNotFoundError:
            return f"{path} is missing"
        if changed:
            renewed[name] = record.model_copy(update={"mtime_ns": stat.st_mtime_ns})
    if renewed:
        # Only a saving of time: results that cannot be written are checked in full each time.
        with contextlib.suppress(OSError):
            _write(result, seal.model_copy(update={"files": seal.files | renewed}))
    return None


def verify(result: Path) -> None:
    """Check every byte of a result that has a seal, before it is used.

    Activation stores are left to their reader, which checks each chunk against the manifest when it reads it.

    Raises:
        UserError: naming the file that is missing or altered.
    """
    if not seal_path(result).exists():
        return
    found = damage(result, thorough=result.suffix != ".zarr")
    if found is not None:
        raise UserError(f"{found}; run snakemake again, it makes it anew")
