"""Which pairs a sweep keeps, by how the unpatched model answers them."""

from typing import Literal

from pydantic import Field

from vlm_spatial.config.settings import Count, Settings

RightBy = Literal["candidates", "top1_word"]
"""What makes an answer right: the best of its candidates, or the likeliest token of all."""


class PoolSettings(Settings):
    """Which pairs are patched and counted."""

    right_by: RightBy = Field(
        "candidates",
        description="when an unpatched run counts as right: the answer is the best candidate, or the likeliest token of all is the word, "
        "letters and digits alone in lower case (as published)",
    )
    first: Count = Field(
        0,
        description="patch only the first so many pairs, of an axis and of each slot asked about, of which both runs are right (published: "
        "50); 0: all pairs, of which those answered wrong are kept apart",
    )
