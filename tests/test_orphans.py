"""A job whose workflow is gone ends, and whatever the moment, it finishes nothing."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scene_jobs import STOPS_BEFORE_THE_END, has_ended, is_stopped, made, scenes_command, wait_until
from vlm_spatial.workflow.parent_watch import lead
from vlm_spatial.workflow.provenance import seal_path

# The workflow, the shell that it starts for a job (which waits for it), the job.
LEADER = """
import subprocess, sys
from vlm_spatial.workflow.parent_watch import lead
lead()
subprocess.run(["sh", "-c", '"$@"; true', "sh", *sys.argv[1:]])
"""
NEVER_LOOKS = "from vlm_spatial.workflow import parent_watch\nparent_watch._PAUSE_S = 1e6\n"


class Family:
    """A leader, its shell and its job."""

    def __init__(self, command: list[str]) -> None:
        self._started = subprocess.Popen([sys.executable, "-c", LEADER, *command])
        self.leader = psutil.Process(self._started.pid)
        wait_until(lambda: len(self.leader.children(recursive=True)) == 2)
        self.shell, self.job = self.leader.children(recursive=True)

    def kill(self, member: str) -> None:
        process: psutil.Process = getattr(self, member)
        process.kill()
        wait_until(lambda: has_ended(process))

    def orphan(self) -> None:
        """Wait until the job has stopped itself; kill its leader; let the job go on, and wait for its end."""
        wait_until(lambda: is_stopped(self.job))
        self.kill("leader")
        self.job.resume()
        wait_until(lambda: has_ended(self.job))


def test_an_orphan_finishes_nothing_even_if_it_never_looked(tmp_path: Path) -> None:
    """The moment of the kill is right before the rename; only the look there can find out."""
    target = tmp_path / "scenes"
    Family(scenes_command(target, NEVER_LOOKS + STOPS_BEFORE_THE_END)).orphan()
    assert not target.exists()
    assert not seal_path(target).exists()
    assert list(tmp_path.glob(".scenes.*.partial"))
    assert made(target).returncode == 0
    assert not list(tmp_path.glob(".scenes.*.partial"))


# What makes a result final, done to what lies in the working folder.
PREPARED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
os.chdir(sys.argv[2])
parent_watch.follow()
def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
"""
STORE = """
from activation_stores import bfloat16_values, description
from vlm_spatial.activations.writer import StoreWriter
described = description(6, shard_scenes=3)
values = bfloat16_values(described)
def append(writer, shard):
    for site, array in values.items():
        writer.append(shard, site, array[3 * shard : 3 * shard + 3])
with StoreWriter(Path("activations.zarr"), Path("activations.json"), described) as writer:
    append(writer, 0)
"""
COMMITS = {
    "a table": "from vlm_spatial.files import written_then_renamed\n"
    "with written_then_renamed(Path('table')) as partial:\n    partial.write_text('new')\n    stop()",
    "a folder": "from vlm_spatial.files import written_then_renamed\n"
    "with written_then_renamed(Path('folder')) as partial:\n    partial.mkdir()\n    stop()",
    "a seal": "from vlm_spatial.workflow.provenance import MadeBy, write_seal\n"
    "stop()\nwrite_seal(Path('table'), MadeBy(stage='s', settings={}, modules={}, packages={}, content={}, inputs={}))",
    "a job that waited": "from vlm_spatial.stages import stage\nclass Waited(stage.Ownership):\n"
    "    def __enter__(self):\n        super().__enter__()\n        stop()\n        return self\nstage.Ownership = Waited\n"
    "stage.run_stage('conflict', lambda job: Path('started').touch(), ['--settings', '{}', '--output', 'table=table'])",
    "a shard": STORE + "    stop()\n    writer.commit(0)",
    "a store": STORE + "    writer.commit(0)\n    append(writer, 1)\n    writer.commit(1)\n    stop()\n    writer.finish()",
}


