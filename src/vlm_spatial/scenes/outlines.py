"""The named shapes, as masks that fill their box."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

# Masks are drawn this much larger and reduced, which is what smooths their edges.
_OVERSAMPLING = 4


def _regular(corners: int, turn: float, inner: float | None = None) -> np.ndarray:
    count = corners if inner is None else 2 * corners
    angles = turn + np.arange(count) * 2 * np.pi / count
    radii = np.ones(count) if inner is None else np.where(np.arange(count) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return np.stack([16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], axis=1)


def _moon() -> np.ndarray:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 60)
    inner = np.linspace(1.75 * np.pi, 0.25 * np.pi, 60)
    # The inner arc passes through the tips of the outer one.
    centre, radius = 0.9, np.hypot(np.cos(np.pi / 4) - 0.9, np.sin(np.pi / 4))
    tips = np.arctan2(np.sin(np.pi / 4), np.cos(np.pi / 4) - centre)
    sweep = np.interp(inner, [0.25 * np.pi, 1.75 * np.pi], [tips, 2 * np.pi - tips])
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([centre + radius * np.cos(sweep), radius * np.sin(sweep)], axis=1),
        ]
    )


_UP = -np.pi / 2
_OUTLINES: dict[str, np.ndarray] = {
    "circle": _regular(90, 0),
    "square": np.array([(0, 0), (1, 0), (1, 1), (0, 1)]),
    "triangle": _regular(3, _UP),
    "star": _regular(5, _UP, 0.42),
    "heart": _heart(),
    "diamond": _regular(4, _UP),
    "cross": np.array([(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)]),
    "moon": _moon(),
    "arrow": np.array([(1.5, 0), (3, 1.6), (2.1, 1.6), (2.1, 3), (0.9, 3), (0.9, 1.6), (0, 1.6)]),
    "ring": _regular(90, 0),
}
# Six shapes as published, in tiles of side 1. A tile is a slot's whole block; the shapes leave some of it free.
_STAR = _regular(5, _UP, 0.382)


def _stretched(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / (high - low)


TILES: dict[str, np.ndarray] = {
    "square": np.array([(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)]),
    "circle": 0.5 + 0.45 * _regular(90, 0),
    "triangle": np.array([(0.5, 0), (1, np.sqrt(3) / 2), (0, np.sqrt(3) / 2)]),
    "star": _stretched(_STAR),
    "cross": _OUTLINES["cross"] / 3,
    "heart": _stretched(_heart()),
}
"""In the order of the colours that they are paired with."""
SHAPES: tuple[str, ...] = tuple(_OUTLINES)


@lru_cache(maxsize=64)
def tile(shape: str, side: int) -> Image.Image:
    """A shape of ``TILES`` as an ``L`` mask of ``side × side`` pixels, not smoothed."""
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in TILES[shape] * (side - 1)], fill=255)
    return mask


@lru_cache(maxsize=4096)
def shape_mask(shape: str, width: int, height: int) -> Image.Image:
    """The shape as an ``L`` mask of ``width × height`` pixels that touches all four sides."""
    points = _OUTLINES[shape]
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.array([width, height]) * _OVERSAMPLING
    outline = (points - low) / (high - low) * (size - 1)
    mask = Image.new("L", (int(size[0]), int(size[1])))
    draw = ImageDraw.Draw(mask)
    draw.polygon([(float(x), float(y)) for x, y in outline], fill=255)
    if shape == "ring":
        hole = [0.26 * (size[0] - 1), 0.26 * (size[1] - 1), 0.74 * (size[0] - 1), 0.74 * (size[1] - 1)]
        draw.ellipse([float(edge) for edge in hole], fill=0)
    return mask.reduce(_OVERSAMPLING)
