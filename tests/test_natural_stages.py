"""Every stage on natural images: a tiny random model with Qwen's published vocabulary, which answers with names of several tokens."""

import importlib
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from natural_set import write_natural_set
from real_checkpoints import real_checkpoint
from vlm_spatial.activations.extraction import PROMPT
from vlm_spatial.activations.store import Store
from vlm_spatial.measures.prior import beyond_text
from vlm_spatial.measures.table import BOTH
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

SECTIONS: dict[str, dict[str, Any]] = {
    "activations": {"sites": ["connector", "language.0"], "whole_scenes": 2},
    "interchange": {"vision_sites": ["connector"], "language_sites": ["language.0"]},
    "ablation": {"questions": 6},
    "amplification": {"sites": ["connector"], "projection_alphas": [1, 2], "oracle_alphas": [0, 1], "random_draws": 2, "questions": 6},
}
RUN = [name for name, stage in STAGES.items() if stage.scope == "model and dataset"]


@pytest.fixture(scope="module", params=[("square", 2), ("native", 3)], ids=["square", "native"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of every stage of a model and a dataset, below one folder.

    Scenes of two objects with padding around them, and scenes of three on a native canvas, where photographs have three token grids.
    """
    canvas, objects = request.param
    root = tmp_path_factory.mktemp("natural_stages")
    checkpoint = real_checkpoint(root / "checkpoint", "qwen2_vl")
    write_natural_set(root / "set", 16)
    dataset = {
        "kind": "coco",
        "images": str(root / "set/photos"),
        "annotations": str(root / "set/instances.json"),
        "canvas": canvas,
        "objects": objects,
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
    table = pl.read_parquet(results / "probes.parquet")
    assert set(table["axis"]) == {"horizontal", "vertical"}
    slots = set(dataset.scenes["slots"].explode())
    # Every probe has its score, and never names a slot that no scene has.
    assert table.filter(kind="logistic", site="connector")["accuracy"].is_not_null().all()
    assert set(pl.read_parquet(results / "strip_map.parquet")["predicted"]) <= slots
    check = pl.read_parquet(results / "ablation_check.parquet")
    assert set(check["slot"]) == slots
    assert set(check["predicted"]) <= slots
    amplified = pl.read_parquet(results / "amplification.parquet")
    assert {"projection", "oracle", "random", "shuffled", "complement"} <= set(amplified["method"])
    # A map has the cells of its scene's own grid, and no slot where there is no picture.
    shown = pl.read_parquet(results / "strip_map.parquet").filter(site="connector")
    for (scene,), cells in shown.partition_by("scene_id", as_dict=True).items():
        width, height = dataset.size(str(scene))
        grid = TokenGrid(height // 28, width // 28)
        assert cells.select("row", "col").rows() == list(product(range(grid.rows), range(grid.cols)))
        assert cells["slot"].is_not_null().to_list() == dataset.tokens(str(scene), grid).inside.tolist()


@pytest.mark.slow
def test_a_store_holds_every_scene_on_its_own_grid(results: Path) -> None:
    """As the model computes them one image at a time; what is beyond a scene's grid is 0."""
    dataset, store = Dataset.open(results / "scenes"), Store.open(results / "activations.zarr")
    sizes = set(dataset.scenes.filter(pl.col("variant") != "pair").select("width", "height").iter_rows())
    assert len(set(store.own_grids.values())) == (0 if len(sizes) == 1 else len(sizes))
    adapter = load_adapter(str(results / "checkpoint"), device="cpu")
    partly = store.scenes.filter(~pl.col("scene_id").is_in(store.whole_scenes))
    one_of_each_size = [table.unique(["width", "height"], maintain_order=True)["scene_id"].to_list() for table in (store.scenes, partly)]
    for scene in dict.fromkeys(chain(*one_of_each_size)):
        prepared = adapter.prepare([dataset.image(scene)], [PROMPT])
        _, captured = adapter.run(prepared, capture=["connector", "language.0"])
        cells = prepared.grid.within(store.grid)
        whole = ["connector", *(["language.0"] if scene in store.whole_scenes else [])]
        for site in whole:
            [held] = store.read(site, [scene])
            assert np.allclose(held[cells], captured[site][0, :, 0].numpy(), atol=1e-5)
            assert not np.delete(held, cells, axis=0).any()
        kept = store.kept("language.0", [scene])
        assert kept is not None
        # Each token that is kept lies on the scene's own grid, at its place.
        places = np.searchsorted(cells, kept.tokens[0])
        assert (cells[places] == kept.tokens[0]).all()
        [values] = store.read_stored("language.0", [scene])
        assert np.allclose(values, captured["language.0"][0, places, 0].numpy(), atol=1e-5)


@pytest.mark.slow
def test_without_the_picture_a_scene_and_its_mirror_image_are_one(results: Path) -> None:
    """Asked in the same words, both get the same answer over a grey picture, and it is right for one of them at most."""
    scenes = Dataset.open(results / "scenes")
    behaviour = pl.read_parquet(results / "behaviour.parquet").join(scenes.questions.select("question_id", "prompt"), on="question_id")
    assert (behaviour["blind_correct"].is_not_null() == (behaviour["split"] == "test")).all()
    asked = behaviour.filter(pl.col("blind_correct").is_not_null())
    assert (asked["blind_correct"] == (asked["blind_predicted"] == asked["answer"])).all()
    twins = asked.join(scenes.scenes.select("scene_id", "mirrored_from"), on="scene_id")
    pairs = twins.filter(variant="main").join(
        twins.filter(variant="mirror"), left_on=["scene_id", "prompt"], right_on=["mirrored_from", "prompt"], suffix="_twin"
    )
    turned = pairs.filter(pl.col("answer") != pl.col("answer_twin"))
    assert turned.height
    assert (turned["blind_predicted"] == turned["blind_predicted_twin"]).all()
    assert not (turned["blind_correct"] & turned["blind_correct_twin"]).any()
    measured = beyond_text({"behaviour": behaviour, "scenes": scenes.scenes}).filter(axis=BOTH, variant="main").row(0, named=True)
    spatial = asked.filter(pl.col("template") != "content", variant="main")
    assert measured["control_estimate"] == pytest.approx(spatial["blind_correct"].mean())
    assert measured["difference"] == pytest.approx(spatial["correct"].mean() - spatial["blind_correct"].mean(), abs=0.1)
