"""One SLURM for all tests of this folder."""

import subprocess
from collections.abc import Iterator

import pytest

from cluster import Cluster, SlurmUnavailableError, install
from faults import MANIFEST, ONE_SCENE_A_SHARD, freeze_half_way
from submitted import Submitted
from tiny_workflow import Workflow


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running SLURM; the tests are skipped, with the reason, where there can be none."""
    try:
        install()
    except SlurmUnavailableError as error:
        pytest.skip(f"SLURM: {error}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def over_time(
    cluster: Cluster, finished_workflow: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Submitted, "subprocess.Popen[str]", int]:
    """An extraction that hangs half-way, until SLURM ends it after its time limit of one minute; other tests go on meanwhile.

    Holds no GPU, which would keep the others waiting. The last value: shards that it had committed when it hung.
    """
    run = Submitted(finished_workflow.copy(tmp_path_factory.mktemp("over_time") / "run"), cluster)
    run.workflow.write_config(ONE_SCENE_A_SHARD)
    snakemake = run.start("--set-resources", "activations:runtime=10 ** (attempt - 1)", "activations:gpu=0", "--", MANIFEST)
    return run, snakemake, freeze_half_way(run)
