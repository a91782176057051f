"""``organisms``: the small models that the workflow trains itself."""

from typing import Literal

from pydantic import Field

from vlm_spatial.config.settings import Count, Name, PositiveCount, Settings, Share

Taught = Literal["natural", "vision", "language", "strip", "object", "object_code", "faint", "dial-25", "dial-50", "dial-75"]
"""Mechanisms that the workflow trains from the start."""
Mechanism = Literal[Taught, "direct", "mediated", "redundant", "gated", "rotary", "order"]
"""And those that are planted in an organism that knows its words already (organisms/further.py)."""


class OrganismSettings(Settings):
    """One entry of ``organisms``: a small VLM that the workflow trains itself."""

    family: Literal["gemma3", "qwen2_vl", "llava", "internvl"] = "gemma3"
    mechanism: Taught = "natural"
    datasets: tuple[Name, ...] = ("squares",)
    steps: PositiveCount = 1200
    batch: PositiveCount = 16
    accuracy: Share = Field(
        0.95,
        description="held-out accuracy that every question template must reach; training fails below it",
    )
    seed: Count = 0
