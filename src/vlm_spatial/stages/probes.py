"""Stage ``probes``: where the slot is linearly readable, with controls, strip maps and geometry."""

import sys

import polars as pl

from vlm_spatial.activations.store import Store
from vlm_spatial.config import ProbesSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.probes.analysis import SLOTS, analyse
from vlm_spatial.probes.saved import save_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def probes(job: Job) -> None:
    """Inputs ``scenes``, ``store``, ``manifest``; outputs ``probes``, ``table``, ``strip_map``, ``geometry``."""
    settings = section(job, ProbesSettings)
    store = Store.open(job.inputs["store"], job.inputs["manifest"])
    found = analyse(store, Dataset.open(job.inputs["scenes"]), settings, int(job.settings["seed"]))
    for note, rows in found.table.filter(pl.col("note").is_not_null()).group_by("note", maintain_order=True):
        print(f"probes: inconclusive, {note[0]} ({rows.height} scores)", file=sys.stderr)
    metadata = {
        "classes": list(range(SLOTS)),
        "split": "train",
        "trained_on": "main",
        "tokens": "object",
        "identity": dict(store.manifest.model),
        "inconclusive": found.inconclusive,
    }
    write_parquet(found.table, job.outputs["table"])
    write_parquet(found.strip_map, job.outputs["strip_map"])
    write_parquet(found.geometry, job.outputs["geometry"])
    save_probes(found.probes, metadata, job.outputs["probes"])


if __name__ == "__main__":
    run_stage("probes", probes)
