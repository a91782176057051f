"""From a YAML file to a validated configuration, or to one line that says what is wrong."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vlm_spatial.config.datasets import allowed_keys, kinds_with
from vlm_spatial.config.workflow import Config
from vlm_spatial.config.yaml_files import Source, read_yaml
from vlm_spatial.errors import UserError, called
from vlm_spatial.scenes.sources.registry import SOURCES, source_of
from vlm_spatial.scenes.sources.settings import DatasetSettings

FILL_IN = "FILL-IN"
"""What a preset holds where only the user can know the value."""

_DEFAULT = Source("workflow_config.yaml")


def parse_config(values: Any, source: Source = _DEFAULT) -> Config:
    """Validate a configuration mapping.

    Raises:
        UserError: one line for the first fault, naming file, line and key, what was found and what is allowed.
    """
    blanks = list(_blanks(values))
    if blanks:
        raise UserError(f"{source}: fill in {', '.join(blanks)}; found {FILL_IN}")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        key, message = _first_fault(error, values)
        raise UserError(f"{source.at(key)}: {key + ': ' if key else ''}{message}") from error
    for name, model in config.models.items():
        if model.checkpoint is not None and not model.is_hub_id and not Path(model.checkpoint).is_dir():
            key = f"models.{name}.checkpoint"
            raise UserError(f"{source.at(key)}: {key}: no folder {model.checkpoint!r}; give a checkpoint folder, or a hub id owner/name")
    for name, dataset in config.datasets.items():
        try:
            source_of(dataset.kind).check_paths(dataset)
        except UserError as error:
            key = f"datasets.{name}.{str(error).partition(':')[0]}"
            raise UserError(f"{source.at(key)}: datasets.{name}.{error}") from error
    return config


def load_config(path: Path) -> Config:
    """Read and validate a YAML configuration file.

    Raises:
        UserError: if the file is missing, is not YAML, or does not fit the model.
    """
    return parse_config(read_yaml(path), Source(path))


def _blanks(values: Any, key: str = "") -> Iterator[str]:
    """Keys below ``values`` that a preset leaves for the user to fill in."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _blanks(value, f"{key}.{name}" if key else str(name))
    elif values == FILL_IN:
        yield key


def _first_fault(error: ValidationError, values: Any) -> tuple[str, str]:
    """The key of the first fault, and what is wrong with it."""
    found_faults = error.errors(include_url=False)
    # A misspelt key is also a missing one: the misspelling is what helps.
    misspelt = [fault for fault in found_faults if fault["type"] == "extra_forbidden" and fault["loc"][:-1] == found_faults[0]["loc"][:-1]]
    first = misspelt[0] if misspelt and found_faults[0]["type"] == "missing" else found_faults[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    kind, found = first["type"], first.get("input")
    message = _said_plainly(kind, found) or first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = _unknown_key(first["loc"], values)
    elif not isinstance(found, dict | list | BaseModel) or kind in _PLAIN:
        message += f", found {_short(found)}" if "found" not in message else ""
    if kind == "value_error" and (inner := re.match(r"([\w.-]+): ", message)):
        # A check of several keys says itself which one is meant.
        key = f"{key}.{inner[1]}" if key else inner[1]
        message = message[inner.end() :]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return key, f"{message}{more}"


_PLAIN = {
    "tuple_type": "must be a list, in brackets: [a, b]",
    "dict_type": "must be a section of names, each with its keys indented below it",
    "model_type": "must be a section, with its keys indented below it",
    "model_attributes_type": "must be a section, with its keys indented below it",
}


def _said_plainly(kind: str, found: Any) -> str | None:
    """Pydantic speaks of tuples, dictionaries and patterns, which no configuration has."""
    if kind == "tuple_type" and isinstance(found, str):
        return f"must be a list, in brackets: [{found}]"
    if kind == "string_type" and not isinstance(found, dict | list | str) and found is not None:
        return "must be text, and YAML reads this as something else; put it in quotes"
    return _PLAIN.get(kind)


def _short(found: Any) -> str:
    return called(found) if isinstance(found, list | tuple | dict) else repr(found)


def _unknown_key(location: tuple[int | str, ...], values: Any) -> str:
    """What to do about a key that its section does not have."""
    if location[0] != "datasets" or len(location) != 3:
        return f"unknown key; allowed are {', '.join(sorted(_allowed_keys(location[:-1])))}"
    kind, others = values["datasets"][location[1]].get("kind"), kinds_with(str(location[2]))
    if kind is not None and others:
        return f"only a dataset of kind {' or '.join(others)} has it, this one is of kind {kind}"
    return f"unknown key; allowed are {', '.join(allowed_keys(kind))}"


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at ``location``, found by walking the model's annotations."""
    model: Any = Config
    for part in location:
        # Sections of a dataset are looked for in every kind.
        if model is DatasetSettings:
            model = next(each for source in SOURCES for each in [source.settings] if part in each.model_fields)
        is_section = isinstance(model, type) and issubclass(model, BaseModel)
        # Otherwise a dict[Name, Section]: the part is a name the user chose.
        model = model.model_fields[str(part)].annotation if is_section else model.__args__[1]
    return list(model.model_fields)
