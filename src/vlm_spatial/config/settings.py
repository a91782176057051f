"""What every section of the configuration is made of."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError("a name has small letters, digits, -, _ and . only, and begins with a letter or digit")
    return name


def _expand(path: Any) -> Any:
    """``~`` and ``$VARIABLE`` as a shell would fill them in."""
    if not isinstance(path, str):
        return path
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset:
        raise ValueError(f"the environment has no variable {unset[0]}; set it, or write the path out")
    try:
        return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
    except RuntimeError:
        raise ValueError("no such user, whose home folder that is; write the path out") from None


Name = Annotated[str, AfterValidator(_check_name)]
UserPath = Annotated[str, BeforeValidator(_expand)]
"""A file or folder that a user names."""


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def plain(settings: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """``settings`` as plain builtins with sorted keys, which is all that Snakemake compares faithfully."""
    values = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
    return {key: plain(value) if isinstance(value, dict) else value for key, value in sorted(values.items())}
