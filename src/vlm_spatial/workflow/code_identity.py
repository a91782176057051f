"""What a stage's result depends on besides its settings and inputs: its code, its packages, and files from outside.

Snakemake does not see edits in imported modules, and compares neither package versions nor the bytes behind an old
modification time. So each rule carries what this module says as a param: a changed identity is a changed param.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grimp

from vlm_spatial.errors import UserError
from vlm_spatial.files import sha256
from vlm_spatial.workflow.file_cache import FileCache
from vlm_spatial.workflow.provenance import record_path

PACKAGE = "vlm_spatial"
CONTENT_CACHE = Path(".cache/vlm_spatial/content.json")
"""Where :func:`external_content` remembers hashes, below the working folder; safe to delete."""
CODE_CACHE = CONTENT_CACHE.with_name("code.json")
"""Where planning and jobs remember what :func:`stage_identity` worked out of each module; safe to delete."""
NEUTRAL_PACKAGES = frozenset({"jaxtyping", "rich", "tqdm", "typer"})
"""Packages that show progress or check types: no result depends on their version."""

_PYTHON = ".".join(map(str, sys.version_info[:2]))


@dataclass(frozen=True)
class CodeIdentity:
    """The code of a stage: hash of each module it imports (directly or not), version of each package these import."""

    modules: dict[str, str]
    packages: dict[str, str]

    @functools.cached_property
    def digest(self) -> str:
        """One short hash over everything."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def stage_identity(stage: str, cache: Path | None = None) -> CodeIdentity:
    """Identity of ``vlm_spatial.stages.<stage>``: transitive in-package imports and the packages they import directly.

    A package's own ``__init__`` and the data files beside a module (templates, scripts) count with the module.

    Args:
        cache: a file that remembers the hash of each module, see :mod:`vlm_spatial.workflow.file_cache`.

    Raises:
        UserError: if there is no such stage.
    """
    graph = _import_graph()
    name = f"{PACKAGE}.stages.{stage}"
    if name not in graph.modules:
        raise UserError(f"stage {stage!r}: there is no module {name}")
    imported = graph.find_upstream_modules(name) | {name}
    inside = {module for module in imported if module.split(".")[0] == PACKAGE}
    with_parents = {".".join(module.split(".")[:length]) for module in inside for length in range(1, module.count(".") + 2)}
    outside = set().union(*(graph.find_modules_directly_imported_by(module) for module in with_parents)) - with_parents
    names = {module.split(".")[0] for module in outside} - {PACKAGE}
    known = FileCache(cache)
    identity = CodeIdentity(dict(sorted(_hashes(with_parents, known))), _versions(names, known))
    known.save()
    return identity


@functools.cache
def _import_graph() -> grimp.ImportGraph:
    return grimp.build_graph(PACKAGE, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None)


def _hashes(modules: Iterable[str], known: FileCache) -> Iterator[tuple[str, str]]:
    folders = set()
    for module in modules:
        path = _path(module)
        folders.add(path.parent)
        # This module says what is hashed, and Python how source is taken apart. Bytes and not times, so that a copy of the code is known.
        also = f"{_digest(path)} {_digest(Path(__file__))} {_PYTHON}"
        yield module, known.of(f"code of {module}", [], functools.partial(_module_hash, path), also)
    for folder in sorted(folders):
        for data in _data_files(folder):
            yield data.relative_to(_root().parent).as_posix(), sha256(data)[:16]


@functools.cache
def _root() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _path(module: str) -> Path:
    base = _root().joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache
def _digest(path: Path) -> str:
    return sha256(path)[:16]


@functools.cache
def _module_hash(path: Path) -> str:
    return code_hash(path.read_text(encoding="utf-8"))


def code_hash(source: str) -> str:
    """Hash of what ``source`` does: comments, docstrings, layout and ``__version__`` do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            node.body = [line for line in node.body if not _is_version(line)]
    # Unparsed source, not ast.dump: the dump's form differs between Python versions.
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _is_version(line: ast.stmt) -> bool:
    return isinstance(line, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__version__" for t in line.targets)


def _data_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith("."):
            yield path
        elif path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").exists():
            yield from _data_files(path)


def _versions(names: Iterable[str], known: FileCache) -> dict[str, str]:
    versions = {}
    # Installing or removing a distribution changes the folder that it lies in.
    folders = [Path(entry).resolve() for entry in sys.path if any(Path(entry).glob("*.*-info"))]
    distributions = known.of(f"distributions in {' '.join(map(str, folders))}", folders, _distributions)
    for name in sorted(set(names) - sys.stdlib_module_names - NEUTRAL_PACKAGES):
        for distribution in distributions.get(name, ()):
            versions[distribution] = _version(distribution)
    return versions


_version = functools.cache(importlib.metadata.version)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in importlib.metadata.packages_distributions().items()}


# --- files from outside ---------------------------------------------------------------------------------------------


Outside = Callable[[dict[str, Any]], list[Path]]
"""From a dataset's settings to the files from outside that it is made of."""


def external_files(settings: dict[str, Any], outside: Outside | None = None) -> list[Path]:
    """Files that a stage reads and no other stage made: a checkpoint folder, and what a dataset is made of.

    Args:
        outside: how to find the latter. Only stages that make scenes know it: a dataset's code is no part of the other stages' code.
    """
    found: list[Path] = []
    checkpoint = settings.get("model", {}).get("checkpoint")
    if checkpoint is not None and Path(checkpoint).is_dir() and not record_path(Path(checkpoint)).exists():
        found += _below(Path(checkpoint))
    peft = settings.get("model", {}).get("peft")
    if peft is not None:
        found += _below(Path(peft))
    if outside is not None and settings.get("dataset"):
        found += outside(settings["dataset"])
    return found


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def external_content(settings: dict[str, Any], cache: Path, outside: Outside | None = None) -> dict[str, str]:
    """SHA-256 of each of :func:`external_files`, by path.

    A file is read again only if it changed, see :mod:`vlm_spatial.workflow.file_cache`; ``cache`` is the file that remembers.

    Raises:
        UserError: if a file that the settings name is missing.
    """
    known = FileCache(cache)
    content = {}
    for path in external_files(settings, outside):
        try:
            content[str(path)] = known.of(str(path.absolute()), [path], functools.partial(sha256, path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); the configuration names it") from error
    known.save()
    return content
