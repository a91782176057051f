"""presets/paper.yaml on published configurations, cut in depth alone: real widths and tokenizers, every stage from scenes to measures.

Each model has one vision and one language layer with random weights, and few scenes. ``python -m benchmarks.preset_stages --preset paper``
is the same at any depth. In float32: a CPU without bfloat16 arithmetic takes minutes for a scene of this width. tests/test_preset_real.py
has narrow models, with Snakemake, the report, and Pixtral.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmarks.genuine import NAME, REVISION, genuine_adapter, loader
from benchmarks.preset_stages import run_stages

from paper_preset import cut, fewest, filled, write_two_items
from real_checkpoints import tokenizer_files
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.registry import STAGES, of_scope
from vlm_spatial.tokens import TokenGrid

pytestmark = [pytest.mark.model, pytest.mark.slow]

# Of each configuration the preset's models that it stands for, and their datasets: every kind for both families.
MODELS = {
    "qwen2_vl": {"qwen2-vl-7b": ["squares-qwen", "shapes-qwen", "objects-qwen"]},
    "qwen2_vl_2b": {"qwen2-vl-2b": ["whatsup-qwen"], "qwen2-vl-2b-coco": ["coco"]},
    "gemma3": {
        "gemma-3-4b": ["squares-gemma", "shapes-gemma", "objects-gemma", "whatsup-gemma"],
        "gemma-3-4b-coco": ["coco-gemma"],
    },
}
SMALL_PHOTOS = 168**2
# Tables that the preset itself leaves without rows: it has no conflict pairs, exchanges nothing in COCO, and lists items of COCO alone.
EMPTY = {
    "conflict": {"squares", "shapes", "objects", "whatsup", "coco"},
    "interchange": {"coco"},
    "ablation_sweep": {"coco"},
    "amplification_items": {"squares", "shapes", "objects", "whatsup"},
}


def preset(folder: Path, family: str, tokenizer: Path) -> dict[str, Any]:
    values = filled(folder, {"qwen" if family.startswith("qwen") else "gemma": tokenizer})
    write_two_items(folder / "coco")
    # The 7B's widths take four times as long on photographs of the published geometry.
    values["models"]["qwen2-vl-2b"] = dict(values["models"]["qwen2-vl-7b"])
    values = fewest(cut(values, MODELS[family]))
    for model in values["models"].values():
        model |= {"checkpoint": NAME, "revision": REVISION}
    if "qwen2-vl-2b-coco" in values["models"]:
        values["models"]["qwen2-vl-2b-coco"]["max_pixels"] = SMALL_PHOTOS
    return values


@pytest.mark.parametrize("family", list(MODELS))
def test_every_stage_of_the_paper_preset_runs_at_published_widths(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_files(family.removesuffix("_2b"))
    adapter = genuine_adapter(family, 1, 1, dtype="float32", tokenizer=tokenizer, gemma_side=224, shared_vocabulary=True)
    adapter.model.eval().requires_grad_(False)
    assert adapter.sites == ("vision.0", "connector", "language.0")
    values = preset(tmp_path, family, tokenizer)
    ran = {(job.stage, job.of) for job in run_stages(values, tmp_path, loader(adapter))}
    results, kinds = tmp_path / values["results"], set()
    for model, settings in values["models"].items():
        for name in settings["datasets"]:
            assert {(stage, name) for stage in ("scenes", *of_scope("model and dataset"))} <= ran
            dataset = Dataset.open(results / "scenes" / name)
            kind = values["datasets"][name]["kind"]
            kinds.add(kind)
            for stage in (STAGES[stage] for stage in of_scope("model and dataset")):
                for table, output in stage.tables.items():
                    held = pl.read_parquet(results / output.path.format(model=model, dataset=name))
                    assert held.is_empty() == (kind in EMPTY.get(table, set())), (model, name, table)
                    check(held, dataset, f"{model}, {name}, {table}")
        transferred = pl.read_parquet(results / model / "transfer.parquet") if len(settings["datasets"]) > 1 else None
        assert transferred is None or transferred.select("fitted_on", "applied_to").unique().height == len(settings["datasets"]) ** 2
    assert kinds == {name.partition("-")[0] for datasets in MODELS[family].values() for name in datasets}


def check(table: pl.DataFrame, dataset: Dataset, where: str) -> None:
    """Numbers are finite, and probabilities of a question's own candidates."""
    for column in table.select(pl.selectors.float(), pl.selectors.list(pl.selectors.float())).iter_columns():
        found = column.explode() if column.dtype == pl.List else column
        assert found.drop_nulls().is_finite().all(), f"{where}.{column.name}"
    if "log_probabilities" in table.columns and "question_id" in table.columns:
        asked = table.join(dataset.questions.select("question_id", asked="candidates"), on="question_id", how="left")
        assert asked["candidates"].equals(asked["asked"].alias("candidates")), where
        assert table["log_probabilities"].list.max().le(0).all(), where
        assert table["candidate_mass"].is_between(0, 1).all(), where


@pytest.mark.parametrize(("family", "millions"), [("qwen2_vl", 8_291), ("qwen2_vl_2b", 2_209), ("gemma3", 4_300)])
def test_whole_configurations_have_the_published_size_and_grid(family: str, millions: int) -> None:
    """Parameters as the hub counts them in the published files."""
    adapter = genuine_adapter(family, device="meta")
    assert round(sum(parameter.numel() for parameter in adapter.model.parameters()) / 1e6) == millions
    assert adapter.grid(448, 448) == TokenGrid(16, 16)
