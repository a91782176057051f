"""A tiny dataset and tiny random models that know its words, to run whole stages on."""

from pathlib import Path
from typing import Any

import polars as pl

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.scenes.questions import vocabulary
from vlm_spatial.stages.ablation import ablation
from vlm_spatial.stages.activations import activations
from vlm_spatial.stages.interchange import interchange
from vlm_spatial.stages.probes import probes
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job

SETTINGS: dict[str, Any] = {
    "kind": "squares",
    "scenes": {"train": 6, "validation": 1, "test": 2},
    "variants": {"decorrelated": {"train": 1, "validation": 1, "test": 1}},
    "pairs": {"vision": 4, "language": 4, "conflict": 4},
}


def make_scenes(folder: Path, kind: str = "squares") -> Path:
    """The dataset's folder, written by the scenes stage."""
    scenes(Job({"dataset": {**SETTINGS, "kind": kind}, "name": "tiny", "seed": 0}, {}, {"folder": folder}))
    return folder


def make_reader(folder: Path, family: str) -> Path:
    """A random checkpoint of ``family`` whose tokenizer has the dataset's words."""
    return new_checkpoint(folder, family, vocabulary(dataset_settings(SETTINGS)), seed=3)  # type: ignore[arg-type]


def job(checkpoint: Path, scenes_folder: Path, out: Path, output: str, stage: dict[str, Any], **inputs: Path) -> Job:
    """One model stage on the CPU; its output is ``<out>/<output>.parquet`` (amplification and readout have another,
    ``of_items`` and ``ids``)."""
    settings = {"model": {"checkpoint": str(checkpoint), "device": "cpu"}, "seed": 0, "stage": stage}
    outputs = {name: out / f"{name}.parquet" for name in (output, "of_items", "ids")}
    return Job(settings, {"scenes": scenes_folder, **inputs}, outputs)


def make_store(checkpoint: Path, scenes_folder: Path, out: Path) -> dict[str, Path]:
    """The outputs of the activations and probes stages, connector only: inputs of the stages that read them."""
    settings = {"model": {"checkpoint": str(checkpoint), "device": "cpu"}, "seed": 0, "stage": {"sites": ["connector"]}}
    outputs = {"store": out / "activations.zarr", "manifest": out / "activations.json"}
    activations(Job(settings, {"scenes": scenes_folder}, outputs))
    made = {name: out / f"{name}.parquet" for name in ("table", "strip_map", "geometry")}
    made |= {name: out / f"{name}.safetensors" for name in ("probes", "decorrelated")}
    probes(Job({**settings, "stage": {}}, {"scenes": scenes_folder, **outputs}, made))
    return {**outputs, "probes": out / "probes.safetensors"}


def run_ablation(
    checkpoint: Path, scenes_folder: Path, out: Path, stage: dict[str, Any], sites: list[str], **inputs: Path
) -> dict[str, pl.DataFrame]:
    """The tables of the ablation stage by name, and ``interchange``, the intact sweep over ``sites`` that it reads."""
    intact = out / "interchange.parquet"
    sweep = {"vision_sites": ["connector"], "token_sets": ["object"], "unrelated_control": False, "language_sites": sites}
    interchange(Job(job(checkpoint, scenes_folder, out, "table", sweep).settings, {"scenes": scenes_folder}, {"table": intact}))
    outputs = {name: out / f"ablation_{name}.parquet" for name in ("sweep", "accuracy", "check")}
    settings = job(checkpoint, scenes_folder, out, "table", stage).settings
    ablation(Job(settings, {"scenes": scenes_folder, "interchange": intact, **inputs}, outputs))
    return {"interchange": pl.read_parquet(intact)} | {name: pl.read_parquet(path) for name, path in outputs.items()}
