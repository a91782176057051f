"""What ``coco``, ``gqa`` and ``boxed`` have in common: photographs with boxes, of which scenes are chosen, none is merged or pasted."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from vlm_spatial.config.settings import Share, UserPath
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.settings import OF_TWO, DatasetSettings, Pairs, Variants
from vlm_spatial.scenes.sources.source import About, PlannedDataset, S, Source

if TYPE_CHECKING:
    from vlm_spatial.scenes.chosen import Choices


class NaturalSettings(DatasetSettings):
    """Photographs with boxes."""

    images: UserPath = Field(description="the folder that the images' names start from; links are followed")
    canvas: Literal["square", "native", "squeezed", "as_is"] = Field(
        "square",
        description="square: each photograph, with padding, on one square canvas, and so on one token grid. native: a canvas of its own "
        "shape, for models that keep the aspect ratio; token grids then differ between scenes. squeezed: each squeezed to a square, as "
        "published for Gemma-3. as_is: every pixel, as published for the others, and no conflict pairs; the model's processor scales it",
    )
    objects: Literal[2, 3] = Field(3, description="objects of a scene; two stand in the outer slots")
    min_area: Share = Field(0.01, description="smallest box of an object, as a share of the image")
    separation: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.12, description="least distance of two neighbours' centres along the axis, as a share of the image's side"
    )
    overlap: Share = Field(0.3, description="largest part of the smaller of two boxes that lies in the other")
    disjoint: bool = Field(False, description="whether the boxes' intervals along the axis must not overlap at all")
    pairs: Pairs = Field(
        Pairs(vision=50, language=0, conflict=50),
        description="vision: an image and its mirror image, horizontally; language: none",
    )
    variants: Variants = Field(Variants(mirror=True), description="mirror only, on the horizontal axis")

    @property
    def own_shapes(self) -> bool:
        return self.canvas in ("native", "as_is")

    @model_validator(mode="after")
    def _as_photographed(self) -> Self:
        if isinstance(self.wording, dict):
            text = self.wording.get("relation_to_object", "")
            if self.objects != 2 or tuple(self.templates) != ("relation_to_object",) or "{first}" not in text:
                named = ", ".join(f"{{{name}}}" for name in OF_TWO)
                raise ValueError(
                    f"wording: a text of one's own is for objects: 2 and templates: [relation_to_object] and holds {named}; elsewhere use "
                    "plain, one_word or words with {question}"
                )
        if self.wording == "stem":
            raise ValueError("wording: 'stem' has no sentence that names the objects of a photograph; use plain, one_word or your own")
        if self.canvas == "as_is" and self.pairs.conflict:
            raise ValueError("pairs.conflict: exchanges blocks of whole tokens, which as_is does not have; set it to 0, or canvas: native")
        made = Variants()
        if self.variants.single or self.variants.decorrelated != made.decorrelated:
            raise ValueError("variants: decorrelated and single are drawn; photographs have mirror only, leave the others out")
        return self


class ListedSettings(NaturalSettings):
    """Photographs for which What'sUp has a list of two objects each."""

    questions: UserPath | None = Field(
        None,
        description="coco_qa_two_obj.json (gqa: vg_qa_two_obj.json) of What'sUp: each item becomes a test scene of two objects, asked in "
        "both orders of its options",
    )
    items_ask: Literal["subject", "both"] = Field(
        "both", description="whom an item's question is about. subject: the caption's, as published. both: either object, the other given"
    )
    items_boxes: Literal["apart", "largest"] = Field(
        "apart",
        description="which items are asked. apart: those whose two names have one box each in the picture, and boxes that do not overlap "
        "along the axis. largest: every one, as published; of several boxes of a name the largest is taken, and overlap is allowed",
    )


class Natural(Source[S]):
    """A kind of photographs with boxes."""

    settings: type[S]

    @abstractmethod
    def choose(self, settings: S) -> Choices:
        """The scenes that the boxes give, before any picture is opened."""

    @abstractmethod
    def sources(self, settings: S) -> dict[str, Path]:
        """The files that hold boxes and questions, by their key."""

    def plan(self, settings: S, seed: int, boxes: Path | None = None) -> PlannedDataset:
        from vlm_spatial.scenes.natural import plan_natural

        assert isinstance(settings, NaturalSettings)
        return plan_natural(settings, self.choose(settings), seed)

    def files(self, settings: S) -> list[Path]:
        return [*self.sources(settings).values(), *self.choose(settings).files()]

    def check_paths(self, settings: S) -> None:
        assert isinstance(settings, NaturalSettings)
        if not Path(settings.images).is_dir():
            raise UserError(f"images: no folder {settings.images!r}; give the folder that the images' names start from")
        for key, path in self.sources(settings).items():
            if not path.is_file():
                raise UserError(f"{key}: no file {str(path)!r}")

    def check(self, settings: S, about: About) -> None:
        with about("images"):
            self.choose(settings)

    def object_words(self, settings: S) -> tuple[str, ...]:
        from vlm_spatial.scenes.natural_questions import content_named

        found = self.choose(settings)
        labels = {label for chosen in (*found.scenes, *found.items) for label in chosen.labels}
        return tuple(sorted({content_named(label).word for label in labels}))

    def outlook(self, settings: S) -> str:
        return self.choose(settings).outlook()
