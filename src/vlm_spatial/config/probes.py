"""``probes``: how slot probes are trained and scored."""

from typing import Annotated, Literal

from pydantic import Field

from vlm_spatial.config.settings import PositiveCount, Settings


class ProbesSettings(Settings):
    """Slot probes and their controls."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.1, 1.0, 10.0),
        description="inverse regularisation strengths C tried on the validation split",
    )
    token_sets: tuple[Literal["object", "strip", "rim", "background", "all"], ...] = ("object", "strip", "rim", "background", "all")
    published_sites: tuple[str, ...] = Field(
        (),
        description="sites with a probe of the published recipe, too (connector): raw activations, 200 steps of AdamW, nothing chosen",
    )
    strip_map_scenes: PositiveCount = Field(24, description="test scenes an axis whose strip map is kept")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where probes are fitted; auto: on CUDA where there is one and it pays (512 features or more, the model not on cpu)",
    )
