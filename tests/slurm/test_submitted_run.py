"""The whole tiny workflow through profiles/slurm, judged by SLURM's own records and by a run on this machine."""

import pytest

from cluster import Cluster
from submitted import Submitted, differences
from tiny_workflow import STAGES, Workflow
from vlm_spatial.stages import registry

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WITH_A_STAGE_ACROSS = {"probes", "amplification"}
GPU_STAGES = {name for name in STAGES if registry.STAGES[name].device == "gpu"}


@pytest.fixture(scope="module")
def submitted(cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """A finished run of the workflow that ``finished_workflow`` has run on this machine."""
    # Waits for its time limit while this runs.
    request.getfixturevalue("over_time")
    run = Submitted(Workflow.create(tmp_path_factory.mktemp("submitted") / "run"), cluster, warm=True)
    run.run()
    return run


def test_every_stage_was_submitted_and_ended_well(submitted: Submitted) -> None:
    assert {record.stage for record in submitted.records} == set(STAGES)
    assert {record.state for record in submitted.records} == {"COMPLETED"}
    # Two small models on one dataset: a stage is one submission, but for those that go with a stage across datasets.
    assert len(submitted.records) == len(STAGES) + len(WITH_A_STAGE_ACROSS)


def test_the_stages_that_run_a_model_ask_for_one_gpu_and_no_other_does(submitted: Submitted) -> None:
    assert {(record.stage, record.gpus) for record in submitted.records} == {
        *((stage, 1) for stage in GPU_STAGES),
        *((stage, 0) for stage in set(STAGES) - GPU_STAGES),
    }


def test_no_two_jobs_held_the_gpu_at_once(submitted: Submitted) -> None:
    gpu = [record for record in submitted.records if record.gpus]
    assert [(a, b) for a in gpu for b in gpu if a.job < b.job and a.overlaps(b)] == []


def test_jobs_ask_for_what_a_small_model_needs(submitted: Submitted) -> None:
    asked = {record.stage: (record.memory_mb, record.limit) for record in submitted.records}
    assert all(memory <= 6000 for memory, _ in asked.values()), asked
    # Half an hour a job.
    assert all(asked[stage][1] == ("00:30:00" if stage in WITH_A_STAGE_ACROSS else "01:00:00") for stage in GPU_STAGES), asked


def test_results_are_those_of_a_run_on_this_machine(submitted: Submitted, finished_workflow: Workflow) -> None:
    assert differences(submitted.folder, finished_workflow.folder) == []
