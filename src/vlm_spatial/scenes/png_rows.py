"""Flat images, of few distinct rows: read from their PNG files without making every pixel, which takes several times as long."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

# Of the PNG specification (W3C, third edition): 8 bits a channel, red green blue, not interlaced; filter type 2 is "up".
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_HEADER = struct.Struct(">IIBBBBB")
_PLAIN = (8, 2, 0, 0, 0)
_UP = 2
_DATA, _END = b"IDAT", b"\0\0\0\0IEND\xaeB`\x82"
_CRC_BYTES = 4
# Flat scenes take less than a hundredth of their pixels' bytes; where it is more than this share, not even a look is worth it.
_PACKED = 0.05
_KEY = "vlm_spatial: flat rows"


@dataclass(frozen=True)
class FlatRows:
    """The distinct rows of an image: row ``i`` of it is ``rows[place[i]]``; rows unlike the one above count as distinct."""

    rows: UInt8[np.ndarray, "distinct width 3"]
    place: Int[np.ndarray, " height"]


def know_rows(image: Image.Image, content: bytes) -> bool:
    """Whether an image is flat; :func:`flat_rows` then knows its rows before Pillow has decoded it.

    Args:
        image: opened from ``content``, and not loaded yet.
        content: a file's bytes, which the caller has compared with their checksum.
    """
    found = _read(content)
    if found is None:
        return False
    image.info[_KEY] = found
    return True


def flat_rows(image: Image.Image) -> FlatRows | None:
    """What :func:`know_rows` found; None once Pillow has decoded the image, as its pixels may have been painted over since."""
    undecoded: Any = getattr(image, "tile", None)
    return image.info.get(_KEY) if undecoded else None


def _read(content: bytes) -> FlatRows | None:
    """The rows of a flat image written as ``scenes.png`` does: one data chunk, every row filtered "up". None for any other file."""
    header, data = len(_START), len(_START) + _HEADER.size + _CRC_BYTES
    begin, end = data + len(_DATA) + 4, len(content) - len(_END) - _CRC_BYTES
    if not (content.startswith(_START) and content.endswith(_END) and content[data + 4 : begin] == _DATA):
        return None
    width, height, *kind = _HEADER.unpack_from(content, header)
    size = height * (1 + 3 * width)
    if tuple(kind) != _PLAIN or int.from_bytes(content[data : data + 4], "big") != end - begin or len(content) > _PACKED * size:
        return None
    try:
        filtered = np.frombuffer(zlib.decompress(content[begin:end], bufsize=size), dtype=np.uint8)
    except zlib.error:
        # Pillow will say what is wrong with it.
        return None
    if filtered.size != size or (filtered[:: 1 + 3 * width] != _UP).any():
        return None
    differences = filtered.reshape(height, -1)[:, 1:]
    new = np.ones(height, dtype=bool)
    new[1:] = differences[1:].any(axis=1)
    # Differences are modulo 256, as unsigned bytes are.
    rows = np.add.accumulate(differences[new], axis=0, dtype=np.uint8)
    return FlatRows(rows.reshape(-1, width, 3), new.cumsum() - 1)
