"""Seals: beside every result, what made it and the checksum of every byte.

``behaviour.parquet`` has ``.behaviour.parquet.seal``, ``activations.zarr`` has ``.activations.zarr.seal``. A seal travels with
the results, so they can be checked wherever they are copied, with or without Snakemake's own records.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
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
    ctime_ns: int
    sha256: str


class MadeBy(BaseModel):
    """What made a result; ``modules``, ``packages`` and ``content`` are those of :mod:`vlm_spatial.workflow.code_identity`.

    ``inputs`` has the digest of each sealed input, by its path. ``version`` is the release, for people: whether a result is what
    the code would make, ``modules`` say. It is empty in seals from before it was noted.
    """

    stage: str
    version: str = ""
    settings: dict[str, Any]
    modules: dict[str, str]
    packages: dict[str, str]
    content: dict[str, str]
    inputs: dict[str, str]


class Seal(MadeBy):
    """What made a result, and what it holds; ``files`` is by path below a folder, or ``""`` for a single file."""

    files: dict[str, Record]

    @property
    def digest(self) -> str:
        """One short hash over the names and bytes of all files."""
        text = "".join(f"{name}\0{self.files[name].sha256}\n" for name in sorted(self.files))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def seal_path(result: Path) -> Path:
    """Where the seal of ``result`` lies."""
    return result.with_name(f".{result.name}.seal")


def read_seal(result: Path) -> Seal | None:
    """The seal of ``result``; ``None`` if there is none that can be read."""
    try:
        return Seal.model_validate_json(seal_path(result).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def why_no_seal(result: Path) -> str:
    """Where :func:`read_seal` gives nothing: the reason, in words."""
    path = seal_path(result)
    if not path.exists():
        return f"no {path.name}: not finished"
    return f"{path.name} is of another version" if is_of_another_version(result) else f"{path.name} is damaged"


def is_of_another_version(result: Path) -> bool:
    """Whether there is a seal that is whole, but not as this version writes them."""
    try:
        whole = isinstance(json.loads(seal_path(result).read_bytes()), dict)
    except (FileNotFoundError, ValueError):
        return False
    return whole and read_seal(result) is None


def break_seals(results: Iterable[Path]) -> None:
    """Remove the seals of results that are about to be made anew."""
    for result in results:
        seal_path(result).unlink(missing_ok=True)


def write_seal(result: Path, made_by: MadeBy) -> None:
    """Seal a finished result.

    Raises:
        UserError: if the stage did not make it.
    """
    if not result.exists():
        raise UserError(f"{result}: stage {made_by.stage} ended without making it")
    files = {name: _record(path) for name, path in _files(result)}
    _write(result, Seal(**made_by.model_dump(), files=files))


def _write(result: Path, seal: Seal) -> None:
    with written_then_renamed(seal_path(result)) as temporary:
        temporary.write_text(json.dumps(seal.model_dump(), sort_keys=True), encoding="utf-8")


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
    return Record(size=stat.st_size, mtime_ns=stat.st_mtime_ns, ctime_ns=stat.st_ctime_ns, sha256=sha256(path))


def damage(result: Path, *, thorough: bool) -> str | None:
    """What is wrong with a sealed result, in words; ``None`` if nothing is.

    Quick, it reads only files whose size or times changed; ``thorough``, every byte. New bytes under an old modification time are
    seen all the same: the change time cannot be set back. A whole file with a new modification time (touched, copied) gets back
    the time at which it was made, so that Snakemake's comparison of times says what it should.
    """
    return _damage(result, read_seal(result), lambda _: thorough)


def _damage(result: Path, seal: Seal | None, thorough: Callable[[str], bool]) -> str | None:
    if seal is None:
        return f"{result} has no seal, so nothing says what made it"
    renewed = {}
    for name, record in seal.files.items():
        path = result / name if name else result
        try:
            stat = path.stat()
            same_times = (stat.st_mtime_ns, stat.st_ctime_ns) == (record.mtime_ns, record.ctime_ns)
            if stat.st_size != record.size or ((thorough(name) or not same_times) and sha256(path) != record.sha256):
                return f"{path} was altered after it was made"
        except FileNotFoundError:
            return f"{path} is missing"
        if not same_times:
            renewed[name] = _with_time_given_back(path, record)
    if result.is_dir():
        made = max((record.mtime_ns for record in seal.files.values()), default=0)
        for path in (result / _IGNORED, result):
            if path.exists() and path.stat().st_mtime_ns != made:
                _set_time(path, made)
    if renewed:
        # Only a saving of time: results that cannot be written are read in full each time.
        with contextlib.suppress(OSError):
            _write(result, seal.model_copy(update={"files": seal.files | renewed}))
    return None


def _with_time_given_back(path: Path, record: Record) -> Record:
    _set_time(path, record.mtime_ns)
    stat = path.stat()
    return record.model_copy(update={"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns})


def _set_time(path: Path, mtime_ns: int) -> None:
    # Someone else's results keep their times; Snakemake may then make more anew than it has to.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(mtime_ns, mtime_ns))


def verified_digest(result: Path) -> str | None:
    """Digest of a sealed result after a check of every byte, made before it is used; ``None`` for a file without a seal.

    The large parts are left to their readers, which check what they read: activation stores (each chunk against the manifest) and
    scenes' images (each file against ``scenes.parquet``). Of these, files whose size or times changed are read here all the same.

    Raises:
        UserError: naming the file that is missing or altered.
    """
    if not seal_path(result).exists():
        return None
    seal = read_seal(result)
    found = _damage(result, seal, lambda name: result.suffix != ".zarr" and not name.startswith("images/"))
    if found is not None:
        raise UserError(f"{found}; run snakemake again, it makes it anew")
    return None if seal is None else seal.digest
