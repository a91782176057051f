"""Where the seconds of a whole run go: imports, model loading, model compute, writing, Snakemake.

    python -m benchmarks.profile_run                                  # the default configuration, from nothing, in a temporary folder
    python -m benchmarks.profile_run --configfile my.yaml --cores 2

Runs ``snakemake`` with a sampler in every Python process it starts (``benchmarks/sampling``; it costs under one percent), and adds up what
the processes found, by stage. Seconds outside jobs are Snakemake's own: its start, the graph, the time between jobs. Results go to
``benchmarks/results/profile.json``; the page shows them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import environment, write

from vlm_spatial.stages.registry import STAGES

ROOT = Path(__file__).parents[1]
KINDS = (
    "importing",
    "loading the model",
    "checksums",
    "preparing inputs",
    "model compute",
    "reading",
    "writing",
    "other Python",
)
# Those that run an analysed model.
MODEL_STAGES = tuple(name for name, stage in STAGES.items() if stage.loads_model)


def stage_of(arguments: list[str]) -> str | None:
    """The stage that a process ran; None for Snakemake and its helpers."""
    found = re.search(r"vlm_spatial\.stages\.(\w+)", " ".join(arguments))
    return found.group(1) if found else None


def collected(folder: Path) -> tuple[dict[str, dict[str, Any]], list[tuple[float, float]]]:
    """Seconds of each kind by stage, and when each job ran."""
    stages: dict[str, dict[str, Any]] = {}
    spans = []
    for path in sorted(folder.glob("*.json")):
        process = json.loads(path.read_text(encoding="utf-8"))
        stage = stage_of(process["arguments"])
        if stage is None:
            continue
        spans.append((process["began"], process["ended"]))
        one = stages.setdefault(stage, {"runs": 0, "seconds": 0.0, "kinds": {}})
        one["runs"] += 1
        one["seconds"] += process["ended"] - process["began"]
        for kind, seconds in process["kinds"].items():
            one["kinds"][kind] = one["kinds"].get(kind, 0.0) + seconds
    return stages, spans


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in which at least one job ran."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--directory", type=Path, help="where to run; results there are kept, and what is up to date is not run again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory, found = given.directory or Path(scratch, "run"), Path(scratch, "profile")
        for folder in (directory, found):
            folder.mkdir(parents=True, exist_ok=True)
        config = (given.configfile or ROOT / "workflow_config.yaml").resolve()
        paths = [str(ROOT / "benchmarks" / "sampling"), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PROFILE_FOLDER": str(found.resolve()), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(config)]
        command += ["--directory", str(directory), "--workflow-profile", str(ROOT / "profiles" / "default")]
        command += ["--cores", str(given.cores), "--resources", "gpu=1"]
        before = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        started = time.perf_counter()
        subprocess.run(command, check=True, env=environ)
        seconds = time.perf_counter() - started
        stages, spans = collected(found)
    of_models = [one for stage, one in stages.items() if stage in MODEL_STAGES]
    total = sum(one["seconds"] for one in of_models)
    in_jobs = covered(spans)
    result = {
        "command": f"snakemake --configfile {config.name} --cores {given.cores} --resources gpu=1",
        "seconds": seconds,
        "seconds_in_jobs": in_jobs,
        "seconds_outside_jobs": seconds - in_jobs,
        "model_stages": list(MODEL_STAGES),
        "model_compute_share": sum(one["kinds"].get("model compute", 0.0) for one in of_models) / total if total else 0.0,
        "kinds": KINDS,
        "stages": dict(sorted(stages.items(), key=lambda item: -item[1]["seconds"])),
        **before,
    }
    write("profile", result)
    for stage, one in result["stages"].items():
        shares = ", ".join(f"{kind} {one['kinds'].get(kind, 0.0):.1f}" for kind in KINDS)
        print(f"  {stage}: {one['runs']} runs, {one['seconds']:.1f} s: {shares}")
    print(f"  model compute: {result['model_compute_share']:.0%} of the model stages' wall time")


if __name__ == "__main__":
    main()
