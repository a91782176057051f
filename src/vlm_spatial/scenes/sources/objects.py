"""``kind: objects``: drawings of things on textured backgrounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vlm_spatial.scenes.sources.drawn import Drawn, DrawnSettings

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene


class ObjectsSettings(DrawnSettings):
    """Drawings of things on a textured background."""

    kind: Literal["objects"]


class Objects(Drawn):
    """Pictured things; the answer is the thing."""

    kind = "objects"
    settings = ObjectsSettings

    def words(self) -> tuple[str, ...]:
        from vlm_spatial.scenes.pictures import PICTURES

        return tuple(PICTURES)

    def backgrounds(self) -> tuple[str, ...]:
        from vlm_spatial.scenes.textures import TEXTURES

        return TEXTURES

    def background(self, scene: Scene, generator: np.random.Generator) -> Image.Image:
        from vlm_spatial.scenes.textures import texture

        return texture(scene.background, generator)

    def draw_content(self, image: Image.Image, content: Content, box: tuple[int, int, int, int]) -> None:
        from vlm_spatial.scenes.pictures import picture

        left, top, right, bottom = box
        drawing = picture(content.look, right - left, bottom - top)
        image.paste(drawing, (left, top), drawing)
