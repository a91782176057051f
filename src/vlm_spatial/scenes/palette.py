"""Colours of objects and backgrounds of rendered scenes."""

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 34, 40),
    "orange": (247, 132, 18),
    "yellow": (250, 218, 20),
    "green": (30, 140, 58),
    "cyan": (24, 200, 212),
    "blue": (32, 74, 210),
    "purple": (124, 44, 162),
    "pink": (250, 112, 178),
    "brown": (118, 68, 30),
    "black": (18, 18, 20),
}
"""``standard``: names that any vocabulary has as common words, far enough apart to be told by eye."""

_PURE: dict[str, Colour] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "brown": (150, 75, 0),
    "gray": (128, 128, 128),
}
PALETTES: dict[str, dict[str, Colour]] = {
    "standard": COLOURS,
    "pure": _PURE,
    "pure-orange": {"orange" if name == "brown" else name: (255, 165, 0) if name == "brown" else colour for name, colour in _PURE.items()},
}
"""``pure`` is published for Qwen2-VL and Gemma-3, ``pure-orange`` for Pixtral."""


def written(colour: Colour) -> str:
    """A colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


WHITE = "white"
"""The background that every kind of drawn scene can have."""

PLAIN_BACKGROUNDS: dict[str, Colour] = {
    "paper": (246, 244, 240),
    "mist": (212, 220, 230),
    "stone": (172, 174, 176),
    "sand": (226, 214, 194),
    "sage": (192, 206, 188),
    "blush": (232, 214, 214),
}
