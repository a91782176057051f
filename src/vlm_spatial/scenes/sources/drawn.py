"""Kinds of datasets whose scenes are drawn: what they have in common, and what each of them adds."""

from __future__ import annotations

from abc import abstractmethod
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from vlm_spatial.config.settings import Count, Settings, Share
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.layouts import Layout
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.scenes.sources.source import About, PlannedDataset, Source

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlm_spatial.scenes.scene import Content, Scene
    from vlm_spatial.tokens import Box


Palette = Literal["standard", "pure", "pure-orange"]


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
    layout: Layout = Field(
        None,
        description="jittered (the default), or objects that fill whole visual tokens: a published geometry (qwen2-vl, gemma-3, pixtral), "
        "or a section of your own",
    )
    background: Literal["varied", "white"] = Field("varied", description="varied: the plain tones or textures of this kind")
    items: Literal["sampled", "every_triple"] = Field(
        "sampled",
        description="every_triple: each ordered choice of three contents is one main scene of an axis, in one split only; the scenes "
        "must add up to their number",
    )

    @property
    def laid_out(self) -> tuple[int, int] | None:
        return None if self.layout is None else (self.layout.canvas, self.layout.grid)

    @model_validator(mode="after")
    def _blocks_have_their_size(self) -> Self:
        usual = Difficulty()
        for key in ("object_size", "jitter"):
            if self.layout is not None and getattr(self.difficulty, key) != getattr(usual, key):
                raise ValueError(f"difficulty.{key}: a layout of blocks says where objects stand; leave it out")
        return self

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
        """Every answer word that an organism of this kind learns, one word each."""

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

    def contents(
        self, words: list[str], generator: np.random.Generator, avoid: tuple[Content, ...], settings: DrawnSettings
    ) -> tuple[Content, ...]:
        """Objects with these words; whatever else of them is random looks like none in ``avoid``."""
        from vlm_spatial.scenes.scene import Content

        return tuple(Content(word, self.phrase(word), self.look(word, settings)) for word in words)

    def look(self, word: str, settings: DrawnSettings) -> str:
        """What :meth:`draw_content` draws for ``word``."""
        return word

    def vocabulary(self, settings: DrawnSettings) -> tuple[Content, ...]:
        """Everything that a scene can show, as a question about what is not there names it."""
        from vlm_spatial.scenes.scene import Content

        return tuple(Content(word, self.phrase(word), word) for word in self.object_words(settings))

    def sentences(self, settings: DrawnSettings) -> tuple[str, str]:
        """The question for an object by its place, and the same as an unfinished sentence."""
        return self.asking, self.stem

    def files(self, settings: DrawnSettings) -> list[Path]:
        return [] if settings.pairs.file is None else [Path(settings.pairs.file)]

    def check(self, settings: DrawnSettings, about: About) -> None:
        if settings.pairs.file is not None:
            from vlm_spatial.scenes.pair_lists import read_pairs

            with about("pairs.file"):
                read_pairs(Path(settings.pairs.file), settings)
        with about("scenes"):
            every_triple(self.object_words(settings), settings)
        count = len(self.object_words(settings))
        for key, needed, wanted in (
            ("pairs.language", 6, settings.pairs.language and not settings.pairs.file),
            ("pairs.last_token", 5, settings.pairs.last_token and not settings.pairs.file),
            ("items", 3, True),
        ):
            if wanted and count < needed:
                with about(key):
                    raise UserError(f"takes {needed} different contents, and the dataset has {count}; give more, or ask for none")

    def plan(self, settings: DrawnSettings, seed: int, boxes: Path | None = None) -> PlannedDataset:
        """See :meth:`Source.plan`."""
        from vlm_spatial.scenes.build import render
        from vlm_spatial.scenes.pairs import plan_pairs
        from vlm_spatial.scenes.plan import plan_scenes

        of_pairs, pairs = plan_pairs(settings, seed)
        planned = [*plan_scenes(settings, seed), *of_pairs]
        return PlannedDataset(planned, pairs, {item.scene_id: item.scene for item in planned}, render)


def every_triple(words: tuple[str, ...], settings: DrawnSettings) -> list[tuple[str, ...]]:
    """Each ordered choice of three words, sorted; none where scenes are sampled.

    Raises:
        UserError: if the splits do not add up to their number.
    """
    if settings.items != "every_triple":
        return []
    triples: list[tuple[str, ...]] = list(permutations(sorted(words), 3))
    split = settings.scenes
    wanted = split.train + split.validation + split.test
    if wanted != len(triples):
        raise UserError(
            f"{len(words)} contents make {len(triples)} ordered triples, and train, validation and test add up to {wanted}; "
            "every triple must be in one of them"
        )
    return triples


def whole(box: Box) -> tuple[int, int, int, int]:
    """The edges of a box of whole pixels as integers."""
    left, top, right, bottom = (int(edge) for edge in box)
    return left, top, right, bottom
