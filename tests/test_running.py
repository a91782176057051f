"""One run of the workflow: it takes its results once, and looks at every existing one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from tiny_workflow import CONFIG
from vlm_spatial.config.workflow import Config
from vlm_spatial.workflow.lock import VARIABLE
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.running import Running

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize("plugin", ["local", "dryrun"])
def test_every_result_that_has_no_record_is_made_again(plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    tables = {f"results/{model}/squares/{stage}.parquet" for model in CONFIG["models"] for stage in ("behaviour", "conflict")}
    for table in tables:
        Path(table).parent.mkdir(parents=True, exist_ok=True)
        Path(table).touch()
    workflow = SimpleNamespace(dag=SimpleNamespace(forcefiles=set()), executor_plugin=ExecutorPluginRegistry().get_plugin(plugin))
    running = Running(workflow, Plan(Config.model_validate(CONFIG)))
    for model in CONFIG["models"]:
        for stage in ("behaviour", "conflict"):
            assert running.stale(stage)(SimpleNamespace(items={"model": model, "dataset": "squares"}.items)) == []
    assert workflow.dag.forcefiles == tables
    assert Path("results/.workflow.lock").exists() == (plugin == "local")
