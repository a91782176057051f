"""Sampling and drawing of rendered scenes. Both are pure: a scene depends on its generator, an image on its scene."""

from typing import assert_never

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.geometry import aligned_boxes, slotted_boxes, travelling_boxes
from vlm_spatial.scenes.noise import with_noise
from vlm_spatial.scenes.palette import COLOURS, PLAIN_BACKGROUNDS, Colour
from vlm_spatial.scenes.scene import CANVAS, Content, Kind, Scene, Variant, flip_box
from vlm_spatial.scenes.sources.pictures import PICTURES, picture
from vlm_spatial.scenes.sources.shapes import SHAPES, shape_mask
from vlm_spatial.scenes.textures import TEXTURES, texture
from vlm_spatial.tokens import Axis, Box

# Sides of clutter, as shares of the canvas.
_CLUTTER_SIZES = (0.06, 0.25)


def sample_scene(settings: DatasetSettings, axis: Axis, variant: Variant, generator: np.random.Generator, slot: int | None = None) -> Scene:
    """Draw one scene of a rendered dataset.

    Args:
        variant: ``main``, ``decorrelated``, ``single``, ``blank`` or ``pair`` (aligned geometry, for exchanges).
        slot: of the one object of a ``single`` scene; drawn if not given.

    Raises:
        UserError: for ``whatsup`` settings, which are photos and cannot be sampled, and for the variants made from other scenes.
    """
    if settings.kind == "whatsup":
        raise UserError("datasets kind 'whatsup': its scenes are photos and cannot be sampled; allowed are squares, shapes, objects")
    boxes: tuple[Box, ...]
    match variant:
        case "main" | "single":
            boxes = slotted_boxes(settings.difficulty, axis, generator)
        case "decorrelated":
            boxes = travelling_boxes(settings.difficulty, axis, generator)
        case "pair":
            boxes = aligned_boxes(settings.difficulty, axis, generator)
        case "blank":
            boxes = ()
        case "mirror" | "photo" | "self_merge":
            raise UserError(f"variant {variant!r}: is made from other scenes; allowed are main, decorrelated, single, blank, pair")
        case _:
            assert_never(variant)
    slots: tuple[int, ...] = tuple(range(len(boxes)))
    if variant == "single":
        chosen = int(generator.integers(3)) if slot is None else slot
        slots, boxes = (chosen,), (boxes[chosen],)
    return Scene(
        kind=settings.kind,
        variant=variant,
        axis=axis,
        contents=sample_contents(settings.kind, len(boxes), generator),
        slots=slots,
        boxes=boxes,
        background=str(generator.choice(backgrounds(settings.kind))),
        seed=int(generator.integers(2**32)),
        distractors=settings.difficulty.distractors,
        clutter=settings.difficulty.clutter,
        blur=settings.difficulty.blur,
        noise=settings.difficulty.noise,
        middle_reference=int(generator.choice([0, 2])),
    )


def words(kind: Kind) -> tuple[str, ...]:
    """Every answer word of a rendered kind of object."""
    match kind:
        case "squares":
            return tuple(COLOURS)
        case "shapes":
            return SHAPES
        case "objects":
            return tuple(PICTURES)
        case "whatsup":
            raise UserError("datasets kind 'whatsup': its words are those of the photos, not a fixed list")


def backgrounds(kind: Kind) -> tuple[str, ...]:
    """Names of the backgrounds that scenes of this kind are drawn on."""
    match kind:
        case "squares" | "shapes":
            return tuple(PLAIN_BACKGROUNDS)
        case "objects":
            return TEXTURES
        case "whatsup":
            raise UserError("datasets kind 'whatsup': its backgrounds are those of the photos, not a fixed list")


def sample_contents(kind: Kind, count: int, generator: np.random.Generator, avoid: tuple[Content, ...] = ()) -> tuple[Content, ...]:
    """``count`` objects, all different in word and colour, sharing neither with ``avoid``."""
    taken = {content.word for content in avoid}
    free = [word for word in words(kind) if word not in taken]
    chosen = [free[index] for index in generator.permutation(len(free))[:count]]
    match kind:
        case "squares":
            return tuple(Content(word, f"{word} square", word) for word in chosen)
        case "shapes":
            used = {content.look.split()[0] for content in avoid}
            left = [colour for colour in COLOURS if colour not in used]
            colours = [left[index] for index in generator.permutation(len(left))[:count]]
            return tuple(Content(word, word, f"{colour} {word}") for word, colour in zip(chosen, colours, strict=True))
        case "objects" | "whatsup":
            return tuple(Content(word, word, word) for word in chosen)


def render(scene: Scene) -> Image.Image:
    """Draw a scene: an RGB image of ``scene.width × scene.height`` pixels, the same on every call."""
    generator = np.random.default_rng(scene.seed)
    image = _background(scene, generator)
    contents, boxes = scene.contents, scene.boxes
    if scene.flipped:
        # Drawn as it was, then mirrored whole, so that marks, noise and pictures are mirrored with it.
        contents, boxes = contents[::-1], _unflipped(scene)
    if scene.clutter:
        _draw_clutter(image, scene.clutter, generator)
    _draw_marks(image, scene.distractors, boxes, generator)
    for content, box in zip(contents, boxes, strict=True):
        _draw_content(image, scene.kind, content, box)
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


def _background(scene: Scene, generator: np.random.Generator) -> Image.Image:
    if scene.kind == "objects":
        return texture(scene.background, generator)
    return Image.new("RGB", (scene.width, scene.height), PLAIN_BACKGROUNDS[scene.background])


def _draw_content(image: Image.Image, kind: Kind, content: Content, box: Box) -> None:
    left, top, right, bottom = (int(edge) for edge in box)
    match kind:
        case "squares":
            image.paste(COLOURS[content.look], (left, top, right, bottom))
        case "shapes":
            colour, shape = content.look.split()
            image.paste(COLOURS[colour], (left, top), shape_mask(shape, right - left, bottom - top))
        case "objects":
            drawing = picture(content.look, right - left, bottom - top)
            image.paste(drawing, (left, top), drawing)
        case "whatsup":
            raise UserError("datasets kind 'whatsup': its scenes are photos and cannot be drawn")


def _draw_clutter(image: Image.Image, count: int, generator: np.random.Generator) -> None:
    """Grey patches, round and angular, of up to an object's size, which objects may cover."""
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = (float(value) for value in generator.uniform(0, CANVAS, size=2))
        width, height = (CANVAS * float(value) for value in generator.uniform(*_CLUTTER_SIZES, size=2))
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
        x, y = generator.uniform(12, CANVAS - 12, size=2)
        angle, shade = generator.uniform(0, np.pi), int(generator.integers(60, 200))
        if any(left - 12 < x < right + 12 and top - 12 < y < bottom + 12 for left, top, right, bottom in boxes):
            continue
        dx, dy = 7 * np.cos(angle), 7 * np.sin(angle)
        draw.line([(x - dx, y - dy), (x + dx, y + dy)], fill=(shade, shade, shade), width=3)
        drawn += 1
