"""The workflow as a module of another one (docs/module.md): the given configuration and the code beside the Snakefile count."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tiny_workflow import CAPTURE, CONFIG, Workflow
from vlm_spatial.stages.registry import STAGES

pytestmark = pytest.mark.workflow

OUTER = """
module vlm:
    snakefile:
        {snakefile!r}
    config:
        config["vlm"]


use rule * from vlm as vlm_*


rule summary:
    input:
        vlm.plan.results / "findings.json",
    output:
        "summary.txt",
    shell:
        "cp {{input}} {{output}}"


rule all:
    default_target: True
    input:
        "summary.txt",
"""


@pytest.fixture
def inner(tmp_path: Path) -> Workflow:
    """A clone of this repository without a configuration."""
    workflow = Workflow.create(tmp_path / "clone")
    (workflow.folder / "workflow_config.yaml").unlink()
    return workflow


@pytest.fixture
def outer(inner: Workflow, tmp_path: Path) -> Workflow:
    """A workflow that uses it, with its configuration in a section of its own."""
    folder = tmp_path / "outer"
    folder.mkdir()
    (folder / "Snakefile").write_text(OUTER.format(snakefile=str(inner.folder / "Snakefile")), encoding="utf-8")
    config = {**CONFIG, "results": "of_vlm", "models": {"small": CONFIG["models"]["small"]}}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"vlm": config}), encoding="utf-8")
    return Workflow(folder)


def run(workflow: Workflow, inner: Workflow, *arguments: str) -> subprocess.CompletedProcess[str]:
    profile = ["--workflow-profile", str(inner.folder / "profiles" / "default"), "--configfile", "mine.yaml"]
    command = [word for word in workflow.command(*profile, *arguments) if word != "--set-threads" and not word.endswith("=1")]
    return subprocess.run(command, cwd=workflow.folder, env=workflow.environment(), **CAPTURE)


def test_every_job_is_planned_from_the_given_configuration(outer: Workflow, inner: Workflow) -> None:
    done = run(outer, inner, "--dry-run", "--printshellcmds")
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    planned = set(re.findall(r"-m vlm_spatial\.stages\.(\w+)", shown))
    # One model on one dataset of drawn scenes.
    off = {name for name, stage in STAGES.items() if stage.optional}
    assert planned == STAGES.keys() - {"boxes", "generalisation", "transfer"} - off
    assert "=of_vlm/small/squares/conflict.parquet" in shown
    assert "summary" in shown


def test_jobs_run_with_the_code_beside_the_snakefile(outer: Workflow, inner: Workflow) -> None:
    stage = inner.folder / "src/vlm_spatial/stages/scenes.py"
    text = stage.read_text(encoding="utf-8")
    stage.write_text(text.replace("def scenes(", "print('the code of the clone')\n\n\ndef scenes(", 1), encoding="utf-8")
    done = run(outer, inner, "--cores", "1", "--until", "vlm_scenes")
    assert done.returncode == 0, done.stderr
    assert (outer.folder / "of_vlm/scenes/squares/scenes.parquet").is_file()
    assert "the code of the clone" in (outer.folder / "of_vlm/logs/scenes/squares.log").read_text(encoding="utf-8")


def test_the_code_beside_the_snakefile_plans(outer: Workflow, inner: Workflow) -> None:
    config = inner.folder / "src/vlm_spatial/config/workflow.py"
    config.write_text(config.read_text(encoding="utf-8") + "\nraise SystemExit('planned by the clone')\n", encoding="utf-8")
    assert "planned by the clone" in run(outer, inner, "--dry-run").stderr


def test_a_mistake_in_the_given_configuration_is_one_line(outer: Workflow, inner: Workflow) -> None:
    path = outer.folder / "mine.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["vlm"]["models"]["small"]["datasets"] = ["circles"]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = run(outer, inner, "--dry-run")
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "config of the module: models.small.datasets: 'circles' is not defined" in line
