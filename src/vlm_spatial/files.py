"""Writing so that a reader never sees half a file, and reading so that a damaged one is named."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from vlm_spatial.errors import UserError


@contextmanager
def written_then_renamed(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; rename it over ``target`` only if the block succeeds.

    Works for files and for folders. The temporary name carries the process id, so that two processes never write one file.
    What is renamed follows the umask, whatever wrote it (safetensors makes files that only their owner can read).
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    _remove(temporary)
    try:
        yield temporary
        _follow_umask(temporary)
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _follow_umask(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file() and (mode := file.stat().st_mode) & _ALLOWED != _ALLOWED:
            file.chmod(mode | _ALLOWED)


# There is no other way to ask; at import, while no thread makes files.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
_ALLOWED = 0o666 & ~_UMASK


def remove_leftovers(folder: Path, depth: int) -> None:
    """Remove what killed writers left behind in ``folder``, at most ``depth`` folders deep; only while nobody writes there."""
    for level in range(depth):
        for path in folder.glob("/".join(["*"] * level + [".*.partial"])):
            if re.fullmatch(r"\..+\.\d+\.partial", path.name):
                _remove(path)


def unwritable(error: BaseException) -> str | None:
    """The system's reason, in its words, why a file could not be written (disk full, read-only, quota); ``None`` for any other error."""
    cause: BaseException | None = error
    while cause is not None:
        # Libraries written in Rust say the number in words only.
        said = re.search(r"\(os error (\d+)\)", str(cause))
        number = cause.errno if isinstance(cause, OSError) and cause.errno else int(said[1]) if said else 0
        if number in _UNWRITABLE:
            where = getattr(cause, "filename", None)
            return f"{where}: {os.strerror(number)}" if where else os.strerror(number)
        cause = cause.__cause__ or cause.__context__
    return None


_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG})


def write_parquet(table: pl.DataFrame, target: Path) -> None:
    """Write ``table`` to ``target`` (zstd, with column statistics), whole or not at all."""
    with written_then_renamed(target) as temporary:
        table.write_parquet(temporary, compression="zstd", statistics=True)


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a table that an earlier stage wrote.

    Raises:
        UserError: if the file is missing or not a whole parquet file.
    """
    try:
        return pl.read_parquet(path, glob=False)
    except OSError as error:
        raise unreadable(path, error) from error
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: is not a whole parquet table ({reason}); delete it and run snakemake again") from error


def unreadable(path: Path, error: OSError) -> UserError:
    """For a file that an earlier stage wrote: why it cannot be opened, and what helps. It is not damaged, so nothing is to be deleted."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file; run snakemake to make it, or give the path of one that is there")
    if isinstance(error, PermissionError):
        return UserError(f"{path}: you may not read it; ask its owner for the right (chmod g+r)")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: is a folder; give the path of a file")
    return UserError(f"{path}: cannot be read ({error.strerror or error})")


def write_json(value: Any, target: Path) -> None:
    """Write ``value`` as sorted, indented JSON, whole or not at all."""
    with written_then_renamed(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, advice: str = "delete it and run snakemake again") -> Any:
    """Read a JSON file; by default one that an earlier stage wrote.

    Args:
        advice: what to do about a file that is not JSON.

    Raises:
        UserError: if the file is missing or not JSON, with the line of the fault.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise UserError(f"{path}: {json_fault(error)}; {advice}") from error


def json_fault(error: ValueError) -> str:
    """What is wrong with a text that should be JSON, and in which line."""
    if not isinstance(error, json.JSONDecodeError):
        return "is not JSON (not UTF-8 text)"
    if error.doc[: error.pos].rstrip().endswith(",") and error.doc[error.pos : error.pos + 1] in ("]", "}"):
        return f"line {error.lineno}: is not JSON (a comma before the closing bracket)"
    return f"line {error.lineno}: is not JSON ({error.msg}, column {error.colno})"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Size, modification time, change time (both ns) and inode: a file has changed if one of them has.

    The change time cannot be set back, so new bytes under an old modification time are seen; the inode tells files that were swapped.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
