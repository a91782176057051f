"""The container recipe is pinned, built from the same lock as everything else, and holds all that a run needs.

Nothing is built here. What the recipe copies is laid out in an empty folder, where the workflow has to be whole.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]
COPIED = [(source, rest[-1]) for step, text in STEPS if step == "COPY" for (*rest,) in [text.split()] for source in rest[:-1]]


def run_steps() -> list[str]:
    return [text for step, text in STEPS if step == "RUN"]


def test_base_image_is_pinned_to_a_release_of_the_python_that_the_environments_have() -> None:
    [base] = [text for step, text in STEPS if step == "FROM"]
    assert (found := re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+", base)), base
    for name in ("light", "torch"):
        assert f"python={found[1]}" in yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text())["dependencies"]


def test_packages_are_those_of_the_lock_and_no_others() -> None:
    assert run_steps() == [
        "python -m pip install --requirement requirements.lock",
        "python -m pip install --no-deps --editable .",
    ]
    # As `make` installs them.
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "-r requirements.lock" in makefile
    assert "--no-deps -e ." in makefile


def test_nothing_that_is_copied_is_ignored_and_nothing_else_is_sent() -> None:
    sent = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line.startswith("!")]
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
    done = subprocess.run([*command, "--dry-run", "--quiet", "rules"], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^figures +1$", done.stdout + done.stderr, flags=re.MULTILINE)
