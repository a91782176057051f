"""``kind: coco``: photographs of COCO, with its instances JSON as published, and What'sUp's questions about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vlm_spatial.config.settings import UserPath
from vlm_spatial.scenes.sources.natural import ListedSettings, Natural

if TYPE_CHECKING:
    from vlm_spatial.scenes.chosen import Choices


class CocoSettings(ListedSettings):
    """Photographs of COCO in which three (or two) categories occur once each."""

    kind: Literal["coco"]
    annotations: UserPath = Field(description="instances_*.json as published")


class Coco(Natural[CocoSettings]):
    """Photographs of COCO."""

    kind = "coco"
    settings = CocoSettings

    def choose(self, settings: CocoSettings) -> Choices:
        from vlm_spatial.scenes.natural_choice import choices

        return choices(settings, Path(settings.annotations), Path(settings.questions) if settings.questions else None)

    def sources(self, settings: CocoSettings) -> dict[str, Path]:
        found = {"annotations": Path(settings.annotations)}
        return found if settings.questions is None else found | {"questions": Path(settings.questions)}
