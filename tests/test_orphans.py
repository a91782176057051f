"""Jobs that outlive their workflow: what they write is whole, and nobody writes beside them.

``workflow/lock.py`` has two lock files; each of the first two tests fails without one of them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scene_jobs import STOPS_BEFORE_THE_END, has_ended, holds, is_stopped, made, scenes_command, wait_until
from vlm_spatial.errors import UserError
from vlm_spatial.workflow import lock
from vlm_spatial.workflow.lock import VARIABLE, WorkflowLock, job_lock
from vlm_spatial.workflow.provenance import record_path

pytestmark = pytest.mark.workflow

# A workflow: takes the results, then starts the job that its arguments name, in a shell that waits for it.
WORKFLOW = """
import subprocess, sys
from pathlib import Path
from vlm_spatial.workflow.lock import WorkflowLock
WorkflowLock(Path(sys.argv[1])).take(lambda text: print(text, flush=True))
print("taken", flush=True)
subprocess.run(["sh", "-c", '"$@"; true', "sh", *sys.argv[2:]])
"""


@pytest.fixture(autouse=True)
def of_no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what a test sets is undone.
    monkeypatch.setenv(VARIABLE, "")


def workflow(results: Path, *job: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", WORKFLOW, str(results), *job], stdout=subprocess.PIPE, encoding="utf-8")


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def orphan(results: Path, command: list[str]) -> psutil.Process:
    """The job of a workflow that was killed; it has stopped itself."""
    leader = workflow(results, *command)
    assert said(leader) == "taken\n"
    wait_until(lambda: len(psutil.Process(leader.pid).children(recursive=True)) == 2)
    job = psutil.Process(leader.pid).children(recursive=True)[1]
    wait_until(lambda: is_stopped(job))
    leader.kill()
    leader.wait()
    return job


def test_the_next_workflow_waits_for_the_last_job_of_a_killed_one(tmp_path: Path) -> None:
    results = tmp_path / "results"
    job = orphan(results, scenes_command(results / "scenes" / "squares", STOPS_BEFORE_THE_END))
    partial = next((results / "scenes").glob(".squares.*.partial"))
    following = workflow(results, "true")
    assert said(following).startswith(f"waiting for jobs of an earlier workflow, which was killed: process {job.pid} on ")
    assert partial.exists(), "removed under the hands of the job that writes it"
    job.resume()
    assert said(following) == "taken\n"
    wait_until(lambda: has_ended(job))
    # What it finished counts.
    assert made(tmp_path / "alone").returncode == 0
    assert holds(results / "scenes" / "squares") == holds(tmp_path / "alone")
    assert following.wait() == 0


def test_a_job_that_begins_late_writes_nothing(tmp_path: Path) -> None:
    """Its workflow was killed while it was still importing, or while it waited in a queue."""
    results = tmp_path / "results"
    first = WorkflowLock(results)
    first.take(print)
    late = os.environ[VARIABLE]
    first.release()
    WorkflowLock(results).take(print)
    done = made(results / "scenes" / "squares", env={**os.environ, VARIABLE: late})
    assert done.returncode == 1
    assert "the workflow that started this job has ended and another one has begun; nothing is written" in done.stderr
    assert not (results / "scenes").exists()


def test_what_a_killed_job_left_behind_is_removed_by_the_next_workflow(tmp_path: Path) -> None:
    results = tmp_path / "results"
    job = orphan(results, scenes_command(results / "scenes" / "squares", STOPS_BEFORE_THE_END))
    job.send_signal(signal.SIGKILL)
    wait_until(lambda: has_ended(job))
    assert not record_path(results / "scenes" / "squares").exists()
    assert list(results.rglob("*.partial"))
    assert said(workflow(results, "true")) == "taken\n"
    assert not list(results.rglob("*.partial"))


def test_a_second_workflow_is_told_who_has_the_results(tmp_path: Path) -> None:
    first = WorkflowLock(tmp_path)
    first.take(print)
    second = WorkflowLock(tmp_path)
    with pytest.raises(UserError, match=rf"another workflow is using these results .process {os.getpid()} on \S+.; wait for it or end it"):
        second.take(print)
    assert not second.held
    first.release()
    second.take(print)
    assert second.held


def test_jobs_of_one_workflow_work_side_by_side(tmp_path: Path) -> None:
    WorkflowLock(tmp_path).take(print)
    with job_lock("scenes"), job_lock("organism"):
        assert len((tmp_path / ".jobs.lock").read_text(encoding="utf-8").splitlines()) == 2


def test_a_job_by_hand_locks_nothing(tmp_path: Path) -> None:
    with job_lock("scenes"):
        assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"workflow.lock: this file system has no locks .Operation not supported.; choose another results"):
        WorkflowLock(tmp_path).take(print)


def test_a_job_started_by_hand_outlives_its_shell(tmp_path: Path) -> None:
    """`nohup` and the like."""
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    shell = [sys.executable, "-c", code, *scenes_command(tmp_path / "scenes", STOPS_BEFORE_THE_END)]
    done = subprocess.run(shell, capture_output=True, encoding="utf-8", check=True)
    job = psutil.Process(int(done.stdout))
    wait_until(lambda: is_stopped(job))
    job.resume()
    wait_until(lambda: has_ended(job))
    assert record_path(tmp_path / "scenes").exists()


def test_processes_of_a_pool_end_with_the_job(tmp_path: Path) -> None:
    """They draw images; nobody else would end them."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom scene_jobs import drawn_forever\nfrom vlm_spatial.scenes.images import write_images\n"
        "write_images(Path(sys.argv[1], 'out'), dict.fromkeys(map(str, range(100)), sys.argv[1]), drawn_forever, workers=2)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    job = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    wait_until(lambda: len(list(tmp_path.glob("drawn-by-*"))) == 2)
    workers = [psutil.Process(int(path.suffix[1:])) for path in tmp_path.glob("drawn-by-*")]
    job.kill()
    wait_until(lambda: all(has_ended(worker) for worker in workers), seconds=30)
