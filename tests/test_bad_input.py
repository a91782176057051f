"""Bad input: malformed configurations, damaged files, damaged results. Each ends before any job, in one line that a person understands."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import damaged_results
from damaged_files import DAMAGED
from damaged_results import REFUSED, STALE
from malformed_configs import GOOD, MALFORMED, UNREADABLE, malformed
from quick_commands import REPOSITORY, Commands
from vlm_spatial.config.reading import parse_config

pytestmark = pytest.mark.workflow

CONFIGURATION = "workflow_config.yaml"
START = ("snakemake", "--cores", "1")
DRY_RUN = ("snakemake", "--dry-run")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """As while another workflow runs."""
    (folder / "results").mkdir()
    descriptor = os.open(folder / "results/.workflow.lock", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"process 7 on here")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


@dataclass(frozen=True)
class Case:
    """A folder, what is done to it, what a user then types, and the line that is the answer.

    Attributes:
        folder: which of the folders of ``worlds``.
        job: what the dry-run lists, for results that are simply made again; empty where the command must refuse.
    """

    name: str
    folder: str
    harm: Callable[[Path], object]
    command: tuple[str, ...]
    says: str
    job: str = ""


def configured(content: bytes | None) -> Callable[[Path], object]:
    return lambda folder: None if content is None else (folder / CONFIGURATION).write_bytes(content)


CASES = [
    *(
        Case(f"{where}={value!r}"[:60], "empty", configured(yaml.safe_dump(malformed(where, value)).encode()), START, says)
        for where, value, says in MALFORMED
    ),
    *(Case(f"configuration: {name}", "empty", configured(content), START, says) for name, content, says in UNREADABLE),
    *(
        Case(f"given with --configfile: {name}", "empty", configured(content), (*START, "--configfile", CONFIGURATION), says)
        for name, content, says in UNREADABLE
    ),
    Case(
        "given with --configfile: a folder", "fresh", lambda _: None, (*START, "--configfile", "checkpoint"), "checkpoint: .*Is a directory"
    ),
    *(Case(name, "fresh", harm, START, says) for name, harm, says in DAMAGED),
    Case(
        "results: in use",
        "fresh",
        locked,
        START,
        r"results: another workflow is using these results .process 7 on here",
    ),
    Case(
        "results: not writable",
        "fresh",
        lambda folder: (folder / "results/.workflow.lock").mkdir(parents=True),
        START,
        r"workflow\.lock: cannot be written \(Is a directory\); make room, give the right to write, or choose another results folder",
    ),
    *(Case(name, "finished", harm, command, says) for name, harm, command, says in REFUSED),
    *(Case(name, "finished", harm, DRY_RUN, says, job) for name, harm, says, job in STALE),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_before_any_job(case: Case, commands: Commands, worlds: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(worlds[case.folder], tmp_path / "run"))
    with ExitStack() as held:
        harmed = case.harm(folder)
        if hasattr(harmed, "__enter__"):
            held.enter_context(harmed)
        before = results_in(folder)
        done = commands.run(folder, *case.command)
    assert "Traceback" not in done.err, done.err
    assert "pydantic" not in done.err
    if case.job:
        assert (done.code, done.errors) == (0, []), done.err
        assert re.search(f"^again: .*{case.says}", done.err, flags=re.MULTILINE), done.err
        assert re.search(rf"^{case.job} +\d+$", done.out + done.err, flags=re.MULTILINE), done.out + done.err
    else:
        assert done.code == 1, done.out + done.err
        [line] = done.errors
        assert re.search(case.says, line), line
        if case.command == START and case.folder != "finished" and "results:" not in case.name:
            assert line.startswith(f"error: {CONFIGURATION}: "), line
    assert results_in(folder) == before, "a job was started"


def results_in(folder: Path) -> set[str]:
    """Every file below the folder but Snakemake's own records and the memory of checksums."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.parts[0] not in (".snakemake", ".cache")}


def test_nothing_is_said_where_nothing_is_wrong(commands: Commands, worlds: dict[str, Path], tmp_path: Path) -> None:
    """The same folders, unharmed; so every line above is about its harm."""
    for name in ("fresh", "finished"):
        folder = Path(shutil.copytree(worlds[name], tmp_path / name))
        done = commands.run(folder, *DRY_RUN)
        assert (done.code, done.errors) == (0, []), done.err
        assert "again: " not in done.err
        assert "note: " not in done.err
        assert ("Nothing to be done" in done.out + done.err) == (name == "finished"), done.out + done.err
    for command in (damaged_results.INSPECT, damaged_results.COMPARE):
        done = commands.run(tmp_path / "finished", *command)
        assert (done.code, done.errors) == (0, []), done.err


def test_a_damaged_memory_of_checksums_only_costs_reading_again(commands: Commands, worlds: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(worlds["finished"], tmp_path / "run"))
    cache = folder / ".cache/vlm_spatial/content.json"
    for content in ("{", "[]", '{"/somewhere": 3}', ""):
        cache.write_text(content, encoding="utf-8")
        done = commands.run(folder, *DRY_RUN)
        assert (done.code, done.errors) == (0, []), done.err
        assert "Nothing to be done" in done.out + done.err
        assert str(folder / "checkpoint/model.safetensors") in json.loads(cache.read_text(encoding="utf-8"))


def test_there_are_more_than_forty_of_each() -> None:
    assert len(MALFORMED) + len(UNREADABLE) >= 40
    assert len(DAMAGED) + len(REFUSED) + len(STALE) >= 40


def test_the_good_configuration_is_good() -> None:
    parse_config(malformed("seed", 1))
    parse_config(GOOD)


def test_the_paper_preset_asks_for_what_it_needs(commands: Commands, tmp_path: Path) -> None:
    done = commands.run(tmp_path, *DRY_RUN, "--configfile", str(REPOSITORY / "presets" / "paper.yaml"))
    assert done.code == 1
    assert "fill in datasets.objects-qwen.pictures, " in done.err
