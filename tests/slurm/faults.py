"""Faults to do to a workflow on a cluster, and what to wait for before doing them."""

import copy
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from submitted import Submitted
from tiny_workflow import CONFIG, Workflow

FOLDER = "results/folder/squares"
BEHAVIOUR, CONFLICT = f"{FOLDER}/behaviour.parquet", f"{FOLDER}/conflict.parquet"
MANIFEST = f"{FOLDER}/activations.json"
MEASURES = f"{FOLDER}/measures.parquet"
SCENES = 27
PROGRESS = ".activations.zarr.*.progress"
# A shard for each scene, so that an extraction of a second or two can be caught half-way.
ONE_SCENE_A_SHARD = copy.deepcopy(CONFIG) | {"activations": {"shard_scenes": 1}}


def wait_for(condition: Callable[[], object], what: str, patience_s: float = 600, pause_s: float = 0.2) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s} s for {what}"
        time.sleep(pause_s)


def without(finished: Workflow, folder: Path, *files: str) -> Workflow:
    """A copy of a finished run that lacks ``files``, so that exactly the jobs that make them are to be run."""
    workflow = finished.copy(folder)
    for file in files:
        (folder / file).unlink()
    return workflow


def freeze_half_way(run: Submitted) -> int:
    """Freeze a running extraction as soon as it has committed a shard; returns how many it has.

    Once it has begun to write it runs in steps, so that it does not end before a busy machine looks again. Before SLURM ends a process it
    lets it go on for a moment, so there may be more in the end.
    """
    [process] = processes(run, "activations")
    wait_for(lambda: list((run.folder / FOLDER).glob(PROGRESS)), "the extraction to begin", pause_s=0.005)

    def stopped_with_a_shard() -> bool:
        process.suspend()
        if shards(run):
            return True
        process.resume()
        return False

    wait_for(stopped_with_a_shard, "the first shard", pause_s=0.02)
    assert 0 < shards(run) < SCENES
    return shards(run)


def processes(run: Submitted, stage: str) -> list[psutil.Process]:
    """The processes of a stage that works in the folder of ``run``, once there are any."""
    found: list[psutil.Process] = []

    def seen() -> bool:
        for process in psutil.process_iter(["cmdline", "cwd"]):
            if f"vlm_spatial.stages.{stage}" in (process.info["cmdline"] or ()) and process.info["cwd"] == str(run.folder):
                found.append(process)
        return bool(found)

    wait_for(seen, f"{stage} to run", pause_s=0.05)
    return found


def shards(run: Submitted) -> int:
    """Shards that an extraction in progress has committed."""
    for journal in (run.folder / FOLDER).glob(f"{PROGRESS}/journal.json"):
        return len(json.loads(journal.read_text(encoding="utf-8"))["shards"])
    return 0


def done_before(run: Submitted) -> int:
    """Shards that the newest extraction has found done."""
    [found] = re.findall(
        rf"(\d+) of {SCENES} shards done before", (run.folder / "results/logs/folder/squares/activations.log").read_text(encoding="utf-8")
    )
    return int(found)
