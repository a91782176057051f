"""``figures``: looks."""

from typing import Literal

from pydantic import Field

from vlm_spatial.config.settings import PositiveCount, Settings


class FiguresSettings(Settings):
    """Looks only: nothing here reruns a model stage."""

    title: str = "Where does it compute which object is where?"
    explorer_scenes: PositiveCount = Field(12, description="scenes an axis in the report's scene explorer")
    palette: Literal["okabe-ito", "viridis"] = "okabe-ito"
