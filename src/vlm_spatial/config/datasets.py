"""``datasets``: what the scenes of each dataset are, and what is asked about them."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from vlm_spatial.config.settings import Count, Settings, Share

AXES = ("horizontal", "vertical")
Template = Literal["slot_to_object", "object_to_slot", "relation_to_object", "content"]
TEMPLATES: tuple[Template, ...] = ("slot_to_object", "object_to_slot", "relation_to_object")


class Splits(Settings):
    """How many scenes each split holds, for each axis."""

    train: Count = 300
    validation: Count = 100
    test: Count = 200


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


class Variants(Settings):
    """Control scenes made beside the main ones, for each axis and split (``blank``: one image in all)."""

    decorrelated: Splits = Field(
        Splits(train=150, validation=50, test=100),
        description="objects anywhere along the axis: slot is not absolute position",
    )
    single: Count = Field(0, description="scenes with one object only, in the test split")
    mirror: bool = Field(
        False,
        description="every main test scene flipped along its axis, answers flipped with it",
    )


class Pairs(Settings):
    """How many clean/counterfactual pairs each experiment gets, for each axis."""

    vision: Count = 50
    language: Count = 50
    conflict: Count = 50


class DatasetSettings(Settings):
    """One entry of ``datasets``."""

    kind: Literal["squares", "shapes", "objects", "whatsup"]
    axes: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal", "vertical")
    scenes: Splits = Splits()
    variants: Variants = Variants()
    pairs: Pairs = Pairs()
    templates: tuple[Template, ...] = Field(
        TEMPLATES,
        description="questions asked; 'content' (is there a ... in the picture?) is not spatial and measures what an intervention costs",
    )
    wording: Literal["plain", "one_word"] = Field(
        "plain",
        description="'plain' is what organisms are trained on; 'one_word' asks an instruction-tuned model for one word",
    )
    difficulty: Difficulty = Difficulty()
    root: str | None = Field(
        None,
        description="whatsup only: the folder that holds data/controlled_*_dataset.json",
    )
    subset: Literal["A", "B"] = Field("B", description="whatsup only: A controlled_images, B controlled_clevr")
    boxes: str | None = Field(
        None,
        description="whatsup only: a JSON file of boxes; without it they are found from the photos",
    )
    seed: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.axes)) != len(self.axes) or not self.axes:
            raise ValueError("axes: name each of horizontal, vertical at most once, and at least one")
        if not set(TEMPLATES) & set(self.templates):
            raise ValueError("templates: name at least one of " + ", ".join(TEMPLATES))
        if self.kind == "whatsup" and "content" in self.templates:
            raise ValueError("templates: 'content' needs objects known to be absent, which photos do not give; leave it out for whatsup")
        if self.kind == "whatsup" and self.root is None:
            raise ValueError("root: a whatsup dataset needs the folder that holds data/controlled_*_dataset.json")
        if self.kind == "whatsup" and "horizontal" not in self.axes:
            raise ValueError("axes: photos can be merged along the horizontal axis only; name horizontal")
        if self.kind != "whatsup" and (self.root or self.boxes):
            raise ValueError("root and boxes: only a dataset of kind whatsup has them")
        if self.kind != "whatsup" and not (self.scenes.train and self.scenes.validation and self.scenes.test):
            raise ValueError("scenes: train, validation and test must each be at least 1 (an empty dataset answers nothing)")
        return self
