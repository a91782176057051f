"""Textured backgrounds, made from noise: no photograph is copied, and every one is the same on every machine."""

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy.ndimage import gaussian_filter

from vlm_spatial.scenes.palette import Colour
from vlm_spatial.scenes.scene import CANVAS

# A sheet is larger than the canvas; each scene cuts its own piece.
SHEET = CANVAS + 192
Field = Float[np.ndarray, "sheet sheet"]


def _noise(generator: np.random.Generator, *spread: float) -> Field:
    """Smooth noise of unit variance; ``spread`` is its extent down and across, in pixels."""
    field = gaussian_filter(generator.standard_normal((SHEET, SHEET)), spread, mode="wrap")
    return (field - field.mean()) / field.std()


def _clouds(generator: np.random.Generator) -> Field:
    return sum(_noise(generator, scale, scale) * weight for scale, weight in ((48, 0.7), (16, 0.4), (5, 0.25)))  # type: ignore[return-value]


def _wood(generator: np.random.Generator) -> Field:
    rows = np.arange(SHEET)[:, None]
    grain = np.sin(rows / 9 + 2.2 * _noise(generator, 14, 120)) * 0.6 + 0.5 * _noise(generator, 1.2, 60)
    return grain - 2.2 * (rows % 128 < 3)


def _grass(generator: np.random.Generator) -> Field:
    return 0.7 * _noise(generator, 6, 1) + 0.5 * _noise(generator, 20, 20)


def _fabric(generator: np.random.Generator) -> Field:
    rows, columns = np.mgrid[:SHEET, :SHEET]
    return 0.6 * np.sin(rows * np.pi / 4) * np.sin(columns * np.pi / 4) + 0.5 * _noise(generator, 30, 30)


def _concrete(generator: np.random.Generator) -> Field:
    return _clouds(generator) + 0.3 * _noise(generator, 1, 1)


def _tiles(generator: np.random.Generator) -> Field:
    rows, columns = np.mgrid[:SHEET, :SHEET]
    shades = generator.standard_normal((SHEET // 64 + 1, SHEET // 64 + 1))
    joints = (rows % 64 < 3) | (columns % 64 < 3)
    return 0.6 * shades[rows // 64, columns // 64] - 2.0 * joints


def _bricks(generator: np.random.Generator) -> Field:
    rows, columns = np.mgrid[:SHEET, :SHEET]
    course = rows // 32
    along = columns + 40 * (course % 2)
    shades = generator.standard_normal((SHEET // 32 + 1, SHEET // 80 + 2))
    return 0.7 * shades[course, along // 80] + 2.0 * ((rows % 32 < 3) | (along % 80 < 3)) + 0.3 * _noise(generator, 2, 2)


def _water(generator: np.random.Generator) -> Field:
    rows = np.arange(SHEET)[:, None]
    return np.sin(rows / 7 + 1.8 * _noise(generator, 10, 36)) + 0.4 * _clouds(generator)


def _marble(generator: np.random.Generator) -> Field:
    veins = np.abs(np.sin(np.add.outer(np.arange(SHEET), np.arange(SHEET)) / 60 + 2.5 * _clouds(generator)))
    return 1.5 * np.sqrt(veins) + 0.2 * _clouds(generator)


# What is drawn, its mean colour, and the strength of its light and dark.
_TEXTURES: dict[str, tuple[Callable[[np.random.Generator], Field], Colour, float]] = {
    "wood": (_wood, (186, 146, 104), 14),
    "grass": (_grass, (142, 176, 110), 18),
    "fabric": (_fabric, (176, 186, 208), 14),
    "concrete": (_concrete, (178, 178, 174), 12),
    "tiles": (_tiles, (214, 222, 222), 9),
    "bricks": (_bricks, (190, 138, 118), 14),
    "water": (_water, (132, 178, 200), 13),
    "marble": (_marble, (226, 222, 218), 12),
    "sand": (_clouds, (222, 204, 166), 12),
}
TEXTURES: tuple[str, ...] = tuple(_TEXTURES)


@cache
def _sheet(name: str) -> Image.Image:
    paint, colour, strength = _TEXTURES[name]
    # Each texture has one fixed stream; what differs between scenes is the piece cut from it.
    field = paint(np.random.default_rng(TEXTURES.index(name)))
    pixels = np.asarray(colour) + strength * field[:, :, None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def texture(name: str, generator: np.random.Generator) -> Image.Image:
    """A canvas-sized piece of the texture ``name``, cut at a place that ``generator`` draws."""
    left, top = (int(value) for value in generator.integers(0, SHEET - CANVAS, size=2))
    return _sheet(name).crop((left, top, left + CANVAS, top + CANVAS))
