"""``interchange``: what is patched, and where."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import Settings


class InterchangeSettings(Settings):
    """Interchange in the vision encoder, at the connector and in the language model."""

    vision_sites: tuple[str, ...] = ("vision.*", "connector")
    language_sites: tuple[str, ...] = Field(
        ("connector", "language.*"), description="sites of the language sweep, intact and under the ablations"
    )
    token_sets: tuple[Literal["object", "strip", "rim", "background", "all", "random"], ...] = (
        "object",
        "strip",
        "rim",
        "background",
        "all",
        "random",
    )
    unrelated_control: bool = Field(
        True,
        description="also patch from a scene that shares nothing with the clean one",
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")
