"""Stage ``generalisation``: every probe of a model, scored on its other datasets. One job a model."""

from collections.abc import Mapping

import polars as pl

from vlm_spatial.activations.store import Store
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.probes.generalisation import Trained, generalise
from vlm_spatial.probes.layout import TRAINED_ON
from vlm_spatial.probes.saved import Probes, load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def generalisation(job: Job) -> None:
    """Inputs, for each dataset NAME of ``settings["datasets"]``: ``scenes:NAME``, ``store:NAME``, ``manifest:NAME``, ``main:NAME`` and
    ``decorrelated:NAME`` (its probes). Outputs ``table`` and ``geometry``, without rows for a model of one dataset.
    """
    settings = section(job, ProbesSettings)
    names = sorted(job.settings["datasets"])
    probes = {(name, variant): load_probes(job.inputs[f"{variant}:{name}"]) for name in names for variant in TRAINED_ON}
    tables, geometries = [], []
    for name in names:
        table, geometry = _on(job, name, probes, settings)
        tables.append(table.select("trained_dataset", pl.lit(name).alias("scored_dataset"), pl.exclude("trained_dataset")))
        geometries.append(geometry.select(pl.lit(name).alias("dataset"), pl.all()))
    write_parquet(pl.concat(tables), job.outputs["table"])
    write_parquet(pl.concat(geometries), job.outputs["geometry"])


def _on(job: Job, name: str, probes: Mapping[Trained, Probes], settings: ProbesSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The probes of the other datasets, scored on the test scenes of dataset ``name``."""
    dataset = Dataset.open(job.inputs[f"scenes:{name}"])
    store = Store.open(job.inputs[f"store:{name}"], job.inputs[f"manifest:{name}"])
    store.check_checkpoint(job.settings["model"])
    store.check_scenes(dataset.scenes)
    for trained in probes.values():
        store.check_model(trained.metadata["identity"])
    others = {trained: found for trained, found in probes.items() if trained[0] != name}
    return generalise(store, dataset, probes[name, "main"], others, settings)


if __name__ == "__main__":
    run_stage("generalisation", generalisation)
