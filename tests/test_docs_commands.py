"""The commands of the pages, typed one after another, on results that Snakemake made.

Left out is what needs what a test has not: a cluster, the hub, a GPU, hours, or a folder of the reader's own (:data:`NOT_HERE`).
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import warm_python
from documented_results import lay_out
from tiny_workflow import REPOSITORY, Workflow

pytestmark = pytest.mark.workflow

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RUNNERS = ("snakemake", "vlm-spatial")
NOT_HERE = {
    "profiles/slurm": "a cluster",
    "profiles/site": "a cluster",
    "--sdm": "containers or conda",
    "mine.yaml": "the reader's own configuration",
    "presets/": "hours",
    "results-": "another run",
    "/data/": "the reader's own folder",
    "/path/to": "the reader's own folder",
    "owner/name": "the hub",
    "…": "something to fill in",
    "<": "something to fill in",
    "--configfile": "the reader's own configuration",
}


def commands() -> list[tuple[str, str]]:
    """Page and command of every line of the pages' blocks of commands."""
    found = []
    for page in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
            for line in re.sub(r"\\\n *", "", block).splitlines():
                command = re.split(" +#|   ", line.removeprefix("$ "))[0].strip()
                if language in ("", "console", "bash", "sh") and command.split(" ")[0] in RUNNERS:
                    found.append((page.name, command))
    return found


HERE = sorted({command for _, command in commands() if not any(reason in command for reason in NOT_HERE)})


def test_the_pages_have_commands_of_every_kind() -> None:
    assert len(HERE) >= 7
    assert {command.split(" ")[1] for command in HERE if command.startswith("vlm-spatial")} >= {"inspect", "compare", "why", "amplify"}


@pytest.fixture(scope="module")
def folder(finished_workflow: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(finished_workflow, tmp_path_factory.mktemp("documented") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE)
def test_a_command_of_the_pages_runs(command: str, folder: Path) -> None:
    program, *words = shlex.split(command)
    start = [sys.executable, "-c", "from vlm_spatial.cli import app; app()"]
    if program == "snakemake":
        start = [warm_python.python(), "-m", "snakemake"]
        # They would do nothing: everything is made.
        words += [] if {"-n", "--dry-run", "--report"} & set(words) else ["--dry-run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
