"""What every section of the configuration is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def plain(settings: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """``settings`` as plain builtins with sorted keys, which is all that Snakemake compares faithfully."""
    values = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
    return {key: plain(value) if isinstance(value, dict) else value for key, value in sorted(values.items())}
