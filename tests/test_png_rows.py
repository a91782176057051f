"""Flat images read without decoding: the same pixels, the same inputs, and nothing remembered of an image that was painted over."""

import io
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from activation_stores import scenes_folder
from vlm_spatial.errors import UserError
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.pixels import resized
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.png import png
from vlm_spatial.scenes.png_rows import flat_rows, know_rows
from vlm_spatial.workflow.provenance import MadeBy, write_record

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.open(scenes_folder(tmp_path_factory.mktemp("scenes") / "squares"))


def opened(content):
    image = Image.open(io.BytesIO(content))
    assert know_rows(image, content) == (flat_rows(image) is not None)
    return image


def flat_image(width, distinct, times, seed):
    rows = np.random.default_rng(seed).integers(0, 256, (distinct, width, 3), dtype=np.uint8)
    # Some rows return after others: distinct means unlike the one above.
    return Image.fromarray(np.repeat(rows[[*range(distinct), 0, distinct - 1]], times, axis=0))


@given(width=st.integers(1, 60), distinct=st.integers(1, 6), times=st.integers(40, 90), seed=st.integers(0, 2**32 - 1))
def test_rows_are_those_that_pillow_decodes(width, distinct, times, seed):
    image = flat_image(width, distinct, times, seed)
    read = opened(png(image))
    flat = flat_rows(read)
    assert read.size == image.size
    if flat is None:
        # Too small for its file to take less than a twentieth of the pixels.
        assert len(png(image)) > 0.05 * image.height * (1 + 3 * width)
    else:
        np.testing.assert_array_equal(flat.rows[flat.place], np.asarray(image))
        assert len(flat.rows) <= distinct + 2


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_other_files_are_left_to_pillow():
    plain = Image.new("RGB", (64, 640), "red")
    written = png(plain)
    assert flat_rows(opened(written)) is not None
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    others = [png(noise), saved(plain), saved(plain.convert("L")), saved(plain.convert("P")), saved(plain.convert("RGBA"))]
    # One row says that it is not filtered; the stream is cut short; its checksum is wrong.
    data = zlib.decompress(written[41:-16])
    for changed in (zlib.compress(b"\0" + data[1:]), zlib.compress(data[:-7]), written[41:-17] + bytes([written[-17] ^ 1])):
        chunk = b"IDAT" + changed
        others.append(written[:33] + len(changed).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + written[-12:])
    for content in others:
        assert flat_rows(opened(content)) is None


def test_an_image_that_was_painted_over_is_not_flat_any_more():
    size, plain = (96, 96), flat_image(448, 4, 75, 0)
    for change in (
        lambda image: ImageDraw.Draw(image).rectangle((5, 5, 80, 300), fill="green"),
        lambda image: image.putpixel((3, 3), (1, 2, 3)),
    ):
        read, painted = opened(png(plain)), plain.copy()
        assert np.array_equal(np.asarray(resized(read, size, Image.Resampling.BILINEAR)), np.asarray(plain.resize(size, 2)))
        change(read)
        change(painted)
        assert flat_rows(read) is None
        assert flat_rows(read.copy()) is None
        assert np.array_equal(np.asarray(resized(read, size, Image.Resampling.BILINEAR)), np.asarray(painted.resize(size, 2)))


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
def test_quick_images_make_the_same_inputs(family, checkpoint, dataset):
    ids = dataset.scenes["scene_id"].to_list()[:12]
    assert all(flat_rows(dataset.quick_image(name)) for name in ids)
    made = []
    for image in (dataset.image, dataset.quick_image):
        adapter = load_adapter(checkpoint(family), device="cpu")
        made.append([adapter.prepare([image(name) for name in ids[start : start + 6]], ["what ?"] * 6).inputs for start in (0, 6)])
    for usual, quick in zip(*made, strict=True):
        assert all(torch.equal(usual[name], quick[name]) for name in usual)


def test_quick_images_are_checked_like_others(tmp_path):
    dataset = Dataset.open(scenes_folder(tmp_path / "squares"))
    write_record(dataset.folder, MadeBy(stage="scenes"))
    row = dataset.scenes.row(0, named=True)
    path = dataset.folder / row["image"]
    for content, said in ((path.read_bytes()[:-1], "SHA-256 differs"), (None, "cannot be read")):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            dataset.quick_image(row["scene_id"])
