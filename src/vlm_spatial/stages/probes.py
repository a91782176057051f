"""Stage ``probes``: where the slot is linearly readable, with controls, strip maps and geometry."""

import sys

import polars as pl

from vlm_spatial.activations.store import Store
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet
from vlm_spatial.probes.analysis import SCORED_ON, SLOTS, Other, analyse
from vlm_spatial.probes.saved import save_probes
from vlm_spatial.probes.summary import background_summary
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section

RESERVED = (*SCORED_ON, "blank")


def probes(job: Job) -> None:
    """Inputs ``scenes``, ``store``, ``manifest``; outputs ``probes``, ``table``, ``strip_map``, ``geometry``.

    Further datasets of the same model may be given as inputs ``scenes:NAME``, ``store:NAME`` and ``manifest:NAME``.
    """
    settings = section(job, ProbesSettings)
    store = Store.open(job.inputs["store"], job.inputs["manifest"])
    found = analyse(store, Dataset.open(job.inputs["scenes"]), settings, int(job.settings["seed"]), _others(job, store))
    for note, rows in found.table.filter(pl.col("note").is_not_null()).group_by("note", maintain_order=True):
        print(f"probes: inconclusive, {note[0]} ({rows.height} scores)", file=sys.stderr)
    for sentence in background_summary(found.table):
        print(f"probes: {sentence}", file=sys.stderr)
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


def _others(job: Job, store: Store) -> list[Other]:
    """The further datasets among the inputs, in alphabetical order."""
    others = []
    for name in sorted(key.partition(":")[2] for key in job.inputs if key.startswith("store:")):
        if name in RESERVED:
            raise UserError(f"dataset {name!r}: means a variant in probes.parquet ({', '.join(RESERVED)}); choose another name")
        other = Store.open(job.inputs[f"store:{name}"], job.inputs[f"manifest:{name}"])
        other.check_model(store.manifest.model)
        if other.sites != store.sites:
            raise UserError(
                f"{other.path}: sites {', '.join(other.sites)}, expected {', '.join(store.sites)}; run snakemake to extract it again"
            )
        others.append(Other(name, other, Dataset.open(job.inputs[f"scenes:{name}"])))
    return others


if __name__ == "__main__":
    run_stage("probes", probes)
