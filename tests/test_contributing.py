"""CONTRIBUTING.md is followed to the letter in a copy of the repository: its new files, its changes, and then they run."""

import os
import re
import subprocess
import sys

import polars as pl
import pytest

from tiny_workflow import CAPTURE, CONFIG, REPOSITORY, Workflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

STEP = re.compile(
    r"^(New file|In) `([^`]+)`(?:, (below|above|instead of) `([^`]+)`)?:\n\n```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL
)
# What a contributor runs on such a change: whether everything that reads the registry knows the stage, and every kind of scene is drawn.
THEIR_TESTS = ("registry", "slurm_profile", "config_reference", "identity", "sources")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The copy with everything that the page shows: a kind of dataset, a stage, a claim."""
    workflow = Workflow.create(tmp_path_factory.mktemp("contributing") / "run")
    for part in ("docs", "tests", "presets", "organisms", "README.md", "mkdocs.yml"):
        subprocess.run(["cp", "-r", REPOSITORY / part, workflow.folder / part], check=True)
    steps = STEP.findall((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(steps) >= 15
    for form, path, where, anchor, code in steps:
        file = workflow.folder / path
        if form == "New file":
            assert not file.exists(), path
            file.write_text(code, encoding="utf-8")
            continue
        lines = file.read_text(encoding="utf-8").split("\n")
        assert lines.count(anchor) == 1, f"{path}: {lines.count(anchor)} lines are {anchor!r}"
        place = lines.index(anchor)
        kept = {"below": (place + 1, place + 1), "above": (place, place), "instead of": (place, place + 1)}[where]
        lines[kept[0] : kept[1]] = code.removesuffix("\n").split("\n")
        file.write_text("\n".join(lines), encoding="utf-8")
    config = {**CONFIG, "brightness": {"variant": "decorrelated"}}
    config["datasets"] = {**CONFIG["datasets"], "round": {**CONFIG["datasets"]["squares"], "kind": "discs"}}
    config["models"] = {"folder": {"checkpoint": "checkpoint", "datasets": ["squares", "round"]}}
    workflow.write_config(config)
    return workflow


def python(workflow: Workflow, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(workflow.folder / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=workflow.folder, env=environment, **CAPTURE)


def test_the_stage_is_planned_for_every_model_and_dataset_and_read_by_the_measures(changed: Workflow) -> None:
    done = changed.snakemake("--dry-run", "--printshellcmds")
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert len(re.findall(r"-m vlm_spatial\.stages\.brightness .*'variant'", shown)) == 2
    for stage, name in (
        ("measures", "brightness=results/folder/round/"),
        ("figures", "brightness:{model}:{dataset}=results/{model}/{dataset}/"),
    ):
        assert re.search(rf"-m vlm_spatial\.stages\.{stage} .*{re.escape(name)}brightness\.parquet", shown), stage


def test_stage_dataset_and_claim_run(changed: Workflow) -> None:
    table = "results/folder/round/brightness.parquet"
    changed.run("--cores", "1", table)
    found = pl.read_parquet(changed.folder / table)
    scenes = pl.read_parquet(changed.folder / "results/scenes/round/scenes.parquet")
    assert found["scene_id"].to_list() == scenes.filter(variant="decorrelated")["scene_id"].to_list()
    assert (found["brightness"] > 0.5).all()

    settings = {"model": {"checkpoint": "checkpoint"}, "seed": 0, "stage": {}}
    inputs = ["--input", "scenes=results/scenes/round", "--input", f"brightness={table}"]
    done = python(changed, "-m", "vlm_spatial.stages.measures", "--settings", repr(settings), *inputs, "--output", "table=new.parquet")
    assert done.returncode == 0, done.stderr
    [row] = pl.read_parquet(changed.folder / "new.parquet").filter(measure="bright").to_dicts()
    assert (row["estimate"], row["n"], row["verdict"]) == (1.0, found.height, "supported")


def test_the_tests_of_what_was_added_pass(changed: Workflow) -> None:
    page = python(changed, "-m", "vlm_spatial.config.reference")
    assert "## `brightness`" in page.stdout
    (changed.folder / "docs/config.md").write_text(page.stdout, encoding="utf-8")
    done = python(changed, "-m", "pytest", "-m", "not slow", *(f"tests/test_{name}.py" for name in THEIR_TESTS))
    assert done.returncode == 0, done.stdout[-6000:]
    lint = changed.snakemake("--lint")
    assert lint.returncode == 0, lint.stderr
