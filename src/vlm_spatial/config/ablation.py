"""``ablation``: how ordering is removed."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.pool import PoolSettings
from vlm_spatial.config.settings import PositiveCount, Settings


class AblationSettings(Settings):
    """Removal of the layout from the vision output."""

    methods: tuple[Literal["erasure", "neutral"], ...] = Field(
        ("erasure", "neutral"),
        description="erasure: LEACE at the connector; neutral: every object encoded alone, where its slot does not show",
    )
    neutral_place: Literal["random", "centre", "middle"] = Field(
        "random",
        description="where neutral encodes an object: at the place of a slot drawn at random, or at the canvas centre or at the "
        "middle slot (as published), which say that it stands in the middle",
    )
    controls: bool = Field(
        True,
        description="also ask with each object encoded alone in its own place, and with shuffled slots erased: neither removes the layout",
    )
    ordering_layers: Literal["peak", "from_peak"] = Field(
        "from_peak",
        description="where the language ordering is erased: at the layer where it peaks, or there and at every later one",
    )
    crosswise_sets: tuple[Literal["object", "strip", "rim", "random_object", "random_strip"], ...] = Field(
        ("object", "strip"), description="what the crosswise sweep exchanges under each method; none: leave it out"
    )
    questions: PositiveCount | Literal["all"] = Field(
        300,
        description="test questions of an axis asked under every condition, whole scenes drawn; all: those of every split (as published)",
    )
    fit_scenes: PositiveCount = Field(
        150,
        description="training scenes of an axis that the language ordering (to be erased) and each condition's slot probe are fitted on",
    )
    pool: PoolSettings = Field(PoolSettings(), description="judged under each ablation, as published")
    batch: PositiveCount = 32
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")
