"""``amplification``: how far the slot signal is scaled, and its controls."""

from typing import Annotated

from pydantic import Field

from vlm_spatial.config.pool import RightBy
from vlm_spatial.config.settings import PositiveCount, Settings


class AmplificationSettings(Settings):
    """Scaling of the slot signal."""

    sites: tuple[str, ...] = Field(
        ("vision.-2", "connector"),
        description="vision layers (vision.-1 is the last one) and connector; validation chooses among them; each needs its probes",
    )
    projection_alphas: tuple[float, ...] = Field(
        (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0),
        description="label-free form, h + (alpha - 1) P (h - mean); 1 changes nothing",
    )
    oracle_alphas: tuple[float, ...] = Field(
        (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0),
        description="oracle form, h + alpha d(slot); 0 changes nothing",
    )
    random_draws: Annotated[int, Field(ge=2)] = Field(
        20,
        description="random subspaces of the same rank, controls of both forms; each chooses on validation as the label-free form does",
    )
    control_alphas: tuple[float, ...] = Field(
        (4.0,), description="alphas at which the label-free form's controls run at every site, beside the one that validation chooses there"
    )
    item_alphas: tuple[float, ...] = Field(
        (),
        description="two-object items asked in both orders (COCO-spatial): the published correction by two probe columns, at these alphas "
        "(published: 0 to 15); none: leave it out",
    )
    items_right_by: RightBy = Field(
        "candidates",
        description="when a question of an item counts as right: the answer is the best of its options, or the likeliest token of all "
        "is the word, letters and digits alone in lower case (as published)",
    )
    item_random_draws: PositiveCount = Field(5, description="random columns that move every token as far: its controls")
    attention_factors: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (),
        description="factors of the last query's attention scores on the image, in all heads and layers (published: 0.5, 0.8, 1.2, 1.5, "
        "2), one by one, and two of them by how sure the untouched answer is; 1 changes nothing; none: leave it out",
    )
    norm_alphas: tuple[float, ...] = Field(
        (), description="visual tokens given the mean norm of the text's embeddings: 0 changes nothing, 1 is that norm; none: leave it out"
    )
    rotary_alphas: tuple[float, ...] = Field(
        (),
        description="frequency i of n of the vision encoder's rotary positions turned 1 + α (i / n)^`rotary_power` times as fast "
        "(published: 99); 0 changes nothing; none: leave it out",
    )
    rotary_power: Annotated[float, Field(gt=0)] = Field(8.0, description="see `rotary_alphas` (published: 6 to 8)")
    role_alphas: tuple[float, ...] = Field(
        (),
        description="strengths of what is added at objects' names. Where a question names two: half of the role direction at the one that "
        "is asked about, and less by as much at the other. Where it names one and asks for its place: the spatial ID of its slot. "
        "0 changes nothing; none: leave it out",
    )
    role_sites: tuple[str, ...] = Field(
        ("language.*",), description="language layers after which `role_alphas` act; validation chooses among them"
    )
    questions: PositiveCount = Field(150, description="questions of an axis and a split, whole scenes drawn at random")
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of corrected runs")