@pytest.mark.parametrize("commit", COMMITS.values(), ids=COMMITS)
@pytest.mark.parametrize("orphaned", [True, False], ids=["orphaned", "led"])
def test_nothing_becomes_final_in_the_hands_of_an_orphan(commit: str, orphaned: bool, tmp_path: Path) -> None:
    (tmp_path / "table").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/member").write_text("old")
    (tmp_path / ".table.seal").write_text("old")
    code = NEVER_LOOKS + PREPARED + commit
    family = Family([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)])
    wait_until(lambda: is_stopped(family.job))
    before = bytes_below(tmp_path)
    if orphaned:
        family.orphan()
        assert bytes_below(tmp_path) == before
    else:
        family.job.resume()
        wait_until(lambda: has_ended(family.leader))
        assert bytes_below(tmp_path) != before


def bytes_below(folder: Path) -> dict[str, str]:
    """Checksum of every file but locks, which only tell who wrote last, and what is not final, which the next run removes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".partial")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("member", ["leader", "shell"])
def test_an_orphan_with_long_work_ends_soon(member: str, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom vlm_spatial.workflow.parent_watch import follow\n"
        "follow()\nPath(sys.argv[1]).touch()\ntime.sleep(1e6)"
    )
    family = Family([sys.executable, "-c", code, str(tmp_path / "works")])
    wait_until((tmp_path / "works").exists)
    family.kill(member)
    wait_until(lambda: has_ended(family.job), seconds=30)


def test_a_job_that_starts_after_its_workflow_has_ended_does_nothing(tmp_path: Path) -> None:
    code = "import os; from vlm_spatial.workflow.parent_watch import lead; lead(); print(os.environ['VLM_SPATIAL_WORKFLOW'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    late = made(tmp_path / "scenes", env={**os.environ, "VLM_SPATIAL_WORKFLOW": ended})
    assert late.returncode == 1
    assert "the workflow that started this job has ended, and so does the job" in late.stderr
    assert not list(tmp_path.iterdir())


def test_a_leader_on_another_machine_is_not_followed(tmp_path: Path) -> None:
    """Numbers of processes mean nothing there, nor in another container."""
    elsewhere = "1 2 0f4d7a2e-0000-4000-8000-000000000000/pid:[4026531836]"
    assert made(tmp_path / "scenes", env={**os.environ, "VLM_SPATIAL_WORKFLOW": elsewhere}).returncode == 0


def test_a_job_started_by_hand_outlives_its_shell(tmp_path: Path) -> None:
    """`nohup` and the like: without a workflow there is nothing to follow."""
    environment = {name: value for name, value in os.environ.items() if name != "VLM_SPATIAL_WORKFLOW"}
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    shell = [sys.executable, "-c", code, *scenes_command(tmp_path / "scenes", STOPS_BEFORE_THE_END)]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
    job = psutil.Process(int(done.stdout))
    wait_until(lambda: is_stopped(job))
    job.resume()
    wait_until(lambda: has_ended(job))
    assert seal_path(tmp_path / "scenes").exists()


def test_processes_of_a_pool_end_with_the_job(tmp_path: Path) -> None:
    """They draw images; nobody else would end them."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom scene_jobs import drawn_forever\nfrom vlm_spatial.scenes.images import write_images\n"
        "write_images(Path(sys.argv[1], 'out'), dict.fromkeys(map(str, range(100)), sys.argv[1]), drawn_forever, workers=2)"
    )
    job = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    wait_until(lambda: len(list(tmp_path.glob("drawn-by-*"))) == 2)
    workers = [psutil.Process(int(path.suffix[1:])) for path in tmp_path.glob("drawn-by-*")]
    job.kill()
    wait_until(lambda: all(has_ended(worker) for worker in workers), seconds=30)


def test_lead_names_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_SPATIAL_WORKFLOW", "")
    lead()
    assert os.environ["VLM_SPATIAL_WORKFLOW"].split()[0] == str(os.getpid())
