"""Pixel noise, cut from a sheet that is made once: drawing a million normal numbers for each scene would take longer than the scene."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops

# A piece has a random place and one of eight orientations: eight million pieces of a 448-pixel canvas.
_SHEET = 1472
_ORIENTATIONS = (None, *Image.Transpose)


@lru_cache(maxsize=4)
def _sheet(noise: float) -> tuple[Image.Image, Image.Image]:
    """What is added and what is taken away: independent Gaussian numbers of standard deviation ``255 * noise``, rounded."""
    values = np.random.default_rng(0).standard_normal((_SHEET, _SHEET, 3), dtype=np.float32)
    levels = np.rint(np.float32(255 * noise) * values)
    brighter, darker = (np.clip(part, 0, 255).astype(np.uint8) for part in (levels, -levels))
    return Image.fromarray(brighter), Image.fromarray(darker)


def with_noise(image: Image.Image, noise: float, generator: np.random.Generator) -> Image.Image:
    """A square RGB image with Gaussian noise of standard deviation ``noise`` (a share of full scale), clipped to 0..255."""
    left, top = (int(generator.integers(0, _SHEET - side + 1)) for side in image.size)
    orientation = _ORIENTATIONS[int(generator.integers(len(_ORIENTATIONS)))]
    for part, change in zip(_sheet(noise), (ImageChops.add, ImageChops.subtract), strict=True):
        piece = part.crop((left, top, left + image.width, top + image.height))
        # No pixel is both brighter and darker, so clipping twice is clipping once.
        image = change(image, piece if orientation is None else piece.transpose(orientation))
    return image
