"""What every stage has in common: its command line, its log, its way of failing.

A stage is run as ``python -m vlm_spatial.stages.<stage> --settings "{...}" --input name=path --output name=path``. Inputs with a
provenance record are checked before they are used, outputs get theirs when they are whole (see :mod:`vlm_spatial.workflow.provenance`).

An input may stand for many: ``{model}`` and ``{dataset}`` in it are filled in from ``settings["models"]``, once for each model and
dataset (a command line with every path of twenty models would be longer than the system allows).
"""

import argparse
import ast
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from vlm_spatial import __version__
from vlm_spatial.config.settings import Settings
from vlm_spatial.errors import UserError
from vlm_spatial.files import unwritable
from vlm_spatial.workflow.code_identity import CODE_CACHE, CONTENT_CACHE, Outside, external_content, stage_identity
from vlm_spatial.workflow.lock import job_lock
from vlm_spatial.workflow.provenance import MadeBy, read_record, remove_records, verified_digest, write_record

Section = TypeVar("Section", bound=Settings)


@dataclass(frozen=True)
class Job:
    """One run of a stage: its settings (plain builtins) and the paths of its named inputs and outputs.

    ``made_by`` is for a stage that writes an output's record itself, because it knows the checksums already.
    """

    settings: dict[str, Any]
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    made_by: MadeBy = field(default_factory=lambda: MadeBy(stage=""))


def run_stage(name: str, stage: Callable[[Job], None], arguments: Sequence[str] | None = None, outside: Outside | None = None) -> None:
    """Parse the command line, run ``stage``, and end with status 1 and one line on a :class:`UserError`.

    Args:
        outside: for a stage that makes a dataset: from the dataset's settings to the files from outside that it is made of.
    """
    # What was imported stays to the end: no garbage is looked for in it (see the package's own module).
    gc.freeze()
    gc.enable()
    parser = argparse.ArgumentParser(prog=f"vlm_spatial.stages.{name}", description=stage.__doc__)
    parser.add_argument("--settings", required=True, help="a Python literal: one dict")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=PATH")
    parsed = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        settings = _literal(parsed.settings)
        inputs, outputs = _paths(_filled_in(parsed.input, settings)), _paths(parsed.output)
        with job_lock(name):
            remove_records(outputs.values())
            job = Job(settings, inputs, outputs, _made_by(name, settings, inputs, outside))
            stage(job)
            for path in outputs.values():
                if read_record(path) is None:
                    write_record(path, job.made_by)
    except UserError as error:
        _end(name, str(error))
    except Exception as error:
        reason = unwritable(error)
        if reason is None:
            raise
        _end(name, f"{reason}; nothing unfinished counts: make room or give the right to write, and run snakemake again")
    print(f"{name}: done in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def _end(name: str, message: str) -> NoReturn:
    print(f"error: {name}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1) from None


def section(job: Job, model: type[Section], key: str = "stage") -> Section:
    """The stage's own section of its settings, validated.

    Raises:
        UserError: naming the first key that is wrong.
    """
    try:
        return model.model_validate(job.settings.get(key, {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"--settings: {'.'.join(map(str, (key, *first['loc'])))}: {first['msg']}") from error


def _made_by(name: str, settings: dict[str, Any], inputs: dict[str, Path], outside: Outside | None) -> MadeBy:
    """What the outputs' records will say; checks the inputs that have a record, every byte of them."""
    checkpoint = settings.get("model", {}).get("checkpoint")
    digests = {str(path): verified_digest(path) for path in [*inputs.values(), *([Path(checkpoint)] if checkpoint else [])]}
    identity = stage_identity(name, CODE_CACHE)
    return MadeBy(
        stage=name,
        version=__version__,
        settings=settings,
        modules=identity.modules,
        packages=identity.packages,
        content=external_content(settings, CONTENT_CACHE, outside),
        inputs={path: digest for path, digest in digests.items() if digest is not None},
    )


def _literal(text: str) -> dict[str, Any]:
    try:
        settings = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UserError(f"--settings: not a Python literal ({error})") from error
    if not isinstance(settings, dict):
        raise UserError(f"--settings: must be a dict, found {type(settings).__name__}")
    return settings


def _filled_in(items: Sequence[str], settings: dict[str, Any]) -> list[str]:
    models: dict[str, Any] = settings.get("models", {})
    places = [{"model": model, "dataset": dataset} for model in models for dataset in models[model]["datasets"]]
    filled = [item.format(**place) for item in items for place in places if "{" in item]
    return list(dict.fromkeys([item for item in items if "{" not in item] + filled))


def _paths(items: Sequence[str]) -> dict[str, Path]:
    named = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals:
            raise UserError(f"--input/--output {item!r}: must be NAME=PATH")
        named[name] = Path(path)
    return named
