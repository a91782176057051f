"""``interchange``: what is patched, and where."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.pool import PoolSettings
from vlm_spatial.config.settings import Count, Settings


class InterchangeSettings(Settings):
    """Interchange in the vision encoder, at the connector and in the language model."""

    vision_sites: tuple[str, ...] = ("vision.*", "connector")
    language_sites: tuple[str, ...] = Field(
        ("connector", "language.*"), description="sites of the language sweep, intact and under the ablations"
    )
    token_sets: tuple[Literal["object", "strip", "rim", "background", "all", "random", "random_object", "random_strip"], ...] = Field(
        ("object", "strip", "rim", "background", "all", "random", "random_object", "random_strip"),
        description="token sets replaced in the vision sweep; random_object and random_strip: controls from outside the objects, or strips",
    )
    unrelated_control: bool = Field(
        True,
        description="also patch from a scene that shares nothing with the clean one",
    )
    crosswise_sites: tuple[str, ...] = Field(
        ("connector", "language.*"), description="sites of the crosswise and mirror sweeps; the ablations use those of the crosswise one"
    )
    crosswise_sets: tuple[Literal["object", "strip", "rim", "random_object", "random_strip"], ...] = Field(
        ("object", "strip", "rim", "random_object", "random_strip"),
        description="what two slots exchange with the picture in which their contents are exchanged; none: leave it out",
    )
    crosswise_match: Literal["offset", "place"] = Field(
        "offset",
        description="cells of two strips that correspond: same offset from the object, or same place in the strip (as published)",
    )
    mirror_sets: tuple[Literal["object", "strip", "all"], ...] = Field(
        ("object", "strip", "all"), description="what the picture takes from its mirror image, left and right only; none: leave it out"
    )
    last_token_sites: tuple[str, ...] = Field(
        ("language.*",), description="layers at which the last position's residual is replaced; none: leave it out"
    )
    last_token_groups: Annotated[tuple[Literal["last", "question", "tail"], ...], Field(min_length=1)] = Field(
        ("last",),
        description="prompt positions of that sweep: the last one (as published), the question's tokens, and the chat template's behind "
        "it; claims and figure are of the last",
    )
    displaced_pairs: Count = Field(
        50,
        description="pairs of layout-decorrelated test scenes, of an axis, that tell slot from absolute place; 0: leave it out",
    )
    pool: PoolSettings = PoolSettings()
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")
