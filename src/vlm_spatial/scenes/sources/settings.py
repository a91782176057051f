"""What every kind of dataset can be told: how many scenes, which variants and pairs, and what is asked about them."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vlm_spatial.config.settings import Count, Settings, UserPath

Template = Literal["slot_to_object", "object_to_slot", "relation_to_object", "content"]
TEMPLATES: tuple[Template, ...] = ("slot_to_object", "object_to_slot", "relation_to_object")


_FIELDS: dict[Template, tuple[str, ...]] = {
    "slot_to_object": ("place",),
    "object_to_slot": ("object",),
    "relation_to_object": ("relation", "reference"),
    "content": ("object",),
}
OF_TWO = ("object", "reference", "first", "second")
"""Fields of the relation of two objects that are named: ``first`` and ``second`` are the relations to choose from, in either order."""
BLANK = "{blank}"


def _known_wording(value: str | dict[Template, str]) -> str | dict[Template, str]:
    if isinstance(value, dict):
        for template, text in value.items():
            _check_statement(template, text)
        return value
    if value not in ("plain", "one_word", "stem") and not re.fullmatch(r"[^{}]*\{question\}[^{}]*", value):
        raise ValueError("must be 'plain', 'one_word', 'stem' or own words that hold {question} once")
    return value


def _check_statement(template: Template, text: str) -> None:
    found = re.findall(r"{(.*?)}", text)
    needed = OF_TWO if template == "relation_to_object" and {"first", "second"} & set(found) else _FIELDS[template]
    if BLANK in text and not (text.endswith(BLANK) and text.count(BLANK) == 1):
        raise ValueError(f"{template}: {BLANK} is where the model goes on, so it must be the end of the statement, found {text!r}")
    allowed = [f"{{{name}}}" for name in needed]
    if sorted(name for name in found if name != "blank") != sorted(needed):
        raise ValueError(f"{template}: must hold {' and '.join(allowed)} once, and may end in {BLANK}, found {text!r}")


Wording = Annotated[str | dict[Template, str], AfterValidator(_known_wording)]


class Splits(Settings):
    """How many scenes each split holds, for each axis."""

    train: Count = 300
    validation: Count = 100
    test: Count = 200


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
    decorrelated: bool = Field(
        False,
        description="drawn scenes: their objects stand anywhere along the axis, so that in no experiment the slot is a third of the canvas",
    )
    file: UserPath | None = Field(
        None,
        description="drawn scenes: a JSON list of the pairs of vision, language and last_token, in place of a draw of so many",
    )
    last_token: Count = Field(
        0,
        description="of five contents, the middle one shared, asked for opposite sides of it (as published), drawn scenes only; 0: the "
        "language pairs serve",
    )


class DatasetSettings(Settings):
    """One entry of ``datasets``. Each kind of dataset has a subclass of its own, see :mod:`vlm_spatial.scenes.sources.registry`."""

    kind: str
    axes: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal", "vertical")
    scenes: Splits = Splits()
    variants: Variants = Variants()
    pairs: Pairs = Pairs()
    templates: tuple[Template, ...] = Field(
        TEMPLATES,
        description="questions asked; 'content' (is there a ... in the picture?) is not spatial and measures what an intervention costs",
    )
    wording: Wording = Field(
        "plain",
        description="'plain' is what organisms are trained on; 'one_word' asks an instruction-tuned model for one word; 'stem' is an "
        "unfinished sentence that the answer completes; own words hold {question}, such as '{question} Reply with one token.'; or "
        "a text for each template, with {place}, {object}, or {relation} and {reference}; a statement may end in {blank}. Of two objects "
        "in photographs: {object}, {reference}, {first} and {second}, the relations to choose from",
    )
    asked_slots: Annotated[tuple[Literal[0, 1, 2], ...], Field(min_length=1)] = Field(
        (0, 1, 2), description="slots whose objects are asked for; [0, 2] are the outer two"
    )
    seed: Count = 0

    drawn: ClassVar[bool] = False
    """Whether its scenes are drawn, so that any number of them can be sampled and an organism trained on them."""

    @property
    def boxes_stage(self) -> dict[str, Any] | None:
        """Settings of the boxes stage that finds this dataset's boxes; None for a dataset that has none to find."""
        return None

    @property
    def checkpoints(self) -> dict[str, Path]:
        """Folders of models that its boxes stage loads, by the key that names them."""
        return {}

    @property
    def shared_middle(self) -> bool:
        """Whether pictures can be had that share the middle object and no other."""
        return self.drawn

    @property
    def own_shapes(self) -> bool:
        """Whether images have shapes of their own, which a family of fixed squares would squeeze or cut."""
        return False

    @property
    def laid_out(self) -> tuple[int, int] | None:
        """Pixels along a side of the canvas, and visual tokens that it is laid out for; None where any grid will do."""
        return None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if len(set(self.axes)) != len(self.axes) or not self.axes:
            raise ValueError("axes: name each of horizontal, vertical at most once, and at least one")
        if self.pairs.file and not self.drawn:
            raise ValueError("pairs.file: lists contents of drawn scenes; of photographs pairs are found, leave it out")
        if self.pairs.decorrelated and not self.drawn:
            raise ValueError("pairs.decorrelated: moves drawn objects; photographs show theirs where they stand, leave it out")
        if self.pairs.last_token and not self.shared_middle:
            raise ValueError("pairs.last_token: its pictures are drawn; of photographs the language pairs serve, leave it out")
        if not set(TEMPLATES) & set(self.templates):
            raise ValueError("templates: name at least one of " + ", ".join(TEMPLATES))
        if not set(self.asked_slots) & {0, 2}:
            raise ValueError("asked_slots: must hold 0 or 2, whose objects every experiment exchanges")
        if self.drawn and isinstance(self.wording, dict) and "{first}" in self.wording.get("relation_to_object", ""):
            raise ValueError("wording: {first} and {second} are relations of two objects in photographs; use {relation} and {reference}")
        missing = [template for template in self.templates if isinstance(self.wording, dict) and template not in self.wording]
        if missing:
            raise ValueError(f"wording: has no text for the template {missing[0]}; give one for each of templates")
        return self
