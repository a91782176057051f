"""``activations``: what is kept of the visual tokens."""

from typing import Literal

from pydantic import Field

from vlm_spatial.config.settings import PositiveCount, Settings


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
    batch: PositiveCount | Literal["auto"] = "auto"
    shard_scenes: PositiveCount = Field(64, description="scenes in one shard file: the unit of resumption")
