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
"""Names that any vocabulary has as common words, far enough apart to be told by eye."""

PLAIN_BACKGROUNDS: dict[str, Colour] = {
    "paper": (246, 244, 240),
    "mist": (212, 220, 230),
    "stone": (172, 174, 176),
    "sand": (226, 214, 194),
    "sage": (192, 206, 188),
    "blush": (232, 214, 214),
}
