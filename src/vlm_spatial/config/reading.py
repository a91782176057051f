"""From a YAML file to a validated configuration, or to one line that says what is wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from vlm_spatial.config.workflow import Config
from vlm_spatial.errors import UserError

FILL_IN = "FILL-IN"
"""What a preset holds where only the user can know the value."""


def parse_config(values: Any, source: str = "workflow_config.yaml") -> Config:
    """Validate a configuration mapping.

    Raises:
        UserError: one line for the first fault, naming the key, what was found and what is allowed.
    """
    _check_mapping(values, source)
    blanks = list(_blanks(values))
    if blanks:
        raise UserError(f"{source}: fill in {', '.join(blanks)}; found {FILL_IN}")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_one_line(error)}") from error
    for name, model in config.models.items():
        if model.checkpoint is not None and not model.is_hub_id and not Path(model.checkpoint).is_dir():
            raise UserError(
                f"{source}: models.{name}.checkpoint: no folder {model.checkpoint!r}; give a checkpoint folder, or a hub id owner/name"
            )
    for name, dataset in config.datasets.items():
        if dataset.root is not None and not Path(dataset.root, "data").is_dir():
            raise UserError(f"{source}: datasets.{name}.root: no folder {str(Path(dataset.root, 'data'))!r}; give the folder that holds it")
        if dataset.boxes is not None and not Path(dataset.boxes).is_file():
            raise UserError(f"{source}: datasets.{name}.boxes: no file {dataset.boxes!r}")
    return config


def load_config(path: Path) -> Config:
    """Read and validate a YAML configuration file.

    Raises:
        UserError: if the file is missing, is not YAML, or does not fit the model.
    """
    return parse_config(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections that a YAML file holds.

    Raises:
        UserError: if the file is missing, is not YAML or holds something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    _check_mapping(values, str(path))
    return values


def _check_mapping(values: Any, source: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{source}: must be a mapping of sections, found {type(values).__name__}")


def _blanks(values: Any, key: str = "") -> Iterator[str]:
    """Keys below ``values`` that a preset leaves for the user to fill in."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _blanks(value, f"{key}.{name}" if key else str(name))
    elif values == FILL_IN:
        yield key


def _one_line(error: ValidationError) -> str:
    found_faults = error.errors(include_url=False)
    # A misspelt key is also a missing one: the misspelling is what helps.
    misspelt = [fault for fault in found_faults if fault["type"] == "extra_forbidden" and fault["loc"][:-1] == found_faults[0]["loc"][:-1]]
    first = misspelt[0] if misspelt and found_faults[0]["type"] == "missing" else found_faults[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; allowed are {', '.join(sorted(_allowed_keys(first['loc'][:-1])))}"
    found = first.get("input")
    shown = "" if isinstance(found, dict | list | BaseModel) else f", found {found!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key + ': ' if key else ''}{message}{shown if first['type'] != 'extra_forbidden' else ''}{more}"


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at ``location``, found by walking the model's annotations."""
    model: Any = Config
    for part in location:
        is_section = isinstance(model, type) and issubclass(model, BaseModel)
        # Otherwise a dict[Name, Section]: the part is a name the user chose.
        model = model.model_fields[str(part)].annotation if is_section else model.__args__[1]
    return list(model.model_fields)
