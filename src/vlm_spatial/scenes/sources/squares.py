"""``kind: squares``: plain squares, told apart by their colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vlm_spatial.scenes.palette import COLOURS, PALETTES, PLAIN_BACKGROUNDS, written
from vlm_spatial.scenes.sources.drawn import Drawn, DrawnSettings, Palette

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene


class SquaresSettings(DrawnSettings):
    """Coloured squares on a plain background."""

    kind: Literal["squares"]
    palette: Palette = "standard"


class Squares(Drawn):
    """Coloured squares; the answer is the colour."""

    kind = "squares"
    settings = SquaresSettings
    asking = "What color is the square {place}?"
    stem = "The color of the square {place} is"

    def words(self) -> tuple[str, ...]:
        return tuple(COLOURS)

    def object_words(self, settings: DrawnSettings) -> tuple[str, ...]:
        assert isinstance(settings, SquaresSettings)
        return tuple(PALETTES[settings.palette])

    def backgrounds(self) -> tuple[str, ...]:
        return tuple(PLAIN_BACKGROUNDS)

    def look(self, word: str, settings: DrawnSettings) -> str:
        assert isinstance(settings, SquaresSettings)
        return written(PALETTES[settings.palette][word])

    def phrase(self, word: str) -> str:
        return f"{word} square"

    def background(self, scene: Scene, generator: np.random.Generator) -> Image.Image:
        from PIL import Image

        return Image.new("RGB", (scene.width, scene.height), PLAIN_BACKGROUNDS[scene.background])

    def draw_content(self, image: Image.Image, content: Content, box: tuple[int, int, int, int]) -> None:
        image.paste(content.look, box)
