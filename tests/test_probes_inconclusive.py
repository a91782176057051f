"""Probes that cannot be fitted, from the scenes to the report: told as inconclusive, never scored, never a crash."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import synthetic_results as synthetic
from activation_stores import MODEL, description
from stage_inputs import SETTINGS
from vlm_spatial.activations.writer import write_arrays
from vlm_spatial.files import read_json
from vlm_spatial.measures.probes import verdicts
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.figures import figures
from vlm_spatial.stages.probes import probes
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

GRID = TokenGrid(6, 6)
OUTPUTS = ("table", "strip_map", "geometry")


def probed(folder: Path, training: int, constant: bool) -> dict[str, Path]:
    """What the probes stage writes of ``training`` scenes an axis, on features that are noise or constant."""
    dataset = {
        **SETTINGS,
        "scenes": {"train": training, "validation": 2, "test": 3},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
    }
    scenes(Job({"dataset": dataset, "name": "tiny", "seed": 0}, {}, {"folder": folder / "scenes"}))
    table = Dataset.open(folder / "scenes").scenes.filter(pl.col("variant") != "pair")
    shape = (table.height, GRID.size, 8)
    values = np.full(shape, 3.7) if constant else np.random.default_rng(0).standard_normal(shape)
    described = description(scenes=table, shapes={"connector": (GRID.size, 1, 8)}, grid=GRID, patches=1, model=MODEL)
    write_arrays(folder / "activations.zarr", folder / "activations.json", described, {"connector": values.astype(np.float32)})
    inputs = {"scenes": folder / "scenes", "store": folder / "activations.zarr", "manifest": folder / "activations.json"}
    tables = {name: folder / f"{name}.parquet" for name in OUTPUTS}
    saved = {name: folder / f"{name}.safetensors" for name in ("probes", "decorrelated")}
    settings = {"model": {"checkpoint": "here"}, "seed": 0, "stage": {}}
    probes(Job(settings, inputs, {**tables, **saved}))
    return tables


@pytest.mark.slow
def test_probes_that_could_not_be_fitted_end_in_a_report_that_says_inconclusive(tmp_path: Path) -> None:
    models = {"scarce": (2, False, "2 training scenes for 3 slots"), "constant": (6, True, "no feature varies over the training tokens")}
    job = synthetic.write_results(tmp_path / "results", dict.fromkeys(models, synthetic.NATURAL), ("squares",))
    inputs = dict(job.inputs)
    for name, (training, constant, reason) in models.items():
        made = probed(tmp_path / name, training, constant)
        table = pl.read_parquet(made["table"]).filter(kind="logistic")
        assert set(table["note"]) == {reason}
        assert table["accuracy"].is_null().all()
        assert set(verdicts(table)) == {"inconclusive"}
        inputs |= {f"{'probes' if key == 'table' else key}:{name}:squares": path for key, path in made.items()}
        synthetic.write_measures(inputs, name, "squares", tmp_path / name / "measures.parquet")
    figures(Job(job.settings, inputs, job.outputs))
    records = [record for record in read_json(job.outputs["findings"]) if record["claim"] == "slot_probe_background"]
    assert {record["model"] for record in records} == set(models)
    for record in records:
        assert record["verdict"] == "inconclusive"
        assert record["estimate"] is None
