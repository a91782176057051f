"""``kind: gqa``: photographs of GQA (Visual Genome), with its scene graphs as published, and What'sUp's questions about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from vlm_spatial.config.settings import UserPath
from vlm_spatial.scenes.sources.natural import ListedSettings, Natural

if TYPE_CHECKING:
    from vlm_spatial.scenes.chosen import Choices


class GqaSettings(ListedSettings):
    """Photographs of GQA in which three (or two) names occur once each."""

    kind: Literal["gqa"]
    scene_graphs: UserPath = Field(description="train_sceneGraphs.json or val_sceneGraphs.json as published; images are {image id}.jpg")

    @model_validator(mode="after")
    def _knows_what_is_there(self) -> Self:
        if "content" in self.templates:
            raise ValueError("templates: 'content' needs objects known to be absent, which scene graphs do not give; leave it out for gqa")
        return self


class Gqa(Natural[GqaSettings]):
    """Photographs of GQA."""

    kind = "gqa"
    settings = GqaSettings

    def choose(self, settings: GqaSettings) -> Choices:
        from vlm_spatial.scenes.natural_choice import choices
        from vlm_spatial.scenes.scene_graphs import read_scene_graphs

        questions = None if settings.questions is None else Path(settings.questions)
        return choices(settings, Path(settings.scene_graphs), questions, read_scene_graphs)

    def sources(self, settings: GqaSettings) -> dict[str, Path]:
        found = {"scene_graphs": Path(settings.scene_graphs)}
        return found if settings.questions is None else found | {"questions": Path(settings.questions)}
