"""``readout``: whose residuals the answer is read from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vlm_spatial.config.settings import Count, PositiveCount, Settings

Group = Literal["image", "question", "word", "answer"]
Corrupted = Literal["grey", "noise"]


class ReadoutSettings(Settings):
    """Residuals of the image's tokens, the question's or the answer's taken from another run, or moved along spatial IDs."""

    @model_validator(mode="after")
    def _strengths(self) -> Self:
        if self.id_questions and not self.id_alphas:
            raise ValueError("id_alphas: name at least one, or set id_questions to 0")
        return self

    enabled: bool = Field(False, description="whether the stage is run")
    pairs: PositiveCount = Field(50, description="vision pairs of an axis")
    sites: tuple[str, ...] = Field(("language.*",), description="language layers after which residuals are replaced, one at a time")
    groups: tuple[Group, ...] = Field(
        ("image", "question", "word", "answer"), description="tokens whose residuals are replaced; word: the last of the object's name"
    )
    id_questions: Count = Field(
        120, description="training questions of an axis from which spatial IDs are learned, at the names of objects; 0: leave them out"
    )
    id_alphas: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.5, 1.0, 1.5, 2.0), description="how many natural units are added")
    id_norms: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (5.0,), description="also step so many times the residual's own norm (published: 5); none: leave it out"
    )
    id_erased: bool = Field(True, description="also remove the slot from the residual at the name (LEACE)")
    id_draws: PositiveCount = Field(
        20, description="random vectors of the same length, added at the largest of these, and subspaces: controls"
    )
    mirror: bool = Field(
        False, description="also take residuals from the mirrored picture, in pairs of the horizontal axis that ask about an outer object"
    )
    corrupted: tuple[Corrupted, ...] = Field(
        ("grey", "noise"), description="pictures shown instead, under the question's residuals of the untouched run in every layer"
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")
