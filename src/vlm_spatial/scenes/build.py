"""Sampling and drawing of rendered scenes. Both are pure: a scene depends on its generator, an image on its scene."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.geometry import aligned_boxes, slotted_boxes, travelling_aligned_boxes, travelling_blocks, travelling_boxes
from vlm_spatial.scenes.noise import with_noise
from vlm_spatial.scenes.palette import WHITE, Colour
from vlm_spatial.scenes.scene import CANVAS, Content, Scene, Variant, flip_box
from vlm_spatial.scenes.sources.drawn import DrawnSettings, whole
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.tokens import Axis, Box

# Sides of clutter, as shares of the canvas.
_CLUTTER_SIZES = (0.06, 0.25)


def sample_scene(
    settings: DatasetSettings,
    axis: Axis,
    variant: Variant,
    generator: np.random.Generator,
    slot: int | None = None,
    words: Sequence[str] | None = None,
) -> Scene:
    """Draw one scene of a rendered dataset.

    Args:
        variant: ``main``, ``decorrelated``, ``single``, ``blank`` or ``pair`` (aligned geometry, for exchanges).
        slot: of the one object of a ``single`` scene; drawn if not given.
        words: of the contents, in slot order; drawn if not given.

    Raises:
        UserError: for photos, which cannot be sampled, and for the variants made from other scenes.
    """
    source = drawn_source(settings.kind)
    assert isinstance(settings, DrawnSettings)
    asking, stem = source.sentences(settings)
    boxes = _boxes(settings, axis, variant, generator)
    blocks, at_thirds = settings.layout, not settings.pairs.decorrelated
    slots: tuple[int, ...] = tuple(range(len(boxes)))
    if variant == "single":
        chosen = int(generator.integers(3)) if slot is None else slot
        slots, boxes = (chosen,), (boxes[chosen],)
    return Scene(
        kind=settings.kind,
        variant=variant,
        axis=axis,
        contents=source.contents(list(words), generator, (), settings) if words else sample_contents(settings, len(boxes), generator),
        slots=slots,
        boxes=boxes,
        background=str(generator.choice(source.backgrounds())) if settings.background == "varied" else WHITE,
        seed=int(generator.integers(2**32)),
        distractors=settings.difficulty.distractors,
        clutter=settings.difficulty.clutter,
        blur=settings.difficulty.blur,
        noise=settings.difficulty.noise,
        middle_reference=int(generator.choice([0, 2])),
        asking=asking,
        stem=stem,
        vocabulary=source.vocabulary(settings),
        width=CANVAS if blocks is None else blocks.canvas,
        height=CANVAS if blocks is None else blocks.canvas,
        grid=None if blocks is None else (blocks.grid, blocks.grid),
        # Strips lie at fixed places where the objects do.
        bands=blocks.bands if blocks is not None and (variant == "main" or (variant == "pair" and at_thirds)) else None,
    )


def _boxes(settings: DrawnSettings, axis: Axis, variant: Variant, generator: np.random.Generator) -> tuple[Box, ...]:
    blocks, difficulty = settings.layout, settings.difficulty
    match variant:
        case "main" | "single":
            return slotted_boxes(difficulty, axis, generator) if blocks is None else blocks.boxes(axis)
        case "decorrelated":
            if blocks is None:
                return travelling_boxes(difficulty, axis, generator)
            return blocks.boxes(axis, travelling_blocks(blocks, generator))
        case "pair":
            if settings.pairs.decorrelated:
                travelled = None if blocks is None else blocks.boxes(axis, travelling_blocks(blocks, generator))
                return travelled or travelling_aligned_boxes(difficulty, axis, generator)
            return aligned_boxes(difficulty, axis, generator) if blocks is None else blocks.boxes(axis)
        case "blank":
            return ()
        case "mirror" | "photo" | "self_merge":
            raise UserError(f"variant {variant!r}: is made from other scenes; allowed are main, decorrelated, single, blank, pair")
        case _:
            assert_never(variant)


def sample_contents(
    settings: DrawnSettings, count: int, generator: np.random.Generator, avoid: tuple[Content, ...] = ()
) -> tuple[Content, ...]:
    """``count`` objects of a drawn dataset (or as many as are left), all different in word and colour, sharing neither with ``avoid``."""
    source = drawn_source(settings.kind)
    taken = {content.word for content in avoid}
    free = [word for word in source.object_words(settings) if word not in taken]
    return source.contents([free[index] for index in generator.permutation(len(free))[:count]], generator, avoid, settings)


def render(scene: Scene) -> Image.Image:
    """Draw a scene: an RGB image of ``scene.width × scene.height`` pixels, the same on every call."""
    generator = np.random.default_rng(scene.seed)
    source = drawn_source(scene.kind)
    size = (scene.width, scene.height)
    image = Image.new("RGB", size, WHITE) if scene.background == WHITE else source.background(scene, generator)
    contents, boxes = scene.contents, scene.boxes
    if scene.flipped:
        # Drawn as it was, then mirrored whole, so that marks, noise and pictures are mirrored with it.
        contents, boxes = contents[::-1], _unflipped(scene)
    if scene.clutter:
        _draw_clutter(image, scene.clutter, generator)
    _draw_marks(image, scene.distractors, boxes, generator)
    for content, box in zip(contents, boxes, strict=True):
        source.draw_content(image, content, whole(box))
    if scene.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(scene.blur))
    if scene.noise > 0:
        image = with_noise(image, scene.noise, generator)
    if scene.flipped:
        side = Image.Transpose.FLIP_LEFT_RIGHT if scene.axis == "horizontal" else Image.Transpose.FLIP_TOP_BOTTOM
        image = image.transpose(side)
    return image


def _unflipped(scene: Scene) -> tuple[Box, ...]:
    return tuple(flip_box(box, scene.axis, scene.width, scene.height) for box in scene.boxes[::-1])


def _draw_clutter(image: Image.Image, count: int, generator: np.random.Generator) -> None:
    """Grey patches, round and angular, of up to an object's size, which objects may cover."""
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = (float(value) for value in generator.uniform(0, image.width, size=2))
        width, height = (image.width * float(value) for value in generator.uniform(*_CLUTTER_SIZES, size=2))
        shade, corners = int(generator.integers(90, 210)), int(generator.integers(2, 6))
        fill: Colour = (shade, shade, shade)
        if corners == 2:
            draw.ellipse((x - width / 2, y - height / 2, x + width / 2, y + height / 2), fill=fill)
        else:
            angles = float(generator.uniform(0, 2 * np.pi)) + np.arange(corners) * 2 * np.pi / corners
            outline = zip(x + width / 2 * np.cos(angles), y + height / 2 * np.sin(angles), strict=True)
            draw.polygon([(float(across), float(down)) for across, down in outline], fill=fill)


def _draw_marks(image: Image.Image, count: int, boxes: tuple[Box, ...], generator: np.random.Generator) -> None:
    """Short grey strokes that keep clear of the objects."""
    draw = ImageDraw.Draw(image)
    drawn = 0
    # Objects cover less than half of the canvas, so this ends; the bound makes that certain.
    for _ in range(100 * count):
        if drawn == count:
            break
        x, y = generator.uniform(12, image.width - 12, size=2)
        angle, shade = generator.uniform(0, np.pi), int(generator.integers(60, 200))
        if any(left - 12 < x < right + 12 and top - 12 < y < bottom + 12 for left, top, right, bottom in boxes):
            continue
        dx, dy = 7 * np.cos(angle), 7 * np.sin(angle)
        draw.line([(x - dx, y - dy), (x + dx, y + dy)], fill=(shade, shade, shade), width=3)
        drawn += 1
