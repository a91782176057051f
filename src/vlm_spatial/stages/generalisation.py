"""Stage ``generalisation``: a model's probes of its other datasets, scored on this one."""

from vlm_spatial.activations.store import Store
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.probes.generalisation import Trained, generalise
from vlm_spatial.probes.layout import TRAINED_ON
from vlm_spatial.probes.saved import Probes, load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def generalisation(job: Job) -> None:
    """Inputs ``scenes``, ``store``, ``manifest``, ``probes``, and ``main:NAME``, ``decorrelated:NAME`` (probes of dataset NAME).

    Outputs ``table`` and ``geometry``.
    """
    settings = section(job, ProbesSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    store = Store.open(job.inputs["store"], job.inputs["manifest"])
    store.check_checkpoint(job.settings["model"])
    store.check_scenes(dataset.scenes)
    others: dict[Trained, Probes] = {}
    for key in sorted(job.inputs):
        variant, _, name = key.partition(":")
        if name and variant in TRAINED_ON:
            others[name, variant] = load_probes(job.inputs[key])
    own = load_probes(job.inputs["probes"])
    for probes in (own, *others.values()):
        store.check_model(probes.metadata["identity"])
    table, geometry = generalise(store, dataset, own, others, settings, int(job.settings["seed"]))
    write_parquet(table, job.outputs["table"])
    write_parquet(geometry, job.outputs["geometry"])


if __name__ == "__main__":
    run_stage("generalisation", generalisation)
