"""``figures``: looks."""

from typing import Literal

from pydantic import Field

from vlm_spatial.config.settings import Name, PositiveCount, Settings

PublishedModel = Literal["Qwen2-VL-7B-Instruct", "gemma-3-4b-it", "pixtral-12b"]
"""Models that ``report/published.csv`` has figures of."""


class FiguresSettings(Settings):
    """Looks only: nothing here reruns a model stage."""

    title: str = "Where does it compute which object is where?"
    explorer_scenes: PositiveCount = Field(12, description="scenes an axis in the report's scene explorer")
    published: dict[Name, PublishedModel] = Field(
        {}, description="your model, and the model whose published figures the report holds beside it", examples=[{"mine": "gemma-3-4b-it"}]
    )
    palette: Literal["okabe-ito", "viridis"] = "okabe-ito"
