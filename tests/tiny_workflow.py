"""A copy of this repository with a tiny configuration and a tiny random checkpoint, on which Snakemake runs for real."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

import warm_python
from vlm_spatial.stages import registry

REPOSITORY = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "profiles", "envs", "src", "pyproject.toml")
CONFIG = {
    "datasets": {
        "squares": {
            "kind": "squares",
            "axes": ["horizontal"],
            "templates": ["slot_to_object"],
            "scenes": {"train": 8, "validation": 4, "test": 4},
            "variants": {"decorrelated": {"train": 6, "validation": 2, "test": 2}},
            "pairs": {"vision": 1, "language": 1, "conflict": 1},
        }
    },
    "organisms": {"small": {"steps": 1, "batch": 2, "accuracy": 0.0, "datasets": ["squares"]}},
    "models": {
        "folder": {"checkpoint": "checkpoint", "datasets": ["squares"]},
        "small": {"organism": "small", "datasets": ["squares"]},
    },
    "probes": {"strengths": [1.0], "strip_map_scenes": 2},
    "interchange": {"token_sets": ["object", "strip"], "vision_sites": ["connector"], "language_sites": ["connector"]},
    "ablation": {"questions": 4},
    "amplification": {
        "questions": 4,
        "random_draws": 2,
        "projection_alphas": [1.0, 2.0],
        "oracle_alphas": [0.0, 1.0],
        "control_alphas": [2.0],
    },
    "figures": {"explorer_scenes": 1},
}

# What a model of one dataset of drawn scenes has.
STAGES = tuple(name for name, stage in registry.STAGES.items() if name != "boxes" and stage.scope != "model" and not stage.optional)
# Jobs so small gain nothing from threads, and several at once get in each other's way.
ONE_THREAD = ("--set-threads", *(f"{stage}=1" for stage in STAGES))


class Workflow:
    """A working folder to run Snakemake in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> "Workflow":
        """Lay out code, configuration and checkpoint in an empty folder."""
        from vlm_spatial.config.datasets import dataset_settings
        from vlm_spatial.models.organisms.checkpoint import new_checkpoint
        from vlm_spatial.scenes.questions import vocabulary

        folder.mkdir(parents=True)
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(source, folder / part)
        workflow = cls(folder)
        workflow.write_config(CONFIG)
        new_checkpoint(folder / "checkpoint", "gemma3", vocabulary(dataset_settings(kind="squares")), seed=7)
        return workflow

    def copy(self, folder: Path) -> "Workflow":
        """The same working folder elsewhere, times kept."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Workflow(folder)

    def write_config(self, config: dict) -> None:
        (self.folder / "workflow_config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    def snakemake(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here; one thread a job, so that tests do not fight for cores."""
        command = [warm_python.python(), *self.command(*arguments)[1:]]
        return subprocess.run(command, cwd=self.folder, env=self.environment(environment), **CAPTURE)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Snakemake running here; killed at the end if it has not ended."""
        pipes: dict = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        with subprocess.Popen(self.command(*arguments), cwd=self.folder, env=self.environment(), **pipes) as running:
            try:
                yield running
            finally:
                running.kill()

    def command(self, *arguments: str) -> list[str]:
        # The last bits of a result depend on the number of threads. Something has to end the list of them before targets.
        return [sys.executable, "-m", "snakemake", *ONE_THREAD, "--nocolor", *arguments]

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", **(extra or {})}

    def run(self, *arguments: str) -> str:
        """Run jobs for real; everything must succeed."""
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stderr[-6000:]
        return done.stderr

    def jobs(self, *arguments: str, environment: dict[str, str] | None = None) -> set[str]:
        """The jobs that a dry-run would run: ``stage``, ``stage:dataset``, ``stage:organism``, ``stage:model``, ``stage:model:dataset``."""
        done = self.snakemake("--dry-run", "--printshellcmds", *arguments, environment=environment)
        assert done.returncode == 0, done.stderr[-6000:]
        shown = done.stdout + done.stderr
        jobs = [_job(*found) for found in re.findall(r"-m vlm_spatial\.stages\.(\w+) .*?--output=\w+=(\S+)", shown)]
        announced = re.findall(r"^ *Job \d+: ", shown, flags=re.MULTILINE)
        assert len(set(jobs)) == len(announced), shown[-6000:]
        return set(jobs)


CAPTURE: dict = {"capture_output": True, "encoding": "utf-8", "check": False}


def _job(stage: str, result: str) -> str:
    """A job's name, from its stage and the path of its first result."""
    first = next(iter(registry.STAGES[stage].outputs.values()))
    pattern = re.sub(r"\\{\w+\\}", "([a-z0-9._-]+)", re.escape(first.path))
    found = re.search(f"(?:^|/){pattern}$", result)
    assert found, result
    return ":".join([stage, *found.groups()])
