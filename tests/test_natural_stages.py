"""Every stage on photographs: tiny random models with published vocabularies, which answer with names of several tokens."""

import functools
import importlib
import json
from collections.abc import Callable, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from natural_set import write_natural_set
from photo_set import THINGS, write_photo_set
from real_checkpoints import real_checkpoint
from vlm_spatial.activations.extraction import PROMPT
from vlm_spatial.activations.store import Store
from vlm_spatial.measures.prior import beyond_text
from vlm_spatial.measures.table import BOTH
from vlm_spatial.models.adapter import Adapter
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
    "amplification": {
        "sites": ["connector"],
        "projection_alphas": [1, 2],
        "oracle_alphas": [0, 1],
        "random_draws": 2,
        "questions": 6,
        "item_alphas": [0, 2],
    },
}
SHARED = Path(__file__).parents[2] / "shared"
RUN = [name for name, stage in STAGES.items() if stage.scope == "model and dataset"]
# So few photographs do not show an object in several slots, from which spatial IDs are learned.
EMPTY = ("amplification_items", "ablation_sweep", "heads", "spatial_ids")


@functools.cache
def _loaded(checkpoint: str) -> Adapter:
    """A vocabulary takes seconds to read, so each model is loaded once."""
    return load_adapter(checkpoint, device="cpu")


def run_stages(root: Path, checkpoint: Path, dataset: dict[str, Any], stages: Sequence[str] = RUN) -> Path:
    """Make the scenes and run the stages, all results below ``root``, in this process."""
    scenes_stage(Job({"dataset": dataset, "name": dataset["kind"]}, {}, {"folder": root / "scenes"}))

    def place(made: str) -> Path:
        stage, output = made.split(".")
        return root / ("scenes" if stage == "scenes" else STAGES[stage].outputs[output].file)

    for name in stages:
        stage = STAGES[name]
        section = {} if stage.settings is None else stage.settings.model_validate(SECTIONS.get(name, {})).model_dump(mode="json")
        settings = {"model": {"checkpoint": str(checkpoint)}, "seed": 0, "stage": section}
        inputs = {key: place(made) for key, made in stage.inputs.items() if made.split(".")[0] in ("scenes", *stages)}
        module = importlib.import_module(f"vlm_spatial.stages.{name}")
        with pytest.MonkeyPatch.context() as patch:
            if hasattr(module, "load_adapter"):
                patch.setattr(module, "load_adapter", _loaded)
            getattr(module, name)(Job(settings, inputs, {key: root / output.file for key, output in stage.outputs.items()}))
    return root


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random model with a family's published vocabulary, chat template and image geometry (Gemma-3: half the image's side)."""
    return functools.cache(lambda family: real_checkpoint(tmp_path_factory.mktemp("real") / family, family, gemma_side=448))


@pytest.fixture(scope="module", params=[("gemma3", "boxed", "square", 2), ("qwen2_vl", "coco", "native", 3)], ids=["square", "native"])
def results(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of every stage of a model and a dataset, below one folder.

    Boxed scenes of two objects with padding around them, and COCO's of three on a native canvas, where photographs have three token grids.
    """
    family, kind, canvas, objects = request.param
    root = tmp_path_factory.mktemp("natural_stages")
    write_natural_set(root / "set", 16)
    dataset = {
        "kind": kind,
        "images": str(root / "set/photos"),
        **({"boxes": str(root / "set/boxes.csv")} if kind == "boxed" else {"annotations": str(root / "set/instances.json")}),
        "canvas": canvas,
        "objects": objects,
        "scenes": {"train": 6, "validation": 4, "test": 4},
        "pairs": {"vision": 3, "language": 1, "conflict": 2},
        # Which objects are absent, boxes do not say.
        "templates": ["slot_to_object", "object_to_slot", "relation_to_object", *(["content"] if kind == "coco" else [])],
        "wording": "one_word",
    }
    return run_stages(root, checkpoint_of(family), dataset)


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
    adapter = _loaded(store.manifest.model["checkpoint"])
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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where photographs are drawn, those of a kind once."""
    return tmp_path_factory.mktemp("photographs")


def photographs(kind: str, folder: Path) -> dict[str, Any]:
    """A few scenes of a kind of photographs; COCO's are real ones, from the sample beside the repository."""
    few = {
        "axes": ["horizontal"],
        "templates": ["slot_to_object"],
        "pairs": {"vision": 1, "language": 0, "conflict": 1},
        "wording": "one_word",
    }
    if kind == "coco":
        sample = SHARED / "coco_sample"
        if not sample.is_dir():
            pytest.skip(f"the sample of COCO is not at {sample}")
        files = {"images": "val2017", "annotations": "annotations/instances_val2017.json", "questions": "coco_qa_two_obj.json"}
        thresholds = {"objects": 2, "min_area": 0.002, "separation": 0.08, "scenes": {"train": 3, "validation": 2, "test": 2}}
        return {"kind": kind, **few, **thresholds, **{key: str(sample / name) for key, name in files.items()}}
    if kind == "boxed":
        write_natural_set(folder, 16)
        files = {"images": "photos", "boxes": "boxes.csv"}
        return {
            "kind": kind,
            **few,
            "scenes": {"train": 6, "validation": 4, "test": 4},
            **{key: str(folder / name) for key, name in files.items()},
        }
    if not folder.exists():
        # Split by object: of six objects a reference two each.
        things = tuple(thing for thing in THINGS if thing != "box")
        truth = write_photo_set(folder, references=("book", "phone"), things=things, relations=("left_of", "right_of"))
        (folder / "boxes.json").write_text(json.dumps(truth), encoding="utf-8")
    many = {"scenes": {"train": 4, "validation": 4, "test": 4}}
    return {"kind": kind, **few, **many, "root": str(folder), "boxes": str(folder / "boxes.json")}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("qwen2_vl", "boxed"), ("gemma3", "coco"), ("qwen2_vl", "whatsup"), ("gemma3", "whatsup")])
