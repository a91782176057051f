"""Labels in any script on a picture, with the fonts that there are."""

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Fonts that hold many scripts, as systems name them; the first that has every letter of a label is used.
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "PingFang.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "unifont.otf",
    "unifont.ttf",
)


def label(text: str, size: int) -> tuple[str, Font]:
    """What to write for ``text``, and the font that can: letters that no font here has are written as U+ and their number."""
    for font in _fonts(size):
        if _has(font, text):
            return text, font
    written = "".join(letter if any(_has(font, letter) for font in _fonts(size)) else f"[U+{ord(letter):04X}]" for letter in text)
    return next(((written, font) for font in _fonts(size) if _has(font, written)), (_numbered(text), ImageFont.load_default(size)))


def _numbered(text: str) -> str:
    return "".join(letter if letter.isascii() else f"[U+{ord(letter):04X}]" for letter in text)


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    found: list[Font] = [ImageFont.load_default(size)]
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            # Not on this machine.
            continue
    return tuple(found)


@cache
def _has(font: Font, text: str) -> bool:
    """Whether each letter has a drawing of its own, not the box that stands for a missing one."""
    missing = _drawn(font, "\uffff")
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in text)


@cache
def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
