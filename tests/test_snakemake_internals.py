"""The attributes of Snakemake that its documentation does not have still work, and are used in one module only."""

import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake import api
from snakemake.settings.types import ConfigSettings
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from vlm_spatial.errors import UserError
from vlm_spatial.workflow.snakemake_internals import config_files, executor, force

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
DOCUMENTED = {"basedir"}


def test_a_job_can_be_forced() -> None:
    # By way of `api`: Snakemake's modules import each other in circles.
    source = inspect.getsource(sys.modules[api.Workflow.__module__].DAG)
    why = "Snakemake changed how jobs are forced: adapt `force`, or damaged results are not made again"
    assert "self.forcefiles = set()" in source, why
    assert "forcefiles.isdisjoint(job.output)" in source, why
    assert isinstance(inspect.getattr_static(api.Workflow, "dag"), property), why


def test_where_jobs_cannot_be_forced_the_run_ends() -> None:
    with pytest.raises(UserError, match=r"a\.parquet: has to be made again, which this version of Snakemake cannot be told"):
        force(SimpleNamespace(dag=SimpleNamespace()), "a.parquet")


def test_what_runs_jobs_is_known() -> None:
    assert isinstance(inspect.getattr_static(api.Workflow, "executor_plugin"), property), "Snakemake renamed it: adapt `executor`"
    plugins = ExecutorPluginRegistry()
    for name, expected in {"local": "local", "slurm": "slurm", "dryrun": None, "touch": "touch"}.items():
        assert executor(SimpleNamespace(executor_plugin=plugins.get_plugin(name))) == expected
    assert executor(SimpleNamespace(executor_plugin=None)) is None


def test_the_files_of_the_configuration_are_known(tmp_path: Path) -> None:
    found = inspect.getattr_static(api.Workflow, "overwrite_configfiles")
    assert isinstance(found, property), "Snakemake renamed it: adapt `config_files`"
    (tmp_path / "mine.yaml").write_text("seed: 1\n", encoding="utf-8")
    given = SimpleNamespace(config_settings=ConfigSettings(configfiles=[tmp_path / "mine.yaml"]))
    assert config_files(SimpleNamespace(overwrite_configfiles=found.fget(given))) == [tmp_path / "mine.yaml"]


def test_nothing_else_uses_undocumented_attributes() -> None:
    files = [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk"), *(REPOSITORY / "src").rglob("*.py")]
    attribute = re.compile(r"(?<![./\w])workflow\.([a-z]\w*)")
    used = {(path.name, name) for path in files for name in attribute.findall(path.read_text(encoding="utf-8"))}
    ours = {name for name in used if (REPOSITORY / "src/vlm_spatial/workflow" / f"{name[1]}.py").exists()}
    internals = ("overwrite_configfiles", "executor_plugin", "dag")
    assert {name for name in used - ours if name[1] not in DOCUMENTED} == {("snakemake_internals.py", name) for name in internals}
