"""``activations``: what is kept of the visual tokens."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import Count, PositiveCount, Settings


class ActivationsSettings(Settings):
    """What is written to ``activations.zarr``."""

    sites: tuple[str, ...] = Field(
        ("vision.*", "connector", "language.*"),
        description="site names or patterns; vision.*, language.0, ...",
    )
    pooling: Literal["none", "cell", "token_set"] = Field(
        "cell",
        description="none: every patch; cell: vision patches averaged to the token they become; token_set: mean over each token set",
    )
    tokens: Annotated[int, Field(ge=6)] | Literal["all"] = Field(
        16,
        description="visual tokens of a scene kept at sites other than the connector, where the grid has four times as many; "
        "all: every token everywhere (pooling none and token_set keep what they name)",
    )
    whole_scenes: Count = Field(
        4,
        description="test scenes of an axis and variant that keep every token all the same, for strip maps; blank scenes do, too",
    )
    batch: PositiveCount | Literal["auto"] = "auto"
    shard_scenes: PositiveCount = Field(64, description="scenes in one shard file: the unit of resumption")
