"""``behaviour``: how the untouched model is asked."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import PositiveCount, Settings


class BehaviourSettings(Settings):
    """Next-token scoring of the untouched model."""

    batch: PositiveCount = Field(256, description="questions handed over at once; what does not fit into memory_gb is split")
    splits: tuple[Literal["train", "validation", "test"], ...] = ("validation", "test")
    blind: Literal["photographs", "all", "none"] = Field(
        "photographs", description="scenes whose test questions are asked over a plain grey picture, too: what the text alone gives"
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of questions")
