"""The image processor's pixel values without its overhead, checked against it bit for bit."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

_LEVELS = 256


class DirectPixels:
    """Does what a processor does that resizes every image to one size, then rescales and normalises each channel.

    After resizing, a value depends on its channel and one of 256 levels only: the processor itself is asked once for all
    of them, and images are looked up in that table. The first image of each size goes through both; where one bit
    differs (another backend, a step more), the processor is used from then on.

    Args:
        process: the processor: ``pixel_values [1, 3, height, width]`` and perhaps more of an RGB image.
        size: ``(width, height)`` in pixels that every image is resized to.
        resample: Pillow's number of the filter.
    """

    def __init__(self, process: Callable[[Image.Image], dict[str, Tensor]], size: tuple[int, int], resample: int) -> None:
        self._process = process
        self._size = size
        self._resample = Image.Resampling(resample)
        self._agrees: dict[tuple[int, int], bool] = {}
        self._table, self._others = self._learn()

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """What the processor makes of an RGB image, to the last bit."""
        if self._table is None or not self._agrees.get(image.size, True):
            return self._process(image)
        direct = {**self._others, "pixel_values": self._look_up(self._table, image)}
        if image.size in self._agrees:
            return direct
        made = self._process(image)
        self._agrees[image.size] = _equal(made, direct) and self._agrees_on_noise(self._table, image.size)
        return made

    def _learn(self) -> tuple[Float[np.ndarray, "channel level"] | None, dict[str, Tensor]]:
        width, height = self._size
        if width * height < _LEVELS:
            return None, {}
        levels = (np.arange(width * height) % _LEVELS).astype(np.uint8).reshape(height, width, 1).repeat(3, axis=2)
        made = self._process(Image.fromarray(levels))
        pixels = made.pop("pixel_values")
        if pixels.shape != (1, 3, height, width) or pixels.dtype != torch.float32:
            return None, {}
        return pixels.reshape(3, -1)[:, :_LEVELS].numpy().copy(), made

    def _look_up(self, table: Float[np.ndarray, "channel level"], image: Image.Image) -> Float[Tensor, "1 channel height width"]:
        width, height = self._size
        levels = np.asarray(image.resize(self._size, self._resample))
        found = np.empty((1, 3, height, width), dtype=np.float32)
        for channel in range(3):
            # Levels are below 256, so that nothing is ever clipped; without bounds checks it is faster.
            np.take(table[channel], levels[:, :, channel], out=found[0, channel], mode="clip")
        return torch.from_numpy(found)

    def _agrees_on_noise(self, table: Float[np.ndarray, "channel level"], size: tuple[int, int]) -> bool:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, _LEVELS, (size[1], size[0], 3), dtype=np.uint8))
        return _equal(self._process(noise), {**self._others, "pixel_values": self._look_up(table, noise)})


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
