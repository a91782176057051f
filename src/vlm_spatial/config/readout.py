"""``readout``: whose residuals the answer is read from."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import PositiveCount, Settings

Group = Literal["image", "question", "word", "answer"]
Corrupted = Literal["grey", "noise"]


class ReadoutSettings(Settings):
    """Residuals of the image's tokens, the question's or the answer's taken from another run."""

    enabled: bool = Field(False, description="whether the stage is run")
    pairs: PositiveCount = Field(50, description="vision pairs of an axis")
    sites: tuple[str, ...] = Field(("language.*",), description="language layers after which residuals are replaced, one at a time")
    groups: tuple[Group, ...] = Field(
        ("image", "question", "word", "answer"), description="tokens whose residuals are replaced; word: the last of the object's name"
    )
    corrupted: tuple[Corrupted, ...] = Field(
        ("grey", "noise"), description="pictures shown instead, under the question's residuals of the untouched run in every layer"
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")
