"""Short jobs go together: few submissions, each asking for what one of its jobs needs."""

import copy
from pathlib import Path

import pytest

from cluster import Cluster
from submitted import Submitted
from tiny_workflow import CONFIG, Workflow

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_jobs_of_a_small_model_on_several_datasets_are_one_submission(
    cluster: Cluster, finished_workflow: Workflow, tmp_path: Path
) -> None:
    more = ("blocks", "cards")
    config = copy.deepcopy(CONFIG)
    config["datasets"] |= {name: config["datasets"]["squares"] for name in more}
    config["models"]["folder"]["datasets"] += more
    run = Submitted(finished_workflow.copy(tmp_path / "run"), cluster, warm=True)
    run.workflow.write_config(config)
    tables = [f"results/folder/{name}/behaviour.parquet" for name in more]
    run.run("--", *tables)
    assert all((run.folder / table).exists() for table in tables)
    scenes, behaviour = run.records
    assert (scenes.gpus, scenes.cpus, scenes.memory_mb, scenes.limit) == (0, 1, 2000, "01:00:00")
    # One GPU and one job's memory, the time of both.
    assert (behaviour.gpus, behaviour.cpus, behaviour.limit) == (1, 1, "01:00:00")
    assert 3000 <= behaviour.memory_mb < 3100
