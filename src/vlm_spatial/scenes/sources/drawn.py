"""Kinds of datasets whose scenes are drawn: what they have in common, and what each of them adds."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from vlm_spatial.config.settings import Count, Settings, Share
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.scenes.sources.source import PlannedDataset, Source

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene
    from vlm_spatial.tokens import Box


class Difficulty(Settings):
    """What makes a rendered scene harder. The defaults are the easy, paper-like scenes."""

    object_size: tuple[float, float] = Field(
        (0.16, 0.26),
        description="smallest and largest side of an object, as a share of the canvas",
    )
    jitter: Share = Field(
        0.5,
        description="how far an object strays from its slot's centre, as a share of the free room",
    )
    distractors: Count = Field(0, description="small marks without a name scattered over the background")
    clutter: Count = Field(0, description="grey patches of up to an object's size behind the objects")
    blur: Annotated[float, Field(ge=0)] = Field(0.0, description="standard deviation in pixels of a Gaussian blur of the whole image")
    noise: Share = Field(
        0.0,
        description="standard deviation of Gaussian pixel noise, as a share of full scale",
    )

    @field_validator("object_size")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 0.3:
            raise ValueError("must be two shares with 0 < smallest <= largest <= 0.3")
        return value


class DrawnSettings(DatasetSettings):
    """A dataset of drawn scenes."""

    drawn: ClassVar[bool] = True

    difficulty: Difficulty = Difficulty()

    @model_validator(mode="after")
    def _holds_scenes(self) -> Self:
        if not (self.scenes.train and self.scenes.validation and self.scenes.test):
            raise ValueError("scenes: train, validation and test must each be at least 1 (an empty dataset answers nothing)")
        return self


class Drawn(Source[DrawnSettings]):
    """A kind of objects that are drawn on a canvas. Subclasses are stateless."""

    asking: ClassVar[str] = "Which object is {place}?"
    """The question for an object by its place."""
    stem: ClassVar[str] = "The object {place} is a"
    """The same as an unfinished sentence."""

    def object_words(self, settings: DrawnSettings) -> tuple[str, ...]:
        return self.words()

    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """Every answer word, one word each."""

    @abstractmethod
    def backgrounds(self) -> tuple[str, ...]:
        """Names of the backgrounds."""

    @abstractmethod
    def background(self, scene: Scene, generator: np.random.Generator) -> Image.Image:
        """The empty canvas of ``scene``, RGB."""

    @abstractmethod
    def draw_content(self, image: Image.Image, content: Content, box: tuple[int, int, int, int]) -> None:
        """Draw one object into its box."""

    def phrase(self, word: str) -> str:
        """How a question refers to the object that ``word`` names."""
        return word

    def contents(self, words: list[str], generator: np.random.Generator, avoid: tuple[Content, ...]) -> tuple[Content, ...]:
        """Objects with these words; whatever else of them is random looks like none in ``avoid``."""
        from vlm_spatial.scenes.scene import Content

        return tuple(Content(word, self.phrase(word), word) for word in words)

    def plan(self, settings: DrawnSettings, seed: int, boxes: Path | None = None) -> PlannedDataset:
        """See :meth:`Source.plan`."""
        from vlm_spatial.scenes.build import render
        from vlm_spatial.scenes.pairs import plan_pairs
        from vlm_spatial.scenes.plan import plan_scenes

        of_pairs, pairs = plan_pairs(settings, seed)
        planned = [*plan_scenes(settings, seed), *of_pairs]
        return PlannedDataset(planned, pairs, {item.scene_id: item.scene for item in planned}, render)


def whole(box: Box) -> tuple[int, int, int, int]:
    """The edges of a box of whole pixels as integers."""
    left, top, right, bottom = (int(edge) for edge in box)
    return left, top, right, bottom
