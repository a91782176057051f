"""Zarr v3 shard files, written chunk by chunk and read row by row.

The format is zarr's own ``sharding_indexed`` codec (inner chunks, then their index, then its CRC-32C); zarr-python,
xarray, tensorstore and zarrita read the files. It is done here because zarr-python rewrites a whole shard for every
partial write, so memory would grow with the shard, and reads scattered rows at a hundredth of the disk's speed.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import google_crc32c
import numpy as np
from jaxtyping import Float, Int
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from vlm_spatial.errors import UserError

_COMPRESSOR: Literal["lz4"] = "lz4"
_LEVEL: Literal[5] = 5
_ABSENT = np.iinfo(np.uint64).max
_INDEX = np.dtype("<u8")
_CRC_BYTES = 4


def codecs() -> dict[str, Any]:
    """What ``zarr.create_array`` must be told so that its metadata describes these files."""
    return {
        "serializer": BytesCodec(endian="little"),
        "compressors": [BloscCodec(cname=_COMPRESSOR, clevel=_LEVEL, shuffle="shuffle"), Crc32cCodec()],
    }


@dataclass(frozen=True)
class FileRecord:
    """Size and hex SHA-256 of a finished file, as the journal of an interrupted run keeps them."""

    bytes: int
    sha256: str


class ShardWriter:
    """Writes one shard of a ``(scene, token, feature)`` array; holds no more than one inner chunk.

    Args:
        path: the file to make; its folder is made too.
        chunk_shape: ``(scenes, tokens, features)`` of an inner chunk.
        chunks: inner chunks a whole shard has; a last shard may stay shorter.
    """

    def __init__(self, path: Path, chunk_shape: tuple[int, int, int], chunks: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._index = np.full((chunks, 2), _ABSENT, dtype=_INDEX)
        self._written = 0
        self.scenes = 0
        """Scenes added so far."""
        self._pending = np.zeros(chunk_shape, dtype="<f4")
        self._filled = 0

    def append(self, values: Float[np.ndarray, "scene token feature"]) -> None:
        """Add scenes in order."""
        self.scenes += len(values)
        start = 0
        while start < len(values):
            taken = min(len(self._pending) - self._filled, len(values) - start)
            if taken == len(self._pending):
                self._chunk(np.ascontiguousarray(values[start : start + taken], dtype="<f4"))
            else:
                self._pending[self._filled : self._filled + taken] = values[start : start + taken]
                self._filled += taken
                if self._filled == len(self._pending):
                    self._flush()
            start += taken

    def close(self) -> FileRecord:
        """Write what is pending and the index; the file is whole from now on."""
        if self._filled:
            self._flush()
        index = self._index.tobytes()
        self._write(index + google_crc32c.value(index).to_bytes(_CRC_BYTES, "little"))
        self._file.close()
        return FileRecord(self._bytes, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close the file as it is: not a readable shard."""
        self._file.close()

    def _flush(self) -> None:
        # The rest of an edge chunk is zarr's fill value.
        self._pending[self._filled :] = 0
        self._filled = 0
        self._chunk(self._pending)

    def _chunk(self, chunk: np.ndarray) -> None:
        packed = blosc.compress(chunk, _COMPRESSOR.encode(), _LEVEL, blosc.SHUFFLE)
        packed += google_crc32c.value(packed).to_bytes(_CRC_BYTES, "little")
        self._index[self._written] = self._bytes, len(packed)
        self._written += 1
        self._write(packed)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)


def read_rows(
    path: Path,
    rows: Int[np.ndarray, " rows"] | Sequence[int],
    chunk_shape: tuple[int, int, int],
    chunks: int,
    out: Float[np.ndarray, "rows token feature"],
    readers: int = 1,
) -> None:
    """Read scenes ``rows`` of a shard into ``out``, checking the CRC-32C of the index and of every chunk touched.

    Args:
        readers: threads; reading, checksums and decompression all release the interpreter's lock.

    Raises:
        UserError: naming the file, if it cannot be read, is too short, or a checksum does not fit.
    """
    rows = np.asarray(rows)
    of_chunk, within = np.divmod(rows, chunk_shape[0])
    touched = np.unique(of_chunk)
    try:
        with path.open("rb") as stream:
            index = _read_index(stream, path, chunks)

            def read_chunk(chunk: int) -> None:
                chosen = np.flatnonzero(of_chunk == chunk)
                decoded = _read_chunk(stream, path, index[chunk], chunk_shape)
                scenes = within[chosen]
                if _in_a_row(chosen) and _in_a_row(scenes):
                    # The usual case, without the copy that picking single rows makes.
                    out[chosen[0] : chosen[-1] + 1] = decoded[scenes[0] : scenes[-1] + 1]
                else:
                    out[chosen] = decoded[scenes]

            if readers == 1 or len(touched) == 1:
                for chunk in touched:
                    read_chunk(chunk)
            else:
                with ThreadPoolExecutor(readers) as pool:
                    list(pool.map(read_chunk, touched))
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error


def _in_a_row(numbers: Int[np.ndarray, " numbers"]) -> bool:
    return bool((np.diff(numbers) == 1).all())


def _read_index(stream: BinaryIO, path: Path, chunks: int) -> np.ndarray:
    size = chunks * 2 * _INDEX.itemsize
    end = stream.seek(0, 2)
    if end < size + _CRC_BYTES:
        raise damaged(path, f"only {end} bytes, shorter than its index")
    stream.seek(end - size - _CRC_BYTES)
    return np.frombuffer(_checked(stream.read(), path, "index"), dtype=_INDEX).reshape(chunks, 2)


def _read_chunk(stream: BinaryIO, path: Path, entry: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    offset, size = int(entry[0]), int(entry[1])
    if offset == _ABSENT:
        raise damaged(path, "a chunk is absent")
    # Threads share the file, so none may move its position.
    packed = _checked(os.pread(stream.fileno(), size, offset), path, "chunk")
    return np.frombuffer(blosc.decompress(packed), dtype="<f4").reshape(shape)


def _checked(data: bytes, path: Path, part: str) -> memoryview:
    body, crc = memoryview(data)[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if google_crc32c.value(bytes(body)) != int.from_bytes(crc, "little"):
        raise damaged(path, f"the checksum of its {part} does not fit")
    return body


def damaged(path: Path, reason: str) -> UserError:
    """What to tell the user about a file of a store that is not as it was written."""
    store = next((p for p in path.parents if p.suffix == ".zarr"), path.parent)
    return UserError(f"{path}: damaged ({reason}); delete {store} and run snakemake again")
