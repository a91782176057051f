"""What every stage has in common: its command line, its log, its way of failing.

A stage is run as ``python -m vlm_spatial.stages.<stage> --settings "{...}" --input name=path --output name=path``.
"""

import argparse
import ast
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError


@dataclass(frozen=True)
class Job:
    """One run of a stage: its settings (plain builtins) and the paths of its named inputs and outputs."""

    settings: dict[str, Any]
    inputs: dict[str, Path]
    outputs: dict[str, Path]


def run_stage(name: str, stage: Callable[[Job], None], arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run ``stage``, and end with status 1 and one line on a :class:`UserError`."""
    parser = argparse.ArgumentParser(prog=f"vlm_spatial.stages.{name}", description=stage.__doc__)
    parser.add_argument("--settings", required=True, help="a Python literal: one dict")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=PATH")
    parsed = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        stage(Job(_literal(parsed.settings), _paths(parsed.input), _paths(parsed.output)))
    except UserError as error:
        print(f"error: {name}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    print(f"{name}: done in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def _literal(text: str) -> dict[str, Any]:
    try:
        settings = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UserError(f"--settings: not a Python literal ({error})") from error
    if not isinstance(settings, dict):
        raise UserError(f"--settings: must be a dict, found {type(settings).__name__}")
    return settings


def _paths(items: Sequence[str]) -> dict[str, Path]:
    named = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals:
            raise UserError(f"--input/--output {item!r}: must be NAME=PATH")
        named[name] = Path(path)
    return named