def test_photographs_of_every_kind_run_through_every_stage(
    family: str, kind: str, checkpoint_of: Callable[[str], Path], tmp_path: Path, drawn: Path
) -> None:
    """COCO's are real ones. Gemma-3 has boxed photographs above, and Qwen2-VL COCO's."""
    found = run_stages(tmp_path, checkpoint_of(family), photographs(kind, drawn / kind))
    dataset = Dataset.open(found / "scenes")
    for name in RUN:
        for table, output in STAGES[name].tables.items():
            held = pl.read_parquet(found / output.file)
            # Photographs of one picture each have no language pairs, and mirror pairs of these have no equal blocks to exchange.
            assert held.height or table in EMPTY, table
            if "log_probabilities" in held.columns and held.height:
                assert all(np.isfinite(row).all() and max(row) <= 0 for row in held["log_probabilities"].to_list()), table
    behaviour = pl.read_parquet(found / "behaviour.parquet")
    assert set(behaviour["question_id"]) <= set(dataset.questions["question_id"])
    assert behaviour["top1"].is_not_null().all()
    # COCO's list of items; photographs of What'sUp that are not merged.
    assert (behaviour.filter(variant="photo").height > 0) == (kind != "boxed")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_photographs_of_the_sample_of_whatsup_are_asked_and_stored(
    family: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Four of one mug and one plate, of which no scene of three objects can be merged; two show one left of the other."""
    sample = SHARED / "whatsup_sample"
    if not sample.is_dir():
        pytest.skip(f"the sample of What'sUp is not at {sample}")
    dataset = {
        "kind": "whatsup",
        "root": str(sample),
        "subset": "B",
        "scenes": {"train": 0, "validation": 0, "test": 4},
        "wording": "one_word",
    }
    found = run_stages(tmp_path, checkpoint_of(family), dataset, ["behaviour", "activations"])
    behaviour = pl.read_parquet(found / "behaviour.parquet")
    assert set(behaviour["variant"]) == {"photo", "self_merge"}
    assert {"mug", "plate"} <= set(behaviour["answer"])
    assert Store.open(found / "activations.zarr").scenes.height == behaviour["scene_id"].n_unique() == 4
