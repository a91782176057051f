"""``kind: shapes``: named shapes, each in a colour of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vlm_spatial.scenes.palette import COLOURS, PLAIN_BACKGROUNDS
from vlm_spatial.scenes.sources.drawn import Drawn, DrawnSettings

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene


class ShapesSettings(DrawnSettings):
    """Coloured shapes on a plain background."""

    kind: Literal["shapes"]


class Shapes(Drawn):
    """Shapes; the answer is the shape, and no two in a picture share a colour."""

    kind = "shapes"
    settings = ShapesSettings
    asking = "Which shape is {place}?"
    stem = "The shape {place} is a"

    def words(self) -> tuple[str, ...]:
        from vlm_spatial.scenes.outlines import SHAPES

        return SHAPES

    def backgrounds(self) -> tuple[str, ...]:
        return tuple(PLAIN_BACKGROUNDS)

    def contents(self, words: list[str], generator: np.random.Generator, avoid: tuple[Content, ...]) -> tuple[Content, ...]:
        from vlm_spatial.scenes.scene import Content

        used = {content.look.split()[0] for content in avoid}
        left = [colour for colour in COLOURS if colour not in used]
        colours = [left[index] for index in generator.permutation(len(left))[: len(words)]]
        return tuple(Content(word, word, f"{colour} {word}") for word, colour in zip(words, colours, strict=True))

    def background(self, scene: Scene, generator: np.random.Generator) -> Image.Image:
        from PIL import Image

        return Image.new("RGB", (scene.width, scene.height), PLAIN_BACKGROUNDS[scene.background])

    def draw_content(self, image: Image.Image, content: Content, box: tuple[int, int, int, int]) -> None:
        from vlm_spatial.scenes.outlines import shape_mask

        left, top, right, bottom = box
        colour, shape = content.look.split()
        image.paste(COLOURS[colour], (left, top), shape_mask(shape, right - left, bottom - top))
