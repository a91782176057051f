"""The container recipe is pinned, built from the same lock as everything else, and holds all that a run needs.

Nothing is built here. What the recipe copies is laid out in an empty folder, where the workflow has to be whole; and a stand-in for
apptainer notes what it is told to run, and runs it with nothing of the environment but what a container gets.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tiny_workflow import Workflow

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    if line and not line.startswith("#")
]
COPIED = [(source, rest[-1]) for step, text in STEPS if step == "COPY" for (*rest,) in [text.split()] for source in rest[:-1]]


def run_steps() -> list[str]:
    return [text for step, text in STEPS if step == "RUN"]


def test_base_image_is_pinned_to_a_release_of_the_python_that_the_environments_have() -> None:
    [base] = [text for step, text in STEPS if step == "FROM"]
    assert (found := re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+", base)), base
    for name in ("light", "torch"):
        assert f"python={found[1]}" in yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))["dependencies"]


def test_packages_are_those_of_the_lock_and_no_others() -> None:
    assert [text for step, text in STEPS if step == "RUN"] == [
        "python -m pip install --requirement requirements.lock",
        "python -m pip install --no-deps --editable .",
    ]
    # As `make` installs them.
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "-r requirements.lock" in makefile
    assert "--no-deps -e ." in makefile


def test_nothing_that_is_copied_is_ignored_and_nothing_else_is_sent() -> None:
    sent = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split() if line.startswith("!")]
    assert sorted(sent) == sorted(source for source, _ in COPIED)


@pytest.mark.slow
def test_the_workflow_is_whole_in_the_image(tmp_path: Path) -> None:
    image, work = tmp_path / "image", tmp_path / "work"
    work.mkdir()
    for source, target in COPIED:
        place = image / target
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / source, place)
    shutil.copy(REPOSITORY / "workflow_config.yaml", work)
    [command] = [re.findall(r'"([^"]*)"', text) for step, text in STEPS if step == "CMD"]
    assert command[:3] == ["snakemake", "--snakefile", "/opt/vlm-spatial/Snakefile"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(image / "Snakefile"), *command[3:]]
    done = subprocess.run([*command, "--dry-run", "--quiet", "rules"], cwd=work, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^figures +1$", done.stdout + done.stderr, flags=re.MULTILINE)


APPTAINER = """#!/bin/sh
[ "$1" = --version ] && { echo apptainer version 1.3.4; exit; }
echo "$@" >> apptainer.log
while [ "$1" != bash ]; do shift; done
exec env --ignore-environment HOME="$HOME" PYTHONPATH="$PYTHONPATH" PATH={python}:/usr/bin:/bin "$@"
"""


@pytest.mark.slow
def test_every_stage_can_run_in_the_image(tmp_path: Path) -> None:
    workflow = Workflow.create(tmp_path / "run")
    stand_in = tmp_path / "bin" / "apptainer"
    stand_in.parent.mkdir()
    stand_in.write_text(APPTAINER.replace("{python}", str(Path(sys.executable).parent)), encoding="utf-8")
    stand_in.chmod(0o755)
    environment = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "VLM_SPATIAL_IMAGE": "image.sif"}
    done = workflow.snakemake("--sdm", "apptainer", "--apptainer-args=--nv", "--", "results/scenes/squares", environment=environment)
    assert done.returncode == 0, done.stderr
    assert (workflow.folder / "results/scenes/squares/scenes.parquet").exists()
    [told] = (workflow.folder / "apptainer.log").read_text(encoding="utf-8").splitlines()
    assert re.match(rf"exec --home {workflow.folder} --nv .*image\.sif bash -c .*vlm_spatial\.stages\.scenes", told), told
