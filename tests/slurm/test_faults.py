"""What goes wrong on a cluster, done to a real one: nothing is lost, nothing skipped, no two jobs write one result."""

import subprocess
import time
from pathlib import Path

import pytest

from cluster import NODE, Cluster
from faults import (
    BEHAVIOUR,
    CONFLICT,
    MANIFEST,
    MEASURES,
    ONE_SCENE_A_SHARD,
    SCENES,
    done_before,
    freeze_half_way,
    processes,
    wait_for,
    without,
)
from submitted import Submitted, differences
from tiny_workflow import ONE_THREAD, Workflow

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="session")
def undisturbed(finished_workflow: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """An extraction with one scene a shard, on this machine."""
    workflow = finished_workflow.copy(tmp_path_factory.mktemp("undisturbed") / "run")
    workflow.write_config(ONE_SCENE_A_SHARD)
    workflow.run(*ONE_THREAD, "--", MANIFEST)
    return workflow


def test_cancelled_extraction_goes_on_from_its_last_shard(
    cluster: Cluster, finished_workflow: Workflow, undisturbed: Workflow, tmp_path: Path
) -> None:
    run = Submitted(finished_workflow.copy(tmp_path / "run"), cluster)
    run.workflow.write_config(ONE_SCENE_A_SHARD)
    snakemake = run.start("--", MANIFEST)
    committed = freeze_half_way(run)
    # What needs no GPU does not wait for the one that is held.
    Submitted(without(finished_workflow, tmp_path / "other", MEASURES), cluster, warm=True).run("--", MEASURES)
    assert [(record.state, record.gpus) for record in run.records] == [("RUNNING", 1)]
    cluster.run("scancel", run.records[-1].job)
    run.finish(snakemake)
    assert [record.state for record in run.records] == ["CANCELLED", "COMPLETED"]
    assert committed <= done_before(run) < SCENES
    assert differences(run.folder, undisturbed.folder) == []


def test_extraction_over_its_time_limit_goes_on_from_its_last_shard(
    over_time: tuple[Submitted, "subprocess.Popen[str]", int], undisturbed: Workflow
) -> None:
    run, snakemake, committed = over_time
    run.finish(snakemake)
    assert [record.state for record in run.records] == ["TIMEOUT", "COMPLETED"]
    assert committed <= done_before(run) < SCENES
    assert differences(run.folder, undisturbed.folder) == []


def test_drained_node_ends_what_it_runs_and_the_rest_waits(cluster: Cluster, finished_workflow: Workflow, tmp_path: Path) -> None:
    run = Submitted(without(finished_workflow, tmp_path / "run", BEHAVIOUR, CONFLICT), cluster)
    snakemake = run.start("--", BEHAVIOUR, CONFLICT)
    wait_for(lambda: {record.state for record in run.records} == {"RUNNING", "PENDING"}, "one job to run and one to wait")
    cluster.run("scontrol", "update", f"nodename={NODE}", "state=drain", "reason=test")
    wait_for(lambda: {record.state for record in run.records} == {"COMPLETED", "PENDING"}, "the running job to end")
    cluster.wait_for_node("drained")
    assert snakemake.poll() is None
    cluster.run("scontrol", "update", f"nodename={NODE}", "state=resume")
    run.finish(snakemake)
    assert [record.state for record in run.records] == ["COMPLETED"] * 2
    assert differences(run.folder, finished_workflow.folder) == []


def test_workflow_killed_and_started_again_never_has_two_jobs_for_one_result(
    cluster: Cluster, finished_workflow: Workflow, tmp_path: Path
) -> None:
    run = Submitted(without(finished_workflow, tmp_path / "run", BEHAVIOUR, CONFLICT), cluster)
    snakemake = run.start("--", BEHAVIOUR, CONFLICT)
    wait_for(lambda: {record.state for record in run.records} == {"RUNNING", "PENDING"}, "one job to run and one to wait")
    first = run.records
    [busy] = [record.stage for record in first if record.state == "RUNNING"]
    holders = run.folder / "results" / ".jobs.lock"
    wait_for(lambda: f"({busy}, SLURM job {first[0].job})" in holders.read_text(encoding="utf-8"), "its lock", pause_s=0.02)
    frozen = processes(run, busy)
    for process in frozen:
        process.suspend()
    snakemake.kill()
    snakemake.wait()
    following = run.start("--", BEHAVIOUR, CONFLICT)
    wait_for(lambda: "waiting for jobs of an earlier workflow, which was killed: process" in run.log, "the next workflow to wait")
    assert f"SLURM job {first[0].job})" in run.log
    # What a killed workflow leaves behind lives on, and nothing is submitted beside it.
    assert [(record.job, record.state) for record in run.records] == [(first[0].job, "RUNNING"), (first[1].job, "PENDING")]
    for process in frozen:
        process.resume()
    run.finish(following)
    # What ran is kept. What waited has ended as it began; its result is made by the next workflow.
    wait_for(lambda: not {record.state for record in run.records} & {"RUNNING", "PENDING", "COMPLETING"}, "the queue to be empty")
    assert [record.state for record in run.records] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert [record.stage for record in run.records][1:] == [first[1].stage] * 2
    assert differences(run.folder, finished_workflow.folder) == []


def test_controller_that_is_restarted_loses_no_job(cluster: Cluster, finished_workflow: Workflow, tmp_path: Path) -> None:
    run = Submitted(without(finished_workflow, tmp_path / "run", BEHAVIOUR, CONFLICT), cluster)
    snakemake = run.start("--", BEHAVIOUR, CONFLICT)
    wait_for(lambda: {record.state for record in run.records} == {"RUNNING", "PENDING"}, "one job to run and one to wait")
    cluster.stop_controller()
    # SLURM's commands wait for about nine seconds. Without accounting, the executor loses its jobs after that (docs/cluster.md).
    time.sleep(5)
    cluster.start_controller()
    run.finish(snakemake)
    assert [record.state for record in run.records] == ["COMPLETED"] * 2
    assert differences(run.folder, finished_workflow.folder) == []
