"""Killed at any moment, the workflow and its stages end with the same results after the next plain run."""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import psutil
import pytest

from scene_jobs import PATIENCE_S, holds, made
from tiny_workflow import CONFIG, STAGES, Workflow
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.files import remove_leftovers, unwritable
from vlm_spatial.stages import registry
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.provenance import read_record, record_path
from vlm_spatial.workflow.staleness import Existing

pytestmark = pytest.mark.workflow

SEED = 20261121
NAMES = {"dataset": "squares", "organism": "small", "model": "folder"}
RESULTS = {name: f"results/{next(iter(registry.STAGES[name].outputs.values())).path.format(**NAMES)}" for name in STAGES}

# A folder of images, a store that is written bit by bit, several files at once, and one that reads them all.
DISTURBED = ("scenes", "activations", "probes", "measures")


def digests(workflow: Workflow) -> dict[str, dict[str, str]]:
    """Checksum of every byte of every result but two.

    The report shows how long each job took, and vl-convert writes the fonts of a PDF in no fixed order.
    """
    os.chdir(workflow.folder)
    found = {}
    for path, _ in Existing(Plan(parse_config(CONFIG))).results():
        record = read_record(path)
        assert record is not None, f"{path} has no record"
        found[str(path)] = {name: record.sha256 for name, record in record.files.items() if not name.endswith(".pdf")}
    del found["results/report.html"]
    return found


@pytest.fixture
def workflow(finished_workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    copied = finished_workflow.copy(tmp_path / "run")
    # Undone at the end, however the test changes it.
    monkeypatch.chdir(copied.folder)
    return copied


def stage_process(leader: psutil.Process, stage: str) -> psutil.Process:
    """The Python process of a stage below a running Snakemake; waits for it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and leader.is_running() and leader.status() != psutil.STATUS_ZOMBIE:
        for child in leader.children(recursive=True):
            try:
                words = child.cmdline()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if words[1:3] == ["-m", f"vlm_spatial.stages.{stage}"]:
                return child
        # Looking through all processes of a machine costs time of its own.
        time.sleep(0.1)
    raise AssertionError(f"{stage} was not started")


def assert_as_undisturbed(workflow: Workflow, undisturbed: dict[str, dict[str, str]]) -> None:
    assert workflow.jobs() == set()
    assert digests(workflow) == undisturbed
    assert not list(workflow.folder.glob("results/**/.*.partial"))


@pytest.mark.slow
def test_signals_at_random_moments_of_each_stage_change_no_result(workflow: Workflow) -> None:
    """Stages that write differently are started on their own and disturbed; then one plain run puts everything right.

    The stage's own process, or the workflow while its child lives on, gets SIGKILL or SIGTERM; each of the four once. The test does not
    wait for orphans: the next run meets them.
    """
    generator = random.Random(SEED)
    undisturbed = digests(workflow)
    ways = [(victim, sent) for victim in ("stage", "workflow") for sent in (signal.SIGKILL, signal.SIGTERM)]
    generator.shuffle(ways)
    for stage, (victim, sent) in zip(DISTURBED, ways, strict=True):
        result = RESULTS[stage]
        record_path(workflow.folder / result).unlink(missing_ok=True)
        benchmark = workflow.folder / f"results/benchmarks/{registry.STAGES[stage].place.format(**NAMES)}.tsv"
        seconds = generator.random() * float(pl.read_csv(benchmark, separator="\t")["s"][0])
        print(f"seed {SEED}: {sent.name} to the {victim} of {stage}, {seconds:.2f} s after its start")
        with workflow.started("--", result) as running:
            leader = psutil.Process(running.pid)
            process = stage_process(leader, stage)
            time.sleep(seconds)
            try:
                (process if victim == "stage" else leader).send_signal(sent)
            except psutil.NoSuchProcess:
                print("  which had ended by then")
            running.wait(PATIENCE_S)
    workflow.run()
    assert_as_undisturbed(workflow, undisturbed)


@pytest.mark.slow
def test_two_workflows_at_once(workflow: Workflow) -> None:
    undisturbed = digests(workflow)
    record_path(workflow.folder / RESULTS["conflict"]).unlink()
    with workflow.started() as first, workflow.started() as second:
        said = [running.communicate(timeout=PATIENCE_S)[1] for running in (first, second)]
    assert 0 in (first.returncode, second.returncode)
    for running, text in zip((first, second), said, strict=True):
        # The later one ends with one line before it plans anything; if the first is done by then, it has nothing to do.
        if running.returncode:
            assert "results: another workflow is using these results (process" in text
            assert "Exception" not in text, text
            assert "Traceback" not in text
    workflow.run()
    assert_as_undisturbed(workflow, undisturbed)


# --- full and read-only disks --------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of `size` at `folder`; gives a function that mounts it anew with other options. Skips where that is not allowed."""
    folder.mkdir()

    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(folder)], capture_output=True, check=True)

    try:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a file system ({error})")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_in_one_line_and_the_next_run_is_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "400k") as remount:
        target = tmp_path / "disk" / "scenes"
        failed = made(target)
        assert failed.returncode == 1
        assert "error: scenes: " in failed.stderr
        assert "No space left on device" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not target.exists()
        remount("size=200m")
        assert made(target).returncode == 0
        assert made(tmp_path / "alone").returncode == 0
        assert holds(target) == holds(tmp_path / "alone")


