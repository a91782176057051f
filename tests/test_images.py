"""Image files and what makes images harder: exact PNG bytes, noise with the spread asked for, clutter behind the objects, blur."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.noise import with_noise
from vlm_spatial.scenes.palette import COLOURS
from vlm_spatial.scenes.png import png
from vlm_spatial.scenes.scene import CANVAS, Scene, mirrored
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN

pytestmark = pytest.mark.unit

KINDS = tuple(source.kind for source in DRAWN)


def scene(kind: str, seed: int = 0, **difficulty: object) -> Scene:
    settings = dataset_settings({"kind": kind, "difficulty": difficulty})
    return sample_scene(settings, "horizontal", "main", np.random.default_rng(seed))


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_png_holds_the_pixels_that_were_given(pixels: np.ndarray) -> None:
    with Image.open(io.BytesIO(png(Image.fromarray(pixels)))) as read:
        assert read.format == "PNG"
        assert read.mode == "RGB"
        assert (np.asarray(read) == pixels).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_png_of_a_scene_is_exact_and_not_larger_than_pillow_s(kind: str, noise: float) -> None:
    image = render(scene(kind, noise=noise))
    written = png(image)
    with Image.open(io.BytesIO(written)) as read:
        assert read.convert("RGB").tobytes() == image.tobytes()
    usual = io.BytesIO()
    image.save(usual, "PNG", compress_level=1)
    assert len(written) < 1.2 * len(usual.getvalue())


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_noise_is_gaussian_independent_and_clipped(noise: float) -> None:
    grey = Image.new("RGB", (CANVAS, CANVAS), (128, 128, 128))
    changed = np.asarray(with_noise(grey, noise, np.random.default_rng(3))).astype(float) - 128
    kept = np.abs(changed) < 126
    # Of a normal variable cut at two standard deviations or more, or not at all.
    expected = np.clip(np.random.default_rng(0).normal(0, 255 * noise, 200_000), -128, 127)
    assert changed.mean() == pytest.approx(expected.mean(), abs=1)
    assert changed.std() == pytest.approx(expected.std(), rel=0.03)
    assert np.mean(kept) == pytest.approx(np.mean(np.abs(expected) < 126), abs=0.01)
    # Neighbours, channels and other scenes know nothing of each other.
    other = np.asarray(with_noise(grey, noise, np.random.default_rng(4))).astype(float) - 128
    for twin in (np.roll(changed, 1, 0), np.roll(changed, 1, 1), np.roll(changed, 1, 2), other):
        assert abs(np.corrcoef(changed.ravel(), twin.ravel())[0, 1]) < 0.01
    for edge, value in (((0, 0, 0), 0), ((255, 255, 255), 255)):
        flat = np.asarray(with_noise(Image.new("RGB", (CANVAS, CANVAS), edge), noise, np.random.default_rng(5)))
        assert (flat == value).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_clutter_lies_behind_the_objects_and_is_grey(kind: str) -> None:
    cluttered = scene(kind, clutter=15)
    image, plain = (np.asarray(render(each)).astype(int) for each in (cluttered, replace(cluttered, clutter=0)))
    changed = (image != plain).any(axis=-1)
    assert changed.mean() > 0.1
    assert (np.ptp(image[changed], axis=-1) == 0).mean() > 0.9
    if kind == "squares":
        for word, (left, top, right, bottom) in zip(cluttered.objects, cluttered.boxes, strict=True):
            assert (image[int(top) : int(bottom), int(left) : int(right)] == COLOURS[word]).all()


def test_blur_smooths_the_whole_image_and_keeps_its_colours() -> None:
    sharp = scene("squares", seed=2)
    before, after = (np.asarray(render(each)).astype(float) for each in (sharp, replace(sharp, blur=6.0)))
    assert np.abs(np.diff(after, axis=1)).max() < 0.3 * np.abs(np.diff(before, axis=1)).max()
    assert after.mean() == pytest.approx(before.mean(), abs=1)
    left, top, right, bottom = sharp.boxes[1]
    middle = after[int((top + bottom) / 2), int((left + right) / 2)]
    assert np.abs(middle - COLOURS[sharp.objects[1]]).max() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_scene_is_drawn_alike_twice_and_mirrors_exactly(kind: str) -> None:
    hard = scene(kind, object_size=[0.08, 0.14], distractors=8, clutter=6, blur=1.5, noise=0.08)
    assert render(hard).tobytes() == render(hard).tobytes()
    assert render(mirrored(hard)).tobytes() == render(hard).transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert all(0.07 * CANVAS < box[2] - box[0] < 0.15 * CANVAS for box in hard.boxes)
