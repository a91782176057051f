"""``datasets``: what the scenes of each dataset are, and what is asked about them."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vlm_spatial.config.settings import Count, Settings, Share, UserPath

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


class DetectorSettings(Settings):
    """A zero-shot object detector of transformers (OWL-ViT, OWLv2, Grounding DINO, ...) that finds the boxes of photos."""

    checkpoint: UserPath = Field(description="hub id such as google/owlv2-base-patch16-ensemble, or a folder")
    revision: str | None = Field(None, description="commit of a hub id; required for one")
    score: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="score from which a box counts as certain; photos with a box below half of it are set aside"
    )
    prompt: str = Field("a photo of a {}", description="what the detector is asked for, with {} for the object's name")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not Path(self.checkpoint).is_dir() and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("revision: a hub checkpoint needs the 40-digit commit it is pinned to, and a folder must exist")
        if self.prompt.count("{}") != 1:
            raise ValueError("prompt: must hold {} once, where the object's name goes")
        return self


class DatasetSettings(Settings):
    """One entry of ``datasets``."""

    kind: Literal["squares", "shapes", "objects", "whatsup"]
    axes: tuple[Literal["horizontal", "vertical"], ...] = Field(
        ("horizontal", "vertical"),
        description="whatsup: horizontal, as photos are merged side by side",
    )
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
    root: UserPath | None = Field(
        None,
        description="whatsup only: the folder that holds data/controlled_*_dataset.json",
    )
    subset: Literal["A", "B"] = Field("B", description="whatsup only: A controlled_images, B controlled_clevr")
    boxes: UserPath | None = Field(
        None,
        description="whatsup only: a JSON file of boxes; without it (and without a detector) they are found by comparing the photos",
    )
    detector: DetectorSettings | None = Field(None, description="whatsup only: find the boxes with a zero-shot detector instead")
    seed: Count = 0

    @model_validator(mode="before")
    @classmethod
    def _axes_of_photos(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "whatsup" and "axes" not in values:
            return {**values, "axes": ("horizontal",)}
        return values

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
        if self.kind == "whatsup" and self.axes != ("horizontal",):
            raise ValueError(
                "axes: photos are merged side by side, so whatsup has the horizontal axis only; name it alone or leave axes out"
            )
        if self.kind != "whatsup" and (self.root or self.boxes or self.detector):
            raise ValueError("root, boxes and detector: only a dataset of kind whatsup has them")
        if self.boxes and self.detector:
            raise ValueError("boxes and detector: give one of them, or neither")
        if self.kind != "whatsup" and not (self.scenes.train and self.scenes.validation and self.scenes.test):
            raise ValueError("scenes: train, validation and test must each be at least 1 (an empty dataset answers nothing)")
        return self
