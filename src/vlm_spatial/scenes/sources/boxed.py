"""``kind: boxed``: one's own photographs with boxes, as CSV or COCO JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from vlm_spatial.config.settings import UserPath
from vlm_spatial.scenes.sources.natural import Natural, NaturalSettings

if TYPE_CHECKING:
    from vlm_spatial.scenes.chosen import Choices


class BoxedSettings(NaturalSettings):
    """One's own photographs with boxes."""

    kind: Literal["boxed"]
    boxes: UserPath = Field(
        description="a CSV with the columns image,label,x,y,width,height (pixels; image_width,image_height if known), or a COCO JSON"
    )

    @model_validator(mode="after")
    def _knows_what_is_there(self) -> Self:
        if "content" in self.templates:
            raise ValueError("templates: 'content' needs objects known to be absent, which boxes do not give; leave it out for boxed")
        return self


class Boxed(Natural[BoxedSettings]):
    """Photographs with boxes."""

    kind = "boxed"
    settings = BoxedSettings

    def choose(self, settings: BoxedSettings) -> Choices:
        from vlm_spatial.scenes.natural_choice import choices

        return choices(settings, Path(settings.boxes))

    def sources(self, settings: BoxedSettings) -> dict[str, Path]:
        return {"boxes": Path(settings.boxes)}
