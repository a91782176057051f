"""Pictures as cameras, scanners and editors write them: read as they are meant, or refused with the true reason."""

import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.opening import find_file, open_upright, upright_size

pytestmark = pytest.mark.unit

ORIENTATION = 0x0112
# 8 × 4 pixels: red on the left, a green stripe at the top of the right half, blue below it.
PICTURE = np.zeros((4, 8, 3), dtype=np.uint8)
PICTURE[:, :4, 0], PICTURE[:2, 4:, 1], PICTURE[2:, 4:, 2] = 255, 255, 255
# What a camera stores for a picture seen upright, by EXIF orientation: the inverse of how a viewer turns it.
STORED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE),
    7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
    8: np.rot90(PICTURE, -1),
}


def same(path: Path, expected: np.ndarray) -> bool:
    return upright_size(path) == (expected.shape[1], expected.shape[0]) and np.array_equal(np.asarray(open_upright(path)), expected)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_turned_upright_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(tmp_path / f"a.{suffix}", exif=exif)
    assert same(tmp_path / f"a.{suffix}", PICTURE)


def written(kind: int, value: bytes) -> bytes:
    """EXIF with an orientation of any type: 2 is text, 3 a number of two bytes."""
    entry = ORIENTATION.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1 if kind == 3 else len(value)).to_bytes(4, "big")
    return b"Exif\x00\x00MM\x00*" + (8).to_bytes(4, "big") + b"\x00\x01" + entry + value.ljust(4, b"\x00") + bytes(4)


@pytest.mark.parametrize(("kind", "value"), [(3, b"\x00\x00"), (3, b"\x00\x09"), (3, b"\xea\x60"), (2, b"6\x00"), (2, b"up\x00")])
def test_an_orientation_that_makes_no_sense_is_none(tmp_path: Path, kind: int, value: bytes) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=written(kind, value))
    assert same(tmp_path / "a.png", PICTURE)
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=written(3, b"\x00\x01"))
    assert same(tmp_path / "a.png", PICTURE)


def test_damaged_exif_is_passed_over(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f\x01")
    assert same(tmp_path / "a.png", PICTURE)


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (np.array([[0, 257, 65535]], dtype=np.uint16), "png"),
        (np.array([[0, 257, 65535]], dtype=np.uint16), "tiff"),
        (np.array([[0, 257, 65535]], dtype=np.int32), "tiff"),
        (np.array([[0, 1, 255]], dtype=np.int32), "tiff"),
        (np.array([[0, 1, 255]], dtype=np.float32), "tiff"),
        (np.array([[0, 1 / 255, 1]], dtype=np.float32), "tiff"),
    ],
)
def test_greyscale_of_more_than_eight_bits_keeps_its_levels(tmp_path: Path, values: np.ndarray, suffix: str) -> None:
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.asarray(open_upright(tmp_path / f"a.{suffix}")).tolist() == [[[level] * 3 for level in (0, 1, 255)]]


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 1000.0], [0.0, float("nan")]])
def test_values_without_a_known_scale_are_refused(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: is greyscale with values from .* to .*, whose scale is unknown; save it with 8 bits"):
        open_upright(tmp_path / "a.tiff")


def test_colours_under_transparent_pixels_do_not_show(tmp_path: Path) -> None:
    pixels = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, dtype=np.uint8)])
    pixels[:, :4, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shown = np.asarray(open_upright(tmp_path / "a.png"))
    assert (shown[:, :4] == 255).all()
    assert np.array_equal(shown[:, 4:], PICTURE[:, 4:])
    palette = Image.fromarray(PICTURE).quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "a.gif", transparency=palette.getpixel((0, 0)))
    assert (np.asarray(open_upright(tmp_path / "a.gif"))[:, :4] == 255).all()


def test_heic_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    for read in (open_upright, upright_size):
        with pytest.raises(UserError, match=r"a\.heic: is a HEIC photo, which is not read; convert it to JPEG"):
            read(tmp_path / "a.heic")


def test_files_cut_short_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    with pytest.raises(UserError, match=r"a\.jpg: is not a readable photo \(.*truncated"):
        open_upright(tmp_path / "a.jpg")


@pytest.mark.parametrize("there", ["IMG_0001.JPG", "img_0001.jpg"])
def test_names_in_another_case_are_found(tmp_path: Path, there: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / there).touch()
    for name in ("photos/IMG_0001.jpg", "photos\\IMG_0001.JPG", "photos/img_0001.jpg"):
        assert find_file(tmp_path, name).name == there


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="files have names in the locale's encoding, which has no such letters")
def test_names_in_decomposed_unicode_are_found(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        folder = tmp_path / str(number)
        folder.mkdir()
        there = unicodedata.normalize(form, "Äpfel_é.jpg")
        (folder / there).touch()
        for other in ("NFC", "NFD"):
            assert find_file(folder, unicodedata.normalize(other, "Äpfel_é.jpg")).name == there


def test_two_names_that_differ_in_case_only_are_no_guess(tmp_path: Path) -> None:
    (tmp_path / "A.jpg").touch()
    (tmp_path / "a.JPG").touch()
    assert find_file(tmp_path, "A.jpg").name == "A.jpg"
    with pytest.raises(UserError, match=r"A\.jpg and a\.JPG differ from it in letters' case"):
        find_file(tmp_path, "a.jpg")


def test_links_are_followed_and_written_paths_stay_inside(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    store.mkdir()
    root.mkdir()
    (store / "a.jpg").touch()
    (root / "a.jpg").symlink_to(store / "a.jpg")
    (root / "linked").symlink_to(store, target_is_directory=True)
    assert find_file(root, "a.jpg").is_file()
    assert find_file(root, "linked/a.jpg").is_file()
    for name in ("../store/a.jpg", str(store / "a.jpg"), "linked/../../store/a.jpg", "..\\store\\a.jpg"):
        with pytest.raises(UserError, match="outside the data set's folder"):
            find_file(root, name)
    with pytest.raises(UserError, match="no such file"):
        find_file(root, "b.jpg")
