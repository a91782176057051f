"""YAML files as a user writes them: read strictly, and with the line of each key for messages."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from vlm_spatial.errors import UserError, called


class Source:
    """The files that a configuration comes from, the last one counting most, and where in them a key stands."""

    def __init__(self, *paths: Path | str) -> None:
        self.paths = [Path(path) for path in paths]

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))

    def at(self, key: str) -> str:
        """``file: line 3`` of ``key`` (such as ``models.mine.datasets``), or of the section that lacks it."""
        found = [(*_deepest(path, key), path) for path in self.paths]
        depth, line, path = max(reversed(found), key=lambda place: place[0], default=(0, 0, None))
        return f"{path}: line {line}" if depth else str(self)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections that a YAML (or JSON) file holds.

    Raises:
        UserError: naming file, line and key, if the file is missing, is not YAML, gives a key twice, or gives one that is no text.
    """
    _check_keys(path, _tree(path), set())
    values = _parsed(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of sections, found {called(values)}")
    return values


def check_configfiles(arguments: list[str] | None = None) -> None:
    """Read what Snakemake's command line gives with ``--configfile``, and end with one line where it cannot be used.

    Snakemake reads these files before the Snakefile. It ends with a traceback where one is missing, names no line where one is
    malformed, and takes the last of two equal keys. So ``profiles/`` calls this first.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    # Named, as argparse would take it for an abbreviation of the former.
    parser.add_argument("--config", "-C", nargs="*")
    try:
        for path in parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)[0].configfile:
            read_yaml(Path(path))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except argparse.ArgumentError:
        # Snakemake says it better.
        pass


def _text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not YAML (byte {error.start} is not UTF-8; save it as UTF-8)") from error


def _parsed(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text)
    except ValueError:
        return _guarded(path, lambda: yaml.safe_load(text))


def _tree(path: Path) -> yaml.Node | None:
    text = _text(path)
    try:
        # JSON may be indented with tabs, which YAML refuses; outside of its strings they mean nothing.
        json.loads(text)
        text = text.replace("\t", " ")
    except ValueError:
        pass
    return _guarded(path, lambda: yaml.compose(text, Loader=yaml.SafeLoader))


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        said = " ".join(f"{error.context or ''} {error.problem}".split())
        advice = "; indent with spaces, not with a tab" if "'\\t'" in said else ""
        raise UserError(f"{path}: {line}is not YAML ({said}{advice})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error


def _check_keys(path: Path, node: yaml.Node | None, seen: set[int], above: str = "") -> None:
    """Refuse, below ``node``, a key that is given twice and one that YAML reads as something else than text."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _check_keys(path, entry, seen, above)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = f"{above}{key.value}" if isinstance(key, yaml.ScalarNode) else f"{above}?"
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
            read_as = yaml.safe_load(key.value) if isinstance(key, yaml.ScalarNode) else "a collection"
            raise UserError(f"{path}: line {line}: {name}: YAML reads this name as {read_as!r}; put it in quotes")
        if key.value in lines:
            raise UserError(f"{path}: line {line}: {name}: given a second time, the first is in line {lines[key.value]}; keep one")
        lines[key.value] = line
        _check_keys(path, value, seen, f"{name}.")


_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


def _deepest(path: Path, key: str) -> tuple[int, int]:
    """How much of ``key`` (in characters) a file holds, and the line of its last part found."""
    try:
        node = _tree(path)
    except UserError:
        return 0, 0
    depth = line = 0
    while key:
        # The longest name first: names may hold dots.
        for name, at, value in sorted(_children(node), key=lambda child: -len(child[0])):
            if f"{key}.".startswith(f"{name}."):
                depth, line, node = depth + len(name), at, value
                key = key[len(name) + 1 :]
                break
        else:
            break
    return depth, line


def _children(node: yaml.Node | None) -> Iterator[tuple[str, int, yaml.Node]]:
    """Name (or number), line and value of what a node holds, merged sections last."""
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield str(number), value.start_mark.line + 1, value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                yield key.value, key.start_mark.line + 1, value
        for key, value in node.value:
            if key.tag == _MERGE:
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from _children(other)
