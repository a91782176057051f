"""What a new run cancels: the jobs of an earlier run of the same folder, and nothing else."""

import uuid
from pathlib import Path

import pytest

from cluster import Cluster
from vlm_spatial.errors import UserError
from vlm_spatial.workflow.slurm import cancel_left_over, left_over

pytestmark = pytest.mark.cluster


def submit(cluster: Cluster, name: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    command = ["sbatch", "--parsable", f"--job-name={name}", f"--chdir={folder}", "--output=/dev/null", "--mem=10", "--wrap=sleep 600"]
    return cluster.run(*command).strip()


def test_only_jobs_that_snakemake_submitted_from_this_folder_are_cancelled(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    old = [submit(cluster, f"{prefix}{uuid.uuid4()}", here) for prefix in ("", "my_run-1_")]
    others = [submit(cluster, str(uuid.uuid4()), elsewhere), submit(cluster, "my-own-job", here)]
    assert left_over(here) == old
    assert cancel_left_over(here) == old
    states = {record.job: record.state for record in cluster.records() if record.job in (*old, *others)}
    assert all(states[job] == "CANCELLED" for job in old), states
    assert all(states[job] in ("PENDING", "CONFIGURING", "RUNNING") for job in others), states
    assert cancel_left_over(here) == []
    cluster.run("scancel", *others)


def test_without_an_answer_from_slurm_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue: not found"):
        cancel_left_over(tmp_path)
