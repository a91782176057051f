"""``positions``: which visual tokens, or their position ids, change places."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import PositiveCount, Settings

Shuffle = Literal["object", "strip", "all"]


class PositionsSettings(Settings):
    """Visual tokens and their position ids exchanged apart: is a token's place its rotary index, or its turn in the sequence?"""

    enabled: bool = Field(False, description="whether the stage is run")
    pairs: PositiveCount = Field(50, description="conflict pairs of an axis")
    token_sets: tuple[Literal["object", "strip"], ...] = Field(("object", "strip"), description="blocks of two slots that are exchanged")
    window: PositiveCount | None = Field(
        None, description="layers in a window of exchanged ids; by default 9 of 28 layers or more, else a quarter of them"
    )
    every: PositiveCount | None = Field(None, description="layers from one window's centre to the next; by default 2 of 28 or more, else 1")
    shift: PositiveCount = Field(8, description="by how much ids are shifted")
    shuffles: tuple[Shuffle, ...] = Field(("object", "strip", "all"), description="within what visual tokens are shuffled")
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of edited runs")
