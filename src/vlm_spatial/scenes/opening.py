"""Pictures from outside, opened as they are meant to be looked at: upright, in eight bits, without what lies under transparency.

Cameras, scanners and editors write more than 8-bit RGB. What has one right reading is read so; the rest is refused with its reason.
"""

import struct
import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vlm_spatial.errors import UserError

# A photo has some 12 million pixels; beyond this a file is a mistake or an attack.
_MOST_PIXELS = 60_000_000
# How to turn the stored pixels, for each orientation that EXIF knows; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_UNREADABLE = (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
# Brands of the ISO container that Apple's cameras write.
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is to be looked at: a camera held upright notes that, and stores the pixels lying.

    Raises:
        UserError: naming the file if it cannot be read.
    """
    try:
        with Image.open(path) as file:
            return (file.height, file.width) if _orientation(file) in _SIDEWAYS else (file.width, file.height)
    except _UNREADABLE as error:
        raise UserError(f"{path}: {_why(path, error)}") from error


def open_upright(path: Path, at_least: tuple[int, int] | None = None, *, turned: bool = True) -> Image.Image:
    """A picture as RGB, upright, every pixel read; transparent parts are white.

    Args:
        at_least: a JPEG may be decoded at a fraction of its size that is no smaller than this, which is several times faster.
        turned: whether to turn it as its orientation tag says.

    Raises:
        UserError: naming the file if it is missing, unreadable, cut short, far too large, or has values without a known scale.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a decompression bomb up to twice its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                if file.width * file.height > _MOST_PIXELS:
                    raise UserError(f"{path}: {file.width}×{file.height} pixels are more than the {_MOST_PIXELS:,} allowed")
                if at_least is not None:
                    file.draft("RGB", at_least)
                turn = _TURNS.get(_orientation(file)) if turned else None
                file.load()
                image = _in_eight_bits(file, path)
    except _UNREADABLE as error:
        raise UserError(f"{path}: {_why(path, error)}") from error
    return image if turn is None else image.transpose(turn)


def _orientation(file: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it makes no sense."""
    if file.format == "TIFF":
        # Pillow turns these itself.
        return 1
    try:
        value = file.getexif().get(ExifTags.Base.Orientation, 1)
    except (*_UNREADABLE, struct.error, KeyError, TypeError, IndexError, OverflowError):
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _in_eight_bits(file: Image.Image, path: Path) -> Image.Image:
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        return _from_levels(np.asarray(file), path)
    if "A" in file.getbands() or "transparency" in file.info:
        # Under transparent pixels lie colours that no viewer shows.
        seen = file.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return file.convert("RGB")


def _from_levels(values: np.ndarray, path: Path) -> Image.Image:
    """Greyscale of more than eight bits, which Pillow would cut off at white."""
    low, high = float(values.min()), float(values.max())
    whole = np.issubdtype(values.dtype, np.integer)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535 or (not whole and high > 255):
        raise UserError(f"{path}: is greyscale with values from {low:g} to {high:g}, whose scale is unknown; save it with 8 bits a channel")
    full = 65535.0 if whole and (high > 255 or values.dtype == np.uint16) else 255.0 if whole or high > 1 else 1.0
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8)).convert("RGB")


def _why(path: Path, error: BaseException) -> str:
    try:
        with Path(path).open("rb") as file:
            head = file.read(12)
    except OSError:
        head = b""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        return "is a HEIC photo, which is not read; convert it to JPEG (the camera's setting 'most compatible', or heif-convert)"
    return f"is not a readable photo ({error})"


def find_file(root: Path, name: str) -> Path:
    """The file that ``name`` means below ``root``: as written, else with ``/`` for a backslash, in another case or Unicode form.

    A link is followed wherever it leads; what is written may not leave ``root``.

    Raises:
        UserError: with the reason if there is none, or several that differ only so.
    """
    folder, path = placed(root, name)
    if path.name not in _listed(folder) and "\\" in name:
        folder, path = placed(root, name.replace("\\", "/"))
    if path.name in _listed(folder):
        return folder / path.name
    found = _by_plain_name(_listed(folder)).get(_plain(path.name), ())
    if len(found) > 1:
        raise UserError(f"is not there, and {' and '.join(found)} differ from it in letters' case or Unicode form only")
    if not found:
        raise UserError("no such file")
    return folder / found[0]


def placed(root: Path, name: str) -> tuple[Path, PurePosixPath]:
    """The folder that a written name leads to, and the name in it.

    Raises:
        UserError: if it leaves ``root``.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError("lies outside the data set's folder")
    return Path(root, *path.parts[:-1]), path


def _listed(folder: Path) -> frozenset[str]:
    """Names in a folder: one of 100,000 images is listed once, not asked for each image."""
    return _names(folder, folder.stat().st_mtime_ns) if folder.is_dir() else frozenset()


@lru_cache(maxsize=64)
def _names(folder: Path, _: int) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


@lru_cache(maxsize=64)
def _by_plain_name(listed: frozenset[str]) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for name in sorted(listed):
        names[_plain(name)] = (*names.get(_plain(name), ()), name)
    return names


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
