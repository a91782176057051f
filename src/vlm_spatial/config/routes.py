"""``routes``: which attention is closed, and where."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from vlm_spatial.config.settings import Count, PositiveCount, Settings

RouteName = Literal[
    "image_to_question",
    "image_to_answer",
    "question_to_answer",
    "image_to_both",
    "object_to_question",
    "reference_to_question",
    "rim_to_question",
    "strip_to_question",
    "background_to_question",
    "object_to_answer",
    "reference_to_answer",
    "rim_to_answer",
    "strip_to_answer",
    "background_to_answer",
    "between_slots",
    "background_to_objects",
]
"""Which tokens can no longer be attended to by which; ``image_to_both`` closes the image for question and answer at once."""
INSIDE_IMAGE: tuple[RouteName, ...] = ("between_slots", "background_to_objects")
TEXT_ROUTES: tuple[RouteName, ...] = tuple(name for name in get_args(RouteName) if name not in INSIDE_IMAGE)


class RoutesSettings(Settings):
    """Attention knockout between groups of tokens, and attention heads at the last token."""

    enabled: bool = Field(False, description="whether the stage is run")
    pairs: PositiveCount = Field(50, description="pairs of an axis: vision pairs, and for heads last-token pairs")
    routes: tuple[RouteName, ...] = Field(
        TEXT_ROUTES, description="routes that are closed; the last two, inside the image, cost most; none: leave it out"
    )
    window: PositiveCount | None = Field(
        None, description="layers in a window of closed attention; by default 9 of 28 layers or more, else a quarter of them"
    )
    every: PositiveCount | None = Field(None, description="layers from one window's centre to the next; by default 2 of 28 or more, else 1")
    controls: bool = Field(
        True, description="also close as many random keys, or half of the keys, and remove the values while the weights stay"
    )
    standing: tuple[RouteName, ...] = Field(
        (), description="routes closed in every run, the untouched ones too: for organisms that were trained so"
    )
    heads: bool = Field(True, description="also replace what attention heads write at the last token, alone and together")
    head_draws: PositiveCount = Field(20, description="draws of random heads of the same layers, the control")
    question_heads: Count = Field(
        50, description="heads replaced at the question's tokens: so many that gradients rank first, and as many random ones; 0: none"
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of edited runs")
