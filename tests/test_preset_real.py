"""presets/paper.yaml with the published tokenizer, chat template and image geometry of Qwen2-VL; layers and widths are cut.

Every stage runs on every dataset that needs no download, cut to a few scenes. The model is random: what it answers means nothing. Gemma-3's
published image size has 4,096 patches an image, which is too slow for a test; its vocabulary is in tests/test_real_vocabularies.py.
"""

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from real_checkpoints import real_checkpoint
from vlm_spatial.config.reading import parse_config
from vlm_spatial.models.load import load_adapter
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.stages.stage import Job
from vlm_spatial.workflow.planning import Plan

pytestmark = pytest.mark.workflow

PRESET = Path(__file__).parents[1] / "presets/paper.yaml"
DATASETS = ("squares", "shapes", "objects")
FEWER: dict[str, Any] = {
    "scenes": {"train": 4, "validation": 1, "test": 2},
    "variants": {"decorrelated": {"train": 3, "validation": 1, "test": 1}},
    "pairs": {"vision": 1, "language": 1, "conflict": 1},
    "axes": ["horizontal"],
}
SECTIONS: dict[str, dict[str, Any]] = {
    "probes": {"bootstrap": 10, "strengths": [1.0], "strip_map_scenes": 1},
    "interchange": {"token_sets": ["object", "strip"]},
    "ablation": {"questions": 6, "fit_scenes": 3},
    "amplification": {
        "questions": 6,
        "random_draws": 2,
        "projection_alphas": [1.0, 2.0],
        "oracle_alphas": [0.0, 1.0],
        "control_alphas": [2.0],
    },
}
# The report of one model without the figures is tests/test_preset.py's.
RUN = ("scenes", "behaviour", "activations", "probes", "generalisation", "interchange", "conflict", "ablation", "amplification", "transfer")
TABLES = ("behaviour", "interchange", "conflict", "ablation_accuracy", "ablation_sweep", "amplification")


@pytest.fixture(scope="module", params=["qwen2_vl"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of the preset, in this process, the model loaded once."""
    folder = tmp_path_factory.mktemp("real-preset")
    checkpoint = real_checkpoint(folder / request.param, request.param)
    values = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    values["datasets"] = {name: values["datasets"][name] | FEWER for name in DATASETS}
    values["models"] = {"model": {"checkpoint": str(checkpoint), "dtype": "bfloat16", "device": "cpu", "datasets": list(DATASETS)}}
    for section, fewer in SECTIONS.items():
        values[section] = values.get(section, {}) | fewer
    values["results"] = str(folder / "results")
    plan = Plan(parse_config(values))
    loaded = functools.cache(lambda said: load_adapter(**json.loads(said)))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for stage in RUN:
            module = importlib.import_module(f"vlm_spatial.stages.{stage}")
            if hasattr(module, "load_adapter"):
                patched.setattr(module, "load_adapter", lambda **given: loaded(json.dumps({**given, "answers": None}, sort_keys=True)))
            for names in plan.jobs(stage):
                outputs = {key: plan.results / output.path.format(**names) for key, output in STAGES[stage].outputs.items()}
                inputs = {label: path for several in plan.inputs(stage, **names).values() for label, path in several.items()}
                for path in outputs.values():
                    path.parent.mkdir(parents=True, exist_ok=True)
                getattr(module, stage)(Job(plan.settings(stage, tuple(names.values())), inputs, outputs))
    return plan.results


@pytest.mark.slow
def test_every_stage_runs_on_every_dataset(results: Path) -> None:
    for dataset in DATASETS:
        for table in TABLES:
            held = pl.read_parquet(results / "model" / dataset / f"{table}.parquet")
            assert held.height > 0, (dataset, table)
            scores = held["log_probabilities"].to_list()
            assert all(np.isfinite(row).all() and max(row) <= 0 for row in scores)
            assert held["candidate_mass"].is_between(0, 1).all()
        assert pl.read_parquet(results / "model" / dataset / "probes.parquet").height > 0
    for table in ("generalisation.parquet", "transfer.parquet"):
        assert (results / "model" / table).is_file()


@pytest.mark.slow
def test_differences_of_log_probabilities_are_the_log_odds(results: Path) -> None:
    table = pl.read_parquet(results / "model/objects/interchange.parquet").filter(experiment="vision")
    pairs = pl.read_parquet(results / "scenes/objects/pairs.parquet").select("pair_id", "hypotheses")
    for row in table.join(pairs, on="pair_id").head(20).iter_rows(named=True):
        score = dict(zip(row["candidates"], row["log_probabilities"], strict=True))
        difference = score[row["hypotheses"]["flip"]] - score[row["hypotheses"]["stay"]]
        assert row["log_odds"] == pytest.approx(difference, abs=1e-4)
