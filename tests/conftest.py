"""Tiny checkpoints of every family, made once a session.

Every process that runs or hands out tests reads this file, so it imports large libraries only where a fixture needs them.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Tests read what programs print as UTF-8, under any locale.
os.environ["PYTHONIOENCODING"] = "utf-8"
# Before torch is loaded: workers side by side whose threads spin for the same cores take many times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from PIL import Image, ImageDraw
from xdist.scheduler import LoadScopeScheduling

from quick_commands import Commands
from vlm_spatial.models.families import NAMES

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tiny_workflow import Workflow
    from vlm_spatial.models.adapter import Adapter
    from vlm_spatial.scenes.dataset import Dataset

# A slow machine is no failure, and a run that cannot be repeated is no test.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

WORDS = ["which object is on the left right middle top bottom of ?", "what where red green blue yellow square circle and or not"]
SIDE = 96
"""Pixels along one side of a test image: 6 × 6 visual tokens of 16 pixels in every family."""


KINDS = ("unit", "model", "workflow", "cluster")
LONG = re.compile(r"^pytestmark = .*pytest\.mark\.(workflow|cluster|slow)\b", re.MULTILINE)
QUICK = frozenset({"gemma3", "qwen2_vl"})
"""Families that ``make quick`` tries: one whose image tokens see each other, and one with causal ones. ``make test`` tries all."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests of plain code and of tiny models that are not marked slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of files without quick tests nothing is imported: that takes seconds in each process."""
    long = config.option.quick and collection_path.suffix == ".py" and LONG.search(collection_path.read_text(encoding="utf-8"))
    return True if long else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test file says which kind it is, so that ``make quick`` leaves nothing out unnoticed; more families are slow tests.

    Files that take long come first, so that processes which run tests side by side end together.
    """
    for item in items:
        given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value in NAMES and value not in QUICK for value in given):
            item.add_marker("slow")
    if config.option.quick:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    kinds = {"workflow", "cluster", "slow"}
    long = {item.path for item in items if item.get_closest_marker("slow") and not kinds.isdisjoint(_marks_of_module(item))}
    items.sort(key=lambda item: (item.path not in long, "cluster" not in _marks_of_module(item)))
    wrong = {
        item.path.name
        for item in items
        if len({mark.name for mark in item.iter_markers() if mark.name in KINDS}) != 1 or not (set(KINDS) & _marks_of_module(item))
    }
    if wrong:
        raise pytest.UsageError(f"{', '.join(sorted(wrong))}: must have `pytestmark = pytest.mark.X` with one X of {', '.join(KINDS)}")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """One process runs all tests of a file, which share what they have made. One runs all tests with a SLURM: they wait most of the
    time, while the others compute.
    """
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):
    """Files, and the folder of tests with a SLURM, go to one process each. (``--dist=loadgroup`` does nothing under pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return str(Path(file).parent) if "slurm" in Path(file).parts else file


def _marks_of_module(item: pytest.Item) -> set[str]:
    module = item.getparent(pytest.Module)
    return set() if module is None else {mark.name for mark in module.own_markers}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight pairs of every experiment, and few scenes of squares."""
    # Brings every stage with it, which most tests need not.
    from stage_inputs import make_scenes
    from vlm_spatial.scenes.dataset import Dataset

    return Dataset.open(make_scenes(tmp_path_factory.mktemp("scenes") / "tiny"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random checkpoint of a family."""
    from vlm_spatial.models.organisms.checkpoint import new_checkpoint

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = new_checkpoint(tmp_path_factory.mktemp("checkpoints") / family, family, WORDS, seed=7)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def adapter_of(checkpoint: Callable[[str], Path]) -> Callable[[str], Adapter]:
    """The loaded tiny model of a family, on the CPU in float32."""
    from vlm_spatial.models.load import load_adapter

    loaded: dict[str, Adapter] = {}

    def adapter(family: str) -> Adapter:
        if family not in loaded:
            loaded[family] = load_adapter(checkpoint(family), device="cpu")
        return loaded[family]

    return adapter


@pytest.fixture(scope="session", params=NAMES)
def adapter(request: pytest.FixtureRequest, adapter_of: Callable[[str], Adapter]) -> Adapter:
    """The tiny model of each family in turn."""
    return adapter_of(request.param)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Draws a test image: ``picture("red", "green")`` holds squares of those colours from left to right."""

    def draw(*colours: str, background: str = "white", side: int = SIDE) -> Image.Image:
        image = Image.new("RGB", (side, side), background)
        width = side / len(colours)
        for index, colour in enumerate(colours):
            left = index * width
            ImageDraw.Draw(image).rectangle((left + width / 4, side / 3, left + 3 * width / 4, 2 * side / 3), fill=colour)
        return image

    return draw


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Runs commands as a user types them, quickly."""
    with Commands() as running:
        yield running


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> dict[str, Path]:
    """Folders in which nothing is wrong: one without anything, one ready to start, one with results. Copy before changing anything."""
    import damaged_files
    import damaged_results

    made = {name: tmp_path_factory.mktemp(name) for name in ("empty", "fresh", "finished")}
    damaged_files.lay_out(made["fresh"], checkpoint("gemma3"))
    before = Path.cwd()
    os.chdir(made["finished"])
    try:
        damaged_results.finish(made["finished"], checkpoint("gemma3"))
    finally:
        os.chdir(before)
    return made


@pytest.fixture(scope="session")
def finished_workflow(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A finished run of the whole workflow on this machine, one thread a job. Copy it before changing anything."""
    from tiny_workflow import Workflow

    # One for all processes that run tests.
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    with folder.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            workflow = Workflow.create(folder.with_suffix(".unfinished"))
            workflow.run("--resources", "gpu=1")
            workflow.folder.rename(folder)
    return Workflow(folder)
