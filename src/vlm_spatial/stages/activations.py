"""Stage: extract the activations of every visual token into a zarr store."""

import polars as pl

from vlm_spatial.activations.extraction import extract
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section
from vlm_spatial.workflow.code_identity import CODE_CACHE, stage_identity


def activations(job: Job) -> None:
    """Write ``activations.zarr`` and its manifest for all scenes but those made for pairs only."""
    settings = section(job, ActivationsSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    adapter = load_adapter(**job.settings["model"])
    adapter.check_shapes(dataset.sizes)
    scenes = dataset.scenes.filter(pl.col("variant") != "pair")
    code = stage_identity("activations", CODE_CACHE).digest
    extract(adapter, dataset.image, scenes, job.outputs["store"], job.outputs["manifest"], settings, code, job.made_by)


if __name__ == "__main__":
    run_stage("activations", activations)
