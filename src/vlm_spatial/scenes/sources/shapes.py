"""``kind: shapes``: named shapes, each in a colour of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from vlm_spatial.scenes.palette import COLOURS, PALETTES, PLAIN_BACKGROUNDS, written
from vlm_spatial.scenes.sources.drawn import Drawn, DrawnSettings, Palette

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene


class ShapesSettings(DrawnSettings):
    """Coloured shapes on a plain background."""

    kind: Literal["shapes"]
    palette: Palette = "standard"
    paired: bool = Field(
        False,
        description="six shapes, each always in one colour (a red square, a green circle, ...), drawn as published; the colour is asked",
    )

    @model_validator(mode="after")
    def _paired_of_six(self) -> Self:
        if self.paired == (self.palette == "standard"):
            raise ValueError("palette: paired shapes have the palette pure or pure-orange, free ones the standard palette")
        return self


class Shapes(Drawn):
    """Shapes; the answer is the shape, and no two in a picture share a colour."""

    kind = "shapes"
    settings = ShapesSettings
    asking = "Which shape is {place}?"
    stem = "The shape {place} is a"

    def words(self) -> tuple[str, ...]:
        from vlm_spatial.scenes.outlines import SHAPES

        return SHAPES

    def object_words(self, settings: DrawnSettings) -> tuple[str, ...]:
        assert isinstance(settings, ShapesSettings)
        return tuple(PALETTES[settings.palette]) if settings.paired else self.words()

    def vocabulary(self, settings: DrawnSettings) -> tuple[Content, ...]:
        from vlm_spatial.scenes.outlines import TILES
        from vlm_spatial.scenes.scene import Content

        assert isinstance(settings, ShapesSettings)
        if not settings.paired:
            return super().vocabulary(settings)
        coloured = zip(PALETTES[settings.palette].items(), TILES, strict=True)
        return tuple(Content(word, f"{word} {shape}", f"{written(colour)} {shape}") for (word, colour), shape in coloured)

    def sentences(self, settings: DrawnSettings) -> tuple[str, str]:
        assert isinstance(settings, ShapesSettings)
        if settings.paired:
            return "What color is the shape {place}?", "The color of the shape {place} is"
        return self.asking, self.stem

    def backgrounds(self) -> tuple[str, ...]:
        return tuple(PLAIN_BACKGROUNDS)

    def contents(
        self, words: list[str], generator: np.random.Generator, avoid: tuple[Content, ...], settings: DrawnSettings
    ) -> tuple[Content, ...]:
        from vlm_spatial.scenes.scene import Content

        assert isinstance(settings, ShapesSettings)
        if settings.paired:
            every = {content.word: content for content in self.vocabulary(settings)}
            return tuple(every[word] for word in words)
        used = {content.look.split()[0] for content in avoid}
        left = [colour for colour in COLOURS if colour not in used]
        colours = [left[index] for index in generator.permutation(len(left))[: len(words)]]
        return tuple(Content(word, word, f"{colour} {word}") for word, colour in zip(words, colours, strict=True))

    def background(self, scene: Scene, generator: np.random.Generator) -> Image.Image:
        from PIL import Image

        return Image.new("RGB", (scene.width, scene.height), PLAIN_BACKGROUNDS[scene.background])

    def draw_content(self, image: Image.Image, content: Content, box: tuple[int, int, int, int]) -> None:
        from vlm_spatial.scenes.outlines import shape_mask, tile

        left, top, right, bottom = box
        colour, shape = content.look.split()
        if colour in COLOURS:
            image.paste(COLOURS[colour], (left, top), shape_mask(shape, right - left, bottom - top))
        else:
            image.paste(colour, (left, top), tile(shape, right - left))