def test_a_read_only_folder_ends_in_one_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200m") as remount:
        target = tmp_path / "disk" / "scenes"
        assert made(target).returncode == 0
        before = holds(target)
        remount("ro")
        failed = made(target)
        assert failed.returncode == 1
        assert "Read-only file system" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert holds(target) == before


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_a_limit_on_file_size_ends_in_one_line(tmp_path: Path, limit: int) -> None:
    """As a full disk, without the right to mount one; images are below 1000 bytes, tables above."""
    failed = made(tmp_path / "scenes", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    assert "Traceback" not in failed.stderr
    # Without a record nothing counts, whole or not: the record itself may be what was too large.
    assert not record_path(tmp_path / "scenes").exists()
    assert made(tmp_path / "scenes").returncode == 0


def test_what_counts_as_unwritable() -> None:
    assert unwritable(OSError(28, "No space left on device", "a.parquet")) == "a.parquet: No space left on device"
    assert unwritable(RuntimeError("I/O error: No space left on device (os error 28)")) == "No space left on device"
    assert unwritable(FileNotFoundError(2, "No such file")) is None
    assert unwritable(UserError("bad")) is None
    wrapped = ValueError("while writing")
    wrapped.__cause__ = OSError(30, "Read-only file system")
    assert unwritable(wrapped) == "Read-only file system"


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    inside = tmp_path / "one" / "two" / "three"
    inside.mkdir(parents=True)
    for name in (".a.parquet.12.partial", ".a.parquet.x.partial", "a.parquet", "a.12.partial"):
        (inside.parent / name).touch()
    (tmp_path / ".a.zarr.7.partial").mkdir()
    (inside / ".deep.12.partial").touch()
    remove_leftovers(tmp_path, depth=3)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"one/two/.a.parquet.x.partial", "one/two/a.parquet", "one/two/a.12.partial", "one/two/three/.deep.12.partial"}
    assert not (tmp_path / ".a.zarr.7.partial").exists()


def test_finished_results_on_a_read_only_disk_need_nothing(finished_workflow: Workflow, tmp_path: Path) -> None:
    workflow = finished_workflow.copy(tmp_path / "run")
    results = workflow.folder / "results"
    results.rename(tmp_path / "results")
    with small_disk(results, "1g") as remount:
        subprocess.run(["cp", "-a", f"{tmp_path / 'results'}/.", str(results)], check=True)
        remount("ro")
        assert workflow.jobs() == set()
        # Something to do, and nowhere to write it: said before any job.
        remount("rw")
        record_path(workflow.folder / RESULTS["conflict"]).unlink()
        remount("ro")
        refused = workflow.snakemake()
        assert refused.returncode == 1
        assert "error: results/.workflow.lock: cannot be written (Read-only file system)" in refused.stderr
        assert "Traceback" not in refused.stderr
