"""Labels in any script on a picture, the same on every machine."""

from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LINE = 16
"""Height of a line in pixels: GNU Unifont's, which is drawn for it alone."""
# Has a drawing for every letter of Unicode's first plane, so of every script in use.
_UNIFONT = Path(__file__).parent / "fonts" / "unifont.woff"


def label(text: str, size: int) -> tuple[str, Font]:
    """What to write for ``text``, and the font that can: Pillow's own of ``size`` pixels, else GNU Unifont.

    What neither has, such as an emoji, is written as U+ and its number.
    """
    plain, every = ImageFont.load_default(size), _every_script()
    if _has(plain, text):
        return text, plain
    return "".join(letter if _has(every, letter) else f"[U+{ord(letter):04X}]" for letter in text), every


@cache
def _every_script() -> Font:
    return ImageFont.truetype(str(_UNIFONT), LINE)


def _has(font: Font, text: str) -> bool:
    """Whether each letter has a drawing of its own, not the box that stands for a missing one."""
    missing = _drawn(font, "\uffff")
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in text)


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
