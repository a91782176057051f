"""Stage ``probes``: where the slot is linearly readable, with controls, strip maps and geometry."""

import sys

import polars as pl

from vlm_spatial.activations.store import Store
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.measures.probes import background_summary
from vlm_spatial.probes.analysis import analyse
from vlm_spatial.probes.arrays import device_for
from vlm_spatial.probes.saved import save_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section
from vlm_spatial.tokens import SLOTS

# What each variant's probes are called among the outputs.
PROBES = {"main": "probes", "decorrelated": "decorrelated"}


def probes(job: Job) -> None:
    """Inputs ``scenes``, ``store``, ``manifest``; outputs ``probes``, ``decorrelated``, ``table``, ``strip_map``, ``geometry``."""
    settings = section(job, ProbesSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    store = Store.open(job.inputs["store"], job.inputs["manifest"])
    store.check_checkpoint(job.settings["model"])
    store.check_scenes(dataset.scenes)
    widest = max(shape[-1] for shape in store.manifest.shape.values())
    device = device_for(settings.device, job.settings["model"].get("device", "auto"), widest)
    found = analyse(store, dataset, settings, int(job.settings["seed"]), device)
    for note, rows in found.table.filter(pl.col("note").is_not_null()).group_by("note", maintain_order=True):
        print(f"probes: inconclusive, {note[0]} ({rows.height} scores)", file=sys.stderr)
    for sentence in background_summary(found.table):
        print(f"probes: {sentence}", file=sys.stderr)
    write_parquet(found.table, job.outputs["table"])
    write_parquet(found.strip_map, job.outputs["strip_map"])
    write_parquet(found.geometry, job.outputs["geometry"])
    for variant, output in PROBES.items():
        metadata = {
            "classes": list(range(SLOTS)),
            "split": "train",
            "trained_on": variant,
            "tokens": "object",
            "identity": dict(store.manifest.model),
            "inconclusive": found.inconclusive[variant],
        }
        save_probes(found.probes[variant], metadata, job.outputs[output])


if __name__ == "__main__":
    run_stage("probes", probes)
