"""``kind: objects``: drawings of things on textured backgrounds, or a folder of your own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vlm_spatial.config.settings import UserPath
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.one_token import FILE, check_tokenizer, left_out, one_token
from vlm_spatial.scenes.sources.drawn import Drawn, DrawnSettings
from vlm_spatial.scenes.sources.source import About

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene


class ObjectsSettings(DrawnSettings):
    """Drawings of things on a textured background."""

    kind: Literal["objects"]
    pictures: UserPath | None = Field(
        None,
        description="a folder of your own PNG files, each named after what it shows (apple.png, fire_truck.png), instead of the drawings; "
        "they are squeezed to the object's box, with their transparency",
    )
    one_token_in: UserPath | None = Field(
        None,
        description="folder of a checkpoint: leave out objects whose name, as it is or with a capital, is more than one token there (as "
        "published)",
    )


class Objects(Drawn):
    """Pictured things; the answer is the thing."""

    kind = "objects"
    settings = ObjectsSettings

    def words(self) -> tuple[str, ...]:
        from vlm_spatial.scenes.pictures import PICTURES

        return tuple(PICTURES)

    def object_words(self, settings: DrawnSettings) -> tuple[str, ...]:
        files = _pictures(settings)
        words = self.words() if files is None else tuple(files)
        kept = _kept(words, settings)
        return tuple(word for word in words if word in kept)

    def look(self, word: str, settings: DrawnSettings) -> str:
        files = _pictures(settings)
        return word if files is None else str(files[word])

    def files(self, settings: DrawnSettings) -> list[Path]:
        assert isinstance(settings, ObjectsSettings)
        tokenizer = [] if settings.one_token_in is None else [Path(settings.one_token_in) / FILE]
        return [*super().files(settings), *(_pictures(settings) or {}).values(), *tokenizer]

    def check_paths(self, settings: DrawnSettings) -> None:
        assert isinstance(settings, ObjectsSettings)
        if settings.pictures is not None and not Path(settings.pictures).is_dir():
            raise UserError(f"pictures: no folder {settings.pictures!r}; give a folder of PNG files, or leave pictures out")
        if settings.one_token_in is not None:
            check_tokenizer(Path(settings.one_token_in))

    def check(self, settings: DrawnSettings, about: About) -> None:
        from vlm_spatial.scenes.pictures import own_picture

        for path in (_pictures(settings) or {}).values():
            with about("pictures"):
                own_picture(path, 1, 1)
        super().check(settings, about)

    def outlook(self, settings: DrawnSettings) -> str:
        assert isinstance(settings, ObjectsSettings)
        return "" if settings.one_token_in is None else left_out(_pictures(settings) or self.words(), Path(settings.one_token_in))

    def backgrounds(self) -> tuple[str, ...]:
        from vlm_spatial.scenes.textures import TEXTURES

        return TEXTURES

    def background(self, scene: Scene, generator: np.random.Generator) -> Image.Image:
        from vlm_spatial.scenes.textures import texture

        piece, size = texture(scene.background, generator), (scene.width, scene.height)
        return piece if piece.size == size else piece.resize(size)

    def draw_content(self, image: Image.Image, content: Content, box: tuple[int, int, int, int]) -> None:
        from vlm_spatial.scenes.pictures import PICTURES, own_picture, picture

        left, top, right, bottom = box
        width, height = right - left, bottom - top
        drawing = picture(content.look, width, height) if content.look in PICTURES else own_picture(Path(content.look), width, height)
        image.paste(drawing, (left, top), drawing)


def _kept(words: Iterable[str], settings: DrawnSettings) -> set[str]:
    assert isinstance(settings, ObjectsSettings)
    return set(words) if settings.one_token_in is None else one_token(words, Path(settings.one_token_in))


def _pictures(settings: DrawnSettings) -> dict[str, Path] | None:
    """The user's own pictures by word, sorted; None where there are none."""
    assert isinstance(settings, ObjectsSettings)
    if settings.pictures is None:
        return None
    found = sorted(path for path in Path(settings.pictures).iterdir() if path.suffix.lower() == ".png" and not path.name.startswith("."))
    return {path.stem.replace("_", " ").lower(): path for path in found}
