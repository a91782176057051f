"""Sampled and drawn scenes: what is said to be in an image is there, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.build import render, sample_contents, sample_scene
from vlm_spatial.scenes.outlines import SHAPES, shape_mask
from vlm_spatial.scenes.palette import COLOURS, PLAIN_BACKGROUNDS
from vlm_spatial.scenes.pictures import PICTURES, picture
from vlm_spatial.scenes.scene import CANVAS, Scene, Variant, mirrored, with_contents
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN
from vlm_spatial.scenes.textures import TEXTURES, texture
from vlm_spatial.tokens import Axis

pytestmark = pytest.mark.unit

KINDS = tuple(source.kind for source in DRAWN)
AXES: tuple[Axis, ...] = ("horizontal", "vertical")


def scenes(kind: str, variant: Variant = "main", count: int = 6, **difficulty: object) -> list[Scene]:
    settings = dataset_settings({"kind": kind, "difficulty": difficulty})
    return [sample_scene(settings, axis, variant, np.random.default_rng(seed)) for axis in AXES for seed in range(count)]


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(render(scene)).astype(int)


def inside(scene: Scene) -> np.ndarray:
    mask = np.zeros((CANVAS, CANVAS), dtype=bool)
    for left, top, right, bottom in scene.boxes:
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return mask


def test_there_is_enough_variety() -> None:
    assert len(COLOURS) >= 9
    assert len(SHAPES) >= 9
    assert len(PICTURES) >= 24
    assert min(len(PLAIN_BACKGROUNDS), len(TEXTURES)) >= 5
    for word in [*COLOURS, *SHAPES, *PICTURES]:
        assert word.isalpha()
        assert word.islower()


def test_no_colour_is_lost_on_a_background() -> None:
    for colour in COLOURS.values():
        for other in [*PLAIN_BACKGROUNDS.values(), *(set(COLOURS.values()) - {colour})]:
            assert np.linalg.norm(np.subtract(colour, other)) > 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["main", "decorrelated", "pair"])
@pytest.mark.slow
def test_objects_are_three_different_ones_drawn_in_their_boxes_only(kind: str, variant: Variant) -> None:
    for scene in scenes(kind, variant, count=3):
        assert scene.slots == (0, 1, 2)
        assert len(set(scene.objects)) == len({content.look.split()[0] for content in scene.contents}) == 3
        empty = render(replace(scene, contents=(), boxes=(), slots=()))
        changed = (pixels(scene) != np.asarray(empty)).any(axis=-1)
        assert not (changed & ~inside(scene)).any()
        for box in scene.boxes:
            left, top, right, bottom = map(int, box)
            drawn = changed[top:bottom, left:right]
            # Every side of the box is touched: it is as tight as it can be.
            assert min(drawn[:2].any(), drawn[-2:].any(), drawn[:, :2].any(), drawn[:, -2:].any())
            assert drawn.mean() > 0.25


def test_squares_have_the_colour_of_their_word() -> None:
    for scene in scenes("squares"):
        for word, (left, top, right, bottom) in zip(scene.objects, scene.boxes, strict=True):
            part = pixels(scene)[int(top) : int(bottom), int(left) : int(right)]
            assert (part == COLOURS[word]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_same_on_every_call_and_follow_their_seed(kind: str) -> None:
    scene = scenes(kind, count=1, noise=0.05, distractors=5)[0]
    assert (pixels(scene) == pixels(scene)).all()
    assert (pixels(scene) != pixels(replace(scene, seed=scene.seed + 1))).any()
    again = sample_scene(dataset_settings(kind=kind), "vertical", "main", np.random.default_rng(8))
    assert again == sample_scene(dataset_settings(kind=kind), "vertical", "main", np.random.default_rng(8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_scene_is_the_mirrored_image(kind: str) -> None:
    for scene in scenes(kind, count=2, noise=0.03, distractors=6):
        flip = Image.Transpose.FLIP_LEFT_RIGHT if scene.axis == "horizontal" else Image.Transpose.FLIP_TOP_BOTTOM
        other = mirrored(scene)
        assert render(other).tobytes() == render(scene).transpose(flip).tobytes()
        assert other.objects == scene.objects[::-1]
        first = 0 if scene.axis == "horizontal" else 1
        for box, twin in zip(scene.boxes, other.boxes[::-1], strict=True):
            assert box[first] + twin[first + 2] == CANVAS
            assert box[1 - first] == twin[1 - first]
        assert replace(mirrored(other), variant="main") == scene


@pytest.mark.parametrize("kind", KINDS)
def test_other_contents_leave_everything_else_in_place(kind: str) -> None:
    for scene in scenes(kind, "pair", count=2, noise=0.03, distractors=6):
        others = sample_contents(dataset_settings(kind=kind), 3, np.random.default_rng(1), scene.contents)
        assert not {content.word for content in others} & set(scene.objects)
        changed = (pixels(scene) != pixels(with_contents(scene, others))).any(axis=-1)
        assert changed.any()
        assert not (changed & ~inside(scene)).any()


def test_difficulty_adds_marks_outside_objects_and_noise_everywhere() -> None:
    for scene in scenes("squares", count=3, distractors=12):
        plain = pixels(replace(scene, distractors=0))
        changed = (pixels(scene) != plain).any(axis=-1)
        assert changed.sum() > 12 * 20
        assert not (changed & inside(scene)).any()
    noisy = scenes("squares", count=1, noise=0.1)[0]
    spread = pixels(noisy) - pixels(replace(noisy, noise=0.0))
    # Where nothing is clipped, the noise has the spread that was asked for.
    middle = (pixels(replace(noisy, noise=0.0)) > 100) & (pixels(replace(noisy, noise=0.0)) < 155)
    if middle.any():
        assert abs(spread[middle].std() / 25.5 - 1) < 0.1
    assert (spread != 0).mean() > 0.5


@pytest.mark.slow
def test_single_and_blank_scenes() -> None:
    for scene in scenes("shapes", "single"):
        assert len(scene.boxes) == len(scene.contents) == len(scene.slots) == 1
        centre = (scene.boxes[0][0] + scene.boxes[0][2]) / 2 if scene.axis == "horizontal" else (scene.boxes[0][1] + scene.boxes[0][3]) / 2
        assert int(centre // (CANVAS / 3)) == scene.slots[0]
    for scene in scenes("squares", "blank", count=1):
        assert len(np.unique(pixels(scene).reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_touch_all_sides_and_differ(shape: str) -> None:
    mask = np.asarray(shape_mask(shape, 61, 80))
    assert mask.shape == (80, 61)
    assert min(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) > 0
    for other in SHAPES:
        if other != shape:
            assert np.abs(mask.astype(int) - np.asarray(shape_mask(other, 61, 80))).mean() > 10


@pytest.mark.parametrize("word", PICTURES)
def test_pictures_are_there_and_nearly_square(word: str) -> None:
    drawing = picture(word, 90, 90)
    assert drawing.size == (90, 90)
    assert drawing.mode == "RGBA"
    assert 0.15 < (np.asarray(drawing)[..., 3] > 127).mean() <= 1


@pytest.mark.slow
def test_textures_are_cut_anew_for_each_scene() -> None:
    for name in TEXTURES:
        first, second = (np.asarray(texture(name, np.random.default_rng(seed)), dtype=float) for seed in (1, 2))
        assert first.shape == (CANVAS, CANVAS, 3)
        assert (first != second).any()
        assert first.std() > 3


def test_what_cannot_be_sampled_says_so() -> None:
    photos = dataset_settings(kind="whatsup", root="photos")
    with pytest.raises(UserError, match="photos and cannot be sampled"):
        sample_scene(photos, "horizontal", "main", np.random.default_rng(0))
    with pytest.raises(UserError, match="'mirror': is made from other scenes"):
        sample_scene(dataset_settings(kind="squares"), "horizontal", "mirror", np.random.default_rng(0))
