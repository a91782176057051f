"""``models``: what to analyse."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vlm_spatial.config.organisms import Mechanism
from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.config.settings import Name, PositiveCount, Settings, UserPath

_BESIDE = Path(__file__).parents[3]


def _kept(path: str) -> str:
    """The small models beside the Snakefile are found from every working folder."""
    kept = path.startswith("organisms/") and not Path(path).is_dir() and (_BESIDE / path).is_dir()
    return str(_BESIDE / path) if kept else path


Checkpoint = Annotated[UserPath, AfterValidator(_kept)]


class ModelSettings(Settings):
    """One entry of ``models``: what to analyse. Exactly one of ``organism`` and ``checkpoint``."""

    organism: Name | None = Field(None, description="name of an entry of organisms")
    checkpoint: Checkpoint | None = Field(None, description="hub id such as Qwen/Qwen2-VL-7B-Instruct, or a folder")
    revision: str | None = Field(None, description="commit of a hub id; required for one")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_map: Literal["auto"] | None = Field(
        None,
        description="'auto' spreads a checkpoint over several devices (needs accelerate)",
    )
    attn_implementation: Literal["sdpa", "eager"] | None = Field(
        None, description="transformers' attention; the family's own by default (others do not give the engine's masks)"
    )
    peft: UserPath | None = Field(
        None, description="folder of a LoRA adapter in PEFT's format; merged when the model is loaded, and part of its identity"
    )
    min_pixels: PositiveCount | None = Field(None, description="families with native resolution: smallest area that images are scaled to")
    max_pixels: PositiveCount | None = Field(None, description="families with native resolution: largest area that images are scaled to")
    prompting: PromptingSettings = PromptingSettings()
    quirks: QuirkSettings = QuirkSettings()
    mechanism: Mechanism | None = Field(
        None,
        description="what is known to be planted in a checkpoint; the report holds the findings against it, the analysis never sees it",
    )
    datasets: tuple[Name, ...] = ("squares",)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.organism is None) == (self.checkpoint is None):
            raise ValueError("give exactly one of organism and checkpoint")
        if self.organism is not None and self.mechanism is not None:
            raise ValueError("mechanism: an organism's own entry says what is planted in it; leave it out here")
        if self.checkpoint is not None and self.is_hub_id and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("revision: a hub checkpoint needs the 40-digit commit it is pinned to, and a folder must exist")
        return self

    @property
    def is_hub_id(self) -> bool:
        """Whether ``checkpoint`` names a hub repository rather than a folder on this machine."""
        name = self.checkpoint or ""
        return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith((".", "/")) and not Path(name).is_dir()
