"""What every stage has in common: its command line, its log, its way of failing.

A stage is run as ``python -m vlm_spatial.stages.<stage> --settings "{...}" --input name=path --output name=path``. Inputs with a seal
are checked before they are used, outputs are sealed when they are whole (see :mod:`vlm_spatial.workflow.provenance`).

An input may stand for many: ``{model}`` and ``{dataset}`` in it are filled in from ``settings["models"]``, once for each model and
dataset (a command line with every path of twenty models would be longer than the system allows).
"""

import argparse
import ast
import gc
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from vlm_spatial import __version__
from vlm_spatial.config.settings import Settings
from vlm_spatial.errors import UserError
from vlm_spatial.files import remove_leftovers, unwritable
from vlm_spatial.workflow.code_identity import CODE_CACHE, CONTENT_CACHE, Outside, external_content, stage_identity
from vlm_spatial.workflow.lock import Ownership
from vlm_spatial.workflow.parent_watch import end_if_orphaned, follow
from vlm_spatial.workflow.provenance import MadeBy, break_seals, verified_digest, write_seal

Section = TypeVar("Section", bound=Settings)
# Seconds that a job waits for another one to let go of its outputs.
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Job:
    """One run of a stage: its settings (plain builtins) and the paths of its named inputs and outputs."""

    settings: dict[str, Any]
    inputs: dict[str, Path]
    outputs: dict[str, Path]


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
    follow()
    try:
        settings = _literal(parsed.settings)
        job = Job(settings, _paths(_filled_in(parsed.input, settings)), _paths(parsed.output))
        with ExitStack() as owned:
            for path in job.outputs.values():
                # Not the lock that the activations' own writer holds. An orphan ends within a second of its workflow.
                owned.enter_context(Ownership(path.with_name(f"{path.name}.job"), path.name, _PATIENCE_S))
                # It may have waited for the lock until after its own workflow's end, and a newer result.
                end_if_orphaned()
                remove_leftovers(path)
            break_seals(job.outputs.values())
            made_by = _made_by(name, job, outside)
            stage(job)
            for path in job.outputs.values():
                write_seal(path, made_by)
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


def _made_by(name: str, job: Job, outside: Outside | None) -> MadeBy:
    """What the outputs' seals will say; checks the sealed inputs, every byte of them."""
    checkpoint = job.settings.get("model", {}).get("checkpoint")
    inputs = [*job.inputs.values(), *([Path(checkpoint)] if checkpoint else [])]
    digests = {str(path): verified_digest(path) for path in inputs}
    identity = stage_identity(name, CODE_CACHE)
    return MadeBy(
        stage=name,
        version=__version__,
        settings=job.settings,
        modules=identity.modules,
        packages=identity.packages,
        content=external_content(job.settings, CONTENT_CACHE, outside),
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
