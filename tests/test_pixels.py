"""The fast way through an image processor against the processor itself, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from vlm_spatial.models.pixels import DirectPixels, resized

pytestmark = pytest.mark.model


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Counted:
    """A processor that counts its calls; ``change`` spoils what it makes of an image."""

    def __init__(self, change=lambda _, pixels: pixels, **settings):
        self.processor = Gemma3ImageProcessorPil(**settings)
        self.change = change
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        made = self.processor(images=[image], return_tensors="pt", do_pan_and_scan=False)
        return {**{k: v for k, v in made.items() if isinstance(v, torch.Tensor)}, "pixel_values": self.change(image, made["pixel_values"])}


SETTINGS = [
    {"size": {"height": 96, "width": 96}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    {"size": {"height": 80, "width": 112}, "resample": 3, "image_mean": [0.48, 0.457, 0.408], "image_std": [0.268, 0.261, 0.275]},
    {"size": {"height": 448, "width": 448}, "resample": 0, "do_normalize": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_values_are_the_processors_to_the_last_bit(settings):
    processor = Counted(**settings)
    size = settings["size"]
    direct = DirectPixels(processor, (size["width"], size["height"]), settings["resample"])
    for width, height in ((448, 448), (96, 96), (300, 200), (448, 448)):
        for seed in range(4):
            image = noise(width, height, seed)
            before = processor.calls
            found = direct(image)
            asked = processor.calls - before
            expected = processor(image)
            assert found.keys() == expected.keys()
            for name in expected:
                assert torch.equal(found[name], expected[name]), (name, width, height)
    # The last image was of a known size: the processor was not asked.
    assert asked == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda image, pixels: pixels + 1e-6 * (image.size[0] == 300),
        lambda _, pixels: torch.roll(pixels, 1, dims=-1),
        lambda _, pixels: pixels.double(),
        lambda _, pixels: pixels[..., :-1],
    ],
)
def test_a_processor_that_does_more_is_used_itself(change):
    processor = Counted(change, size={"height": 96, "width": 96}, resample=2)
    direct = DirectPixels(processor, (96, 96), 2)
    for seed in range(3):
        assert torch.equal(direct(noise(300, 300, seed))["pixel_values"], processor(noise(300, 300, seed))["pixel_values"])


def test_another_filter_is_noticed():
    processor = Counted(size={"height": 96, "width": 96}, resample=3)
    direct = DirectPixels(processor, (96, 96), 2)
    # A plain image looks the same under every filter; it must not decide.
    direct(Image.new("RGB", (448, 448), "white"))
    assert torch.equal(direct(noise(448, 448))["pixel_values"], processor(noise(448, 448))["pixel_values"])


def test_gemma3_takes_the_fast_way(checkpoint, adapter_of):
    adapter = adapter_of("gemma3")
    processor = AutoImageProcessor.from_pretrained(checkpoint("gemma3"))
    images = [noise(448, 448, seed) for seed in range(3)]
    prepared = adapter.prepare(images, ["what ?"] * 3)
    expected = processor(images=images, return_tensors="pt", do_pan_and_scan=False)["pixel_values"]
    assert torch.equal(prepared.inputs["pixel_values"], expected)
    assert isinstance(adapter.cache._pixels, DirectPixels)
    assert adapter.cache._pixels._agrees[448, 448]


@given(
    size=st.tuples(st.integers(1, 140), st.integers(1, 140)),
    source=st.tuples(st.integers(30, 160), st.integers(4, 12), st.integers(1, 20)),
    resample=st.sampled_from([Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]),
)
def test_flat_images_are_resized_as_pillow_does(size: tuple[int, int], source: tuple[int, int, int], resample: Image.Resampling) -> None:
    width, distinct, times = source
    rows = np.random.default_rng(0).integers(0, 256, (distinct, width, 3), dtype=np.uint8)
    flat = Image.fromarray(np.repeat(rows, times, axis=0))
    assert np.array_equal(np.asarray(resized(flat, size, resample)), np.asarray(flat.resize(size, resample)))
