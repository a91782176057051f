"""The tiny workflow, submitted to a SLURM through profiles/slurm."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import warm_python
from cluster import Cluster, Record
from tiny_workflow import ONE_THREAD, Workflow

# The profile as it is, but: this SLURM has no accounting, its jobs are short, and the machine has two cores.
PROFILE = (
    "--workflow-profile=profiles/slurm",
    "--slurm-status-command=squeue",
    "--seconds-between-status-checks=1",
    "--slurm-init-seconds-before-status-checks=1",
    *ONE_THREAD,
)
# Snakemake's own marker in folders, and what says when a result was made or how long it took (the report does).
# vl-convert writes the fonts of a PDF in no fixed order.
_NOT_RESULTS = (".snakemake_timestamp", ".provenance.json", ".lock", ".pdf", "report.html")


@dataclass(frozen=True)
class Submitted:
    """A working folder whose jobs go to ``cluster``."""

    workflow: Workflow
    cluster: Cluster
    warm: bool = False
    """Whether all that runs is a fork that has its imports behind it: for runs whose processes no test looks for, freezes or kills."""

    @property
    def folder(self) -> Path:
        return self.workflow.folder

    @property
    def records(self) -> list[Record]:
        return self.cluster.records(self.folder)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start Snakemake and return at once; what it says goes to ``snakemake.log`` in the working folder."""
        command = self.workflow.command(*PROFILE, *arguments)
        if self.warm:
            command[0] = warm_python.python()
        with (self.folder / "snakemake.log").open("a", encoding="utf-8") as log:
            snakemake = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.workflow.environment(self.cluster.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
        self.cluster.clients.append(snakemake)
        return snakemake

    def run(self, *arguments: str) -> None:
        """Run Snakemake to its end; everything must succeed."""
        self.finish(self.start(*arguments))

    def finish(self, snakemake: "subprocess.Popen[str]", patience_s: float = 900) -> None:
        """Wait for Snakemake; everything must have succeeded."""
        assert snakemake.wait(patience_s) == 0, self.log

    @property
    def log(self) -> str:
        return (self.folder / "snakemake.log").read_text(encoding="utf-8")[-8000:]


def differences(one: Path, other: Path) -> list[str]:
    """Results that are not the same, byte for byte, in two working folders: images, tables, stores, probes, weights, findings, figures."""
    files = [_results(folder / "results") for folder in (one, other)]
    assert files[0]
    return sorted(name for name in files[0].keys() | files[1].keys() if files[0].get(name) != files[1].get(name))


def _results(results: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results)
        if path.is_file() and name.parts[0] not in ("logs", "benchmarks") and not path.name.endswith(_NOT_RESULTS):
            found[str(name)] = path.read_bytes()
    return found
