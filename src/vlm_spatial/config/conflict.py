"""``conflict``: which tokens change places."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import Settings


class ConflictSettings(Settings):
    """Exchange of two slots' visual tokens at the connector."""

    token_sets: tuple[Literal["object", "strip"], ...] = ("object", "strip")
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")
