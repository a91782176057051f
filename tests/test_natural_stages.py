"""Every stage on natural images: a tiny random model with Qwen's published vocabulary, which answers with names of several tokens."""

import importlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from natural_set import write_natural_set
from real_checkpoints import real_checkpoint
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.model

SECTIONS: dict[str, dict[str, Any]] = {
    "activations": {"sites": ["connector", "language.0"]},
    "interchange": {"vision_sites": ["connector"], "language_sites": ["language.0"]},
    "ablation": {"questions": 6},
    "amplification": {"sites": ["connector"], "projection_alphas": [1, 2], "oracle_alphas": [0, 1], "random_draws": 2, "questions": 6},
}
RUN = [name for name, stage in STAGES.items() if stage.scope == "model and dataset"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of every stage of a model and a dataset, below one folder."""
    root = tmp_path_factory.mktemp("natural_stages")
    checkpoint = real_checkpoint(root / "checkpoint", "qwen2_vl")
    write_natural_set(root / "set", 16)
    dataset = {
        "kind": "coco",
        "images": str(root / "set/photos"),
        "annotations": str(root / "set/instances.json"),
        "scenes": {"train": 6, "validation": 4, "test": 4},
        "pairs": {"vision": 3, "language": 1, "conflict": 2},
        "templates": ["slot_to_object", "object_to_slot", "relation_to_object", "content"],
        "wording": "one_word",
    }
    scenes_stage(Job({"dataset": dataset, "name": "coco"}, {}, {"folder": root / "scenes"}))

    def place(made: str) -> Path:
        stage, output = made.split(".")
        return root / ("scenes" if stage == "scenes" else STAGES[stage].outputs[output].file)

    for name in RUN:
        stage = STAGES[name]
        section = {} if stage.settings is None else stage.settings.model_validate(SECTIONS.get(name, {})).model_dump(mode="json")
        settings = {"model": {"checkpoint": str(checkpoint), "device": "cpu"}, "seed": 0, "stage": section}
        inputs = {key: place(made) for key, made in stage.inputs.items() if made.split(".")[0] in ("scenes", *RUN)}
        run = getattr(importlib.import_module(f"vlm_spatial.stages.{name}"), name)
        run(Job(settings, inputs, {key: root / output.file for key, output in stage.outputs.items()}))
    return root


@pytest.mark.slow
def test_every_stage_writes_its_results(results: Path) -> None:
    for name in RUN:
        for output in STAGES[name].outputs.values():
            assert (results / output.file).exists(), f"{name}: {output.file}"


@pytest.mark.slow
def test_names_of_several_words_are_answers(results: Path) -> None:
    dataset = Dataset.open(results / "scenes")
    behaviour = pl.read_parquet(results / "behaviour.parquet")
    asked = dataset.questions.filter(pl.col("variant") != "pair", pl.col("split").is_in(behaviour["split"].unique().to_list()))
    assert set(behaviour["question_id"]) == set(asked["question_id"])
    assert behaviour.filter(pl.col("answer") == "dining table").height
    assert (behaviour["candidate_mass"] > 0).all()


@pytest.mark.slow
def test_mirror_pairs_are_swept(results: Path) -> None:
    dataset = Dataset.open(results / "scenes")
    table = pl.read_parquet(results / "interchange.parquet")
    pairs = dataset.pairs.filter(pl.col("experiment") == "vision")["pair_id"]
    assert pairs.len() == 3
    assert set(pairs) <= set(table["pair_id"])
    assert pl.read_parquet(results / "conflict.parquet").height


@pytest.mark.slow
def test_probes_are_scored_on_the_picture_only(results: Path) -> None:
    dataset = Dataset.open(results / "scenes")
    padded = dataset.scenes.filter(pl.col("picture").is_not_null()).height
    assert padded
    table = pl.read_parquet(results / "probes.parquet")
    assert set(table["axis"]) == {"horizontal", "vertical"}
