"""Provenance: beside every result a record of what made it and of the checksum of every byte.

``behaviour.parquet`` has ``.behaviour.parquet.provenance.json``, ``activations.zarr`` has ``.activations.zarr.provenance.json``. The
record goes where the result goes: it can be checked wherever it is copied, with or without Snakemake's own records.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vlm_spatial.errors import UserError
from vlm_spatial.files import file_state, sha256, written_then_renamed

SNAKEMAKES_MARK = ".snakemake_timestamp"
"""Snakemake marks finished folders with a file of this name; it is no part of the result."""


class FileRecord(BaseModel):
    """One file of a result: what it was when it was made. ``state`` is that of :func:`vlm_spatial.files.file_state`, size first."""

    state: tuple[int, int, int, int]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.state[0]


class MadeBy(BaseModel):
    """What made a result; ``modules``, ``packages`` and ``content`` are those of :mod:`vlm_spatial.workflow.code_identity`.

    ``inputs`` has the digest of each input that has a record, by its path. ``version`` is the release, for people: whether a result
    is what the code would make, ``modules`` say.
    """

    stage: str
    version: str = ""
    settings: dict[str, Any] = {}
    modules: dict[str, str] = {}
    packages: dict[str, str] = {}
    content: dict[str, str] = {}
    inputs: dict[str, str] = {}


class Provenance(MadeBy):
    """The record of ``result``, a path as the job was given it; ``files`` is by path below a folder, or ``""`` for a single file."""

    result: str
    files: dict[str, FileRecord]

    @property
    def digest(self) -> str:
        """One short hash over the names and bytes of all files."""
        text = "".join(f"{name}\0{self.files[name].sha256}\n" for name in sorted(self.files))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_path(result: Path) -> Path:
    """Where the record of ``result`` lies."""
    return result.with_name(f".{result.name}.provenance.json")


def read_record(result: Path) -> Provenance | None:
    """The record of ``result``; ``None`` if there is none that can be read."""
    try:
        return Provenance.model_validate_json(record_path(result).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def why_no_record(result: Path) -> str:
    """Where :func:`read_record` gives nothing: the reason, in words."""
    path = record_path(result)
    if path.exists():
        return f"{path.name} is damaged or of another version"
    if is_of_older_layout(result):
        return "of an older layout, whose records were seals"
    return f"no {path.name}: not finished, or its record was deleted"


def is_of_older_layout(result: Path) -> bool:
    """Whether ``result`` was made before there were provenance records: it has a seal and no record."""
    return not record_path(result).exists() and result.with_name(f".{result.name}.seal").exists()


def remove_records(results: Iterable[Path]) -> None:
    """Remove the records of results that are about to be made anew: without a record nothing counts."""
    for result in results:
        record_path(result).unlink(missing_ok=True)


def write_record(result: Path, made_by: MadeBy, *, at: Path | None = None, checksums: Mapping[str, str] | None = None) -> None:
    """Record a finished result.

    Args:
        at: where the result still lies, if it is about to be renamed to ``result``.
        checksums: SHA-256 of files, by path below the folder, that need not be read again.

    Raises:
        UserError: if the stage did not make it.
    """
    folder = at or result
    if not folder.exists():
        raise UserError(f"{result}: stage {made_by.stage} ended without making it")
    known = checksums or {}
    files = {name: FileRecord(state=file_state(path), sha256=known.get(name) or sha256(path)) for name, path in files_of(folder)}
    _write(result, Provenance(**made_by.model_dump(), result=result.as_posix(), files=files))


def files_of(result: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every file of a result."""
    if result.is_file():
        yield "", result
        return
    for path in sorted(result.rglob("*")):
        if path.name != SNAKEMAKES_MARK and path.is_file():
            yield path.relative_to(result).as_posix(), path


def _write(result: Path, record: Provenance) -> None:
    with written_then_renamed(record_path(result)) as temporary:
        temporary.write_text(json.dumps(record.model_dump(), sort_keys=True), encoding="utf-8")


def damage(result: Path, names: Iterable[str] | None = None) -> str | None:
    """What is wrong with a result, in words; ``None`` if nothing is.

    It reads the files whose size, times or inode changed since they were recorded (the change time cannot be set back, so new bytes
    under an old modification time are seen), and all that are named.

    Args:
        names: files to read in any case; by default none.
    """
    record = read_record(result)
    if record is None:
        return f"{result}: {why_no_record(result)}"
    if not record.files:
        return f"{record_path(result)} names no file"
    to_read, renewed = set(names or ()), {}
    for name, known in record.files.items():
        path = result / name if name else result
        try:
            state = file_state(path)
            if state[0] != known.size or ((name in to_read or state != known.state) and sha256(path) != known.sha256):
                return f"{path} was altered after it was made"
        except FileNotFoundError:
            return f"{path} is missing"
        except (IsADirectoryError, NotADirectoryError):
            return f"{path} is not the file that was made"
        if state != known.state:
            renewed[name] = known
    if renewed:
        # Only a saving of time: results that cannot be written are read in full each time.
        with contextlib.suppress(OSError):
            _write(result, record.model_copy(update={"files": record.files | _with_their_times(result, record, renewed)}))
    return None


def _with_their_times(result: Path, record: Provenance, files: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    """Give files whose bytes are those recorded the modification times that they were made with; returns what to record of them.

    Snakemake takes an input that is newer than an output for changed, whatever the triggers in the profile, unless it has a checksum:
    it has none of folders and of large files. So a copy or a `touch` must not be what decides.
    """
    for name, known in files.items():
        _set_time(result / name if name else result, known.state[1])
    if result.is_dir():
        mark = result / SNAKEMAKES_MARK
        _set_time(mark if mark.exists() else result, max(known.state[1] for known in record.files.values()))
    return {name: known.model_copy(update={"state": file_state(result / name if name else result)}) for name, known in files.items()}


def _set_time(path: Path, mtime_ns: int) -> None:
    if path.stat().st_mtime_ns != mtime_ns:
        os.utime(path, ns=(mtime_ns, mtime_ns))


def verified_digest(result: Path) -> str | None:
    """Digest of a result after a check of every byte, made before it is used; ``None`` for a file without a record.

    The large parts are left to their readers, which check what they read: activation stores (each chunk by its CRC-32C) and scenes'
    images (each file by the record). Of these, files whose size, times or inode changed are read here all the same.

    Raises:
        UserError: naming the file that is missing or altered.
    """
    if not record_path(result).exists():
        return None
    record = read_record(result)
    read_here = () if record is None or result.suffix == ".zarr" else [name for name in record.files if not name.startswith("images/")]
    found = damage(result, read_here)
    if found is not None:
        raise UserError(f"{found}; run snakemake again, it makes it anew")
    return None if record is None else record.digest
