"""The organism that amplification must help: its slot signal is there, but weak; and one that it cannot help."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from stage_inputs import job
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.errors import UserError
from vlm_spatial.measures.claims import judged
from vlm_spatial.measures.findings import findings
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.organisms.evaluation import Score
from vlm_spatial.models.organisms.lessons import lesson_words
from vlm_spatial.models.organisms.organism import _refuse_if_unfit
from vlm_spatial.models.organisms.planted import Faint, Measure, Moment, slot_basis
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.scene import Scene
from vlm_spatial.stages.activations import activations
from vlm_spatial.stages.amplification import amplification
from vlm_spatial.stages.behaviour import behaviour
from vlm_spatial.stages.probes import probes
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

SQUARES = dataset_settings(kind="squares")
# Trained planted organisms, {mechanism}-{seed}: they take minutes to train, so they are kept.
ORGANISMS = Path(os.environ.get("VLM_SPATIAL_ORGANISMS", Path(__file__).parents[1] / "organisms"))

TRAINED = [name for name in NAMES if family_named(name).recipe.organism is not None] + ["qwen2_5_vl"]


def main_scenes(count: int) -> list[Scene]:
    generator = np.random.default_rng(0)
    return [sample_scene(SQUARES, axis, "main", generator) for axis in ("horizontal", "vertical") for _ in range(count)]


@pytest.mark.parametrize("family", TRAINED)
def test_amplification_by_one_over_s_undoes_the_construction(family: str, tmp_path: Path) -> None:
    adapter = load_adapter(new_checkpoint(tmp_path / "c", family, lesson_words([SQUARES]), seed=3), device="cpu")
    scenes = main_scenes(4)
    prepared = adapter.prepare([render(scene) for scene in scenes], ["What color is the square on the left?"] * len(scenes))
    before, captured = adapter.run(prepared, capture=["connector"])
    values = captured["connector"].squeeze(2)
    faint = Faint()
    faint.after_training(adapter, scenes)
    basis = slot_basis(values, scenes, prepared.grid)
    assert basis.shape[0] == 4  # three slots of two axes
    weak = adapter.run(prepared, capture=["connector"])[1]["connector"].squeeze(2)
    # Inside the subspace a tenth is left, outside nothing has changed.
    torch.testing.assert_close(weak @ basis.T, 0.1 * values @ basis.T, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weak - weak @ basis.T @ basis, values - values @ basis.T @ basis, rtol=1e-3, atol=1e-5)
    assert all(measure.value <= measure.limit for measure in faint.measures(adapter, scenes).values())

    def restore(weakened: torch.Tensor) -> torch.Tensor:
        return faint.imposed(weakened.squeeze(2), Moment(scenes, prepared.grid, 1.0, torch.Generator())).unsqueeze(2)

    after = adapter.run(prepared, edits={"connector": restore})[0]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_its_measures_see_a_construction_that_failed(tmp_path: Path) -> None:
    adapter = load_adapter(new_checkpoint(tmp_path / "c", "gemma3", lesson_words([SQUARES]), seed=3), device="cpu")
    scenes, faint = main_scenes(4), Faint()
    faint.after_training(adapter, scenes)
    with torch.no_grad():
        adapter.connector.mm_input_projection_weight.mul_(1.1)
    assert any(measure.value > measure.limit for measure in faint.measures(adapter, scenes).values())


def test_training_tokens_are_shuffled_as_for_vision() -> None:
    moment = Moment(main_scenes(1), TokenGrid(6, 6), 0.0, torch.Generator().manual_seed(0))
    values = torch.arange(2 * 36 * 3.0).reshape(2, 36, 3)
    changed, penalty = Faint().in_training(values, moment)
    assert penalty is None
    assert not torch.equal(changed, values)
    assert torch.equal(changed.sort(dim=1).values, values)


def test_a_faint_organism_must_err_and_be_right_when_amplified() -> None:
    def score(condition: str, accuracy: float) -> Score:
        return Score("squares", "main", condition, "horizontal", "slot_to_object", accuracy, accuracy, accuracy, 240)

    settings = OrganismSettings(mechanism="faint")
    fine = {"change": Measure(0.0, 1e-4)}
    _refuse_if_unfit("o", settings, 0.2, [score("intact", 0.7), score("construction", 0.99)], fine)
    with pytest.raises(UserError, match=r"at most 0\.8 is allowed for mechanism 'faint'"):
        _refuse_if_unfit("o", settings, 0.2, [score("intact", 0.9), score("construction", 0.99)], fine)
    with pytest.raises(UserError, match=r"0\.500 on squares.*\(construction\)"):
        _refuse_if_unfit("o", settings, 0.2, [score("intact", 0.7), score("construction", 0.5)], fine)


SMALL: dict[str, Any] = {
    "kind": "squares",
    "scenes": {"train": 60, "validation": 20, "test": 40},
    "variants": {"decorrelated": {"train": 4, "validation": 2, "test": 2}},
    "pairs": {"vision": 1, "language": 1, "conflict": 1},
}
# 10 undoes the construction.
ALPHAS = (0.0, 1.0, 2.0, 4.0, 10.0)
HARD = {"object_size": (0.07, 0.12), "jitter": 1.0, "clutter": 4, "distractors": 20, "noise": 0.1}


def amplified(checkpoint: Path, out: Path, dataset: dict[str, Any]) -> pl.DataFrame:
    """Everything that amplification needs, from nothing; its table."""
    folder = out / "scenes"
    scenes_stage(Job({"dataset": dataset, "name": "small", "seed": 0}, {}, {"folder": folder}))
    behaviour(job(checkpoint, folder, out, "behaviour", {}))
    settings = {"model": {"checkpoint": str(checkpoint), "device": "cpu"}, "seed": 0, "stage": {"sites": ["connector"]}}
    store = {"store": out / "activations.zarr", "manifest": out / "activations.json"}
    activations(Job(settings, {"scenes": folder}, store))
    made = {name: out / f"{name}.parquet" for name in ("table", "strip_map", "geometry")}
    made |= {name: out / f"{name}.safetensors" for name in ("probes", "decorrelated")}
    probes(Job({**settings, "stage": {"bootstrap": 10, "strengths": [1.0]}}, {"scenes": folder, **store}, made))
    inputs = {"probes": out / "probes.safetensors", "behaviour": out / "behaviour.parquet"}
    sweep = {"sites": ["connector"], "questions": 100, "projection_alphas": ALPHAS, "oracle_alphas": ALPHAS, "random_draws": 3}
    amplification(job(checkpoint, folder, out, "table", sweep, **inputs))
    return pl.read_parquet(out / "table.parquet")


def verdicts(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {record["claim"]: record for record in findings("m", "d", judged({"amplification": table}))}


def trained(mechanism: str) -> Path:
    folder = ORGANISMS / f"{mechanism}-0"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no trained organism in {folder}; set VLM_SPATIAL_ORGANISMS to a folder that holds one")
    return folder


@pytest.mark.slow
def test_amplification_is_found_to_help_the_faint_organism(tmp_path: Path) -> None:
    checkpoint = tmp_path / "faint"
    shutil.copytree(trained("vision"), checkpoint)
    adapter = load_adapter(checkpoint, device="cpu")
    Faint().after_training(adapter, main_scenes(48))
    adapter.model.save_pretrained(checkpoint)
    table = amplified(checkpoint, tmp_path, SMALL)
    found = verdicts(table)
    assert found["errors_corrected"]["verdict"] == "supported", found["errors_corrected"]
    assert found["errors_corrected"]["estimate"] > 0.8
    assert found["net_accuracy"]["verdict"] == "supported", found["net_accuracy"]
    # The untouched alpha leaves every answer as it was.
    neutral = table.filter((pl.col("method") == "projection") & (pl.col("alpha") == 1.0))
    assert (neutral["correct"] == neutral["correct_before"]).mean() > 0.99


@pytest.mark.slow
def test_amplification_is_not_found_to_help_without_a_spatial_code_in_vision(tmp_path: Path) -> None:
    table = amplified(trained("language"), tmp_path, {**SMALL, "difficulty": HARD})
    found = verdicts(table)
    assert found["errors_corrected"]["n"] >= 20
    assert found["errors_corrected"]["verdict"] != "supported", found["errors_corrected"]
    assert found["net_accuracy"]["verdict"] != "supported", found["net_accuracy"]
