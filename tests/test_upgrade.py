"""Results from another version: recognised, said in one line with what to do, and documented."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quick_commands import REPOSITORY, Commands
from tiny_workflow import Workflow
from vlm_spatial import __version__
from vlm_spatial.workflow.provenance import record_path

pytestmark = pytest.mark.workflow

NOTE = (
    "note: results from another version (made by vlm_spatial 0.0.9, this is {}): what this version makes differently is made again; "
    "to keep the old results, set another results: folder or check out that version (docs/caching.md)"
)


def recorded_by(change: Callable[[dict], object], results: Path) -> int:
    """Every record below ``results`` as another version would have written it; how many."""
    records = sorted(results.rglob(".*.provenance.json"))
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        change(record)
        path.write_text(json.dumps(record), encoding="utf-8")
    return len(records)


def older(record: dict) -> None:
    """Release 0.0.9, whose modules were other ones."""
    record["version"] = "0.0.9"
    record["modules"]["vlm_spatial.tokens"] = "0123456789abcdef"


@pytest.fixture
def finished(worlds: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(worlds["finished"], tmp_path / "run"))


def test_results_of_an_older_version_are_recognised_and_the_user_is_told_once(finished: Path, commands: Commands) -> None:
    count = recorded_by(older, finished / "results")
    assert count > 20
    planned = commands.run(finished, "snakemake", "--dry-run")
    assert planned.code == 0
    assert [line for line in planned.err.splitlines() if line.startswith("note: ")] == [NOTE.format(__version__)]
    again = [line for line in planned.err.splitlines() if line.startswith("again: ")]
    assert len(again) == count
    # Stages that do not import it no longer have it.
    assert all("code vlm_spatial.tokens changed" in line or "code vlm_spatial.tokens is gone" in line for line in again)
    told = commands.run(finished, "vlm-spatial", "why")
    assert told.code == 0
    assert told.out.count("note: ") == 1
    assert NOTE.format(__version__) in told.out
    assert f"0 of {count} results are what" in told.out


@pytest.mark.parametrize("version", ["0.0.9", "99.0", ""])
def test_a_number_alone_makes_nothing_again(version: str, finished: Path, commands: Commands) -> None:
    """The number is for people; what counts is the code. Records from before it was noted have none."""
    recorded_by(lambda record: record.update(version=version) if version else record.pop("version"), finished / "results")
    planned = commands.run(finished, "snakemake", "--dry-run")
    assert planned.code == 0
    assert "Nothing to be done" in planned.out + planned.err
    assert "note: " not in planned.err


def test_edited_code_of_this_version_is_no_other_version(finished: Path, commands: Commands) -> None:
    recorded_by(lambda record: record["modules"].update({"vlm_spatial.tokens": "0"}), finished / "results")
    planned = commands.run(finished, "snakemake", "--dry-run")
    assert "code vlm_spatial.tokens changed" in planned.err
    assert "note: " not in planned.err


def test_the_line_is_documented() -> None:
    page = (REPOSITORY / "docs" / "caching.md").read_text(encoding="utf-8")
    section = re.search(r"^## Results from an older version\n(.*?)^## ", page, flags=re.DOTALL | re.MULTILINE)
    assert section is not None
    assert NOTE.format(__version__) in section[1]


@pytest.mark.slow
def test_after_the_next_run_they_are_of_this_version(finished_workflow: Workflow, tmp_path: Path) -> None:
    workflow = finished_workflow.copy(tmp_path / "run")
    result = workflow.folder / "results/folder/squares/conflict.parquet"
    record = json.loads(record_path(result).read_text(encoding="utf-8"))
    older(record)
    record_path(result).write_text(json.dumps(record), encoding="utf-8")
    assert NOTE.format(__version__) in workflow.run()
    assert json.loads(record_path(result).read_text(encoding="utf-8"))["version"] == __version__
    assert workflow.jobs() == set()
