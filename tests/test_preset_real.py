"""presets/extended.yaml with the published tokenizers, chat templates and image geometries of Qwen2-VL and Gemma-3.

Every stage but the figures (tests/test_preset.py has them) runs on every drawn dataset, cut to a few scenes. The models are random, their
depths and widths are cut: what they answer means nothing. Gemma-3's images have half the published side here, as many visual tokens; whole
ones are in tests/test_real_vocabularies.py. ``benchmarks/preset_stages.py`` is the same at the published widths, and on a GPU whole.
"""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from benchmarks import preset_stages
from benchmarks.genuine import REVISION
from benchmarks.preset_stages import preset_values, run_stages

from real_checkpoints import REAL_FAMILIES, real_checkpoint
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.stages.registry import STAGES, Scope, Stage, of_scope

pytestmark = pytest.mark.workflow

DATASETS = ("squares", "shapes", "objects")


@pytest.fixture(scope="module", params=REAL_FAMILIES)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of the preset, in this process, the model loaded once."""
    folder = tmp_path_factory.mktemp("real-preset")
    model = {
        "checkpoint": str(real_checkpoint(folder / request.param, request.param, gemma_side=448)),
        "dtype": "bfloat16",
        "device": "cpu",
    }
    values = preset_values(DATASETS, model)
    loaded = functools.cache(lambda said: load_adapter(**json.loads(said)))
    for _ in run_stages(values, folder, lambda **given: loaded(json.dumps({**given, "answers": None}, sort_keys=True))):
        pass
    return folder / values["results"]


def of(scope: Scope) -> list[Stage]:
    return [STAGES[name] for name in of_scope(scope)]


@pytest.mark.slow
def test_every_stage_runs_on_every_dataset(results: Path) -> None:
    scored = set()
    for dataset in DATASETS:
        for stage in of("model and dataset"):
            for table, output in stage.tables.items():
                held = pl.read_parquet(results / output.path.format(model="model", dataset=dataset))
                # The list of COCO's items is of photographs with boxes only.
                assert held.height > 0 or table == "amplification_items", (dataset, table)
                if "log_probabilities" in held.columns:
                    scored.add(stage.name)
                    scores = held["log_probabilities"].to_list()
                    assert all(np.isfinite(row).all() and max(row) <= 0 for row in scores)
                    assert held["candidate_mass"].is_between(0, 1).all()
    # Every stage that runs the model asks it something, but the one that stores activations.
    assert scored == {stage.name for stage in of("model and dataset") if stage.device == "gpu"} - {"activations"}
    for stage in of("model"):
        assert all((results / output.path.format(model="model")).is_file() for output in stage.tables.values())


@pytest.mark.slow
def test_differences_of_log_probabilities_are_the_log_odds(results: Path) -> None:
    table = pl.read_parquet(results / "model/objects/interchange.parquet").filter(experiment="vision")
    pairs = pl.read_parquet(results / "scenes/objects/pairs.parquet").select("pair_id", "hypotheses")
    for row in table.join(pairs, on="pair_id").head(20).iter_rows(named=True):
        score = dict(zip(row["candidates"], row["log_probabilities"], strict=True))
        difference = score[row["hypotheses"]["flip"]] - score[row["hypotheses"]["stay"]]
        assert row["log_odds"] == pytest.approx(difference, abs=1e-4)


@pytest.mark.slow
def test_the_command_lists_every_stage_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny model takes the place of the published widths."""
    made: dict[str, Any] = {}

    def tiny(family: str, *cut: Any, words: Sequence[str], **options: Any) -> Adapter:
        made.update(options, cut=cut)
        return load_adapter(new_checkpoint(tmp_path / family, family, words), device="cpu", dtype="bfloat16", revision=REVISION)

    monkeypatch.setattr(preset_stages, "genuine_adapter", tiny)
    output = tmp_path / "times.json"
    arguments = ["--family", "qwen2_vl", "--layers", "3", "--vision-layers", "2", "--datasets", "squares", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["preset_stages", *arguments])
    preset_stages.main()
    assert (made["cut"][:2], made["tokenizer"]) == ((3, 2), None)
    written = json.loads(output.read_text(encoding="utf-8"))
    wanted = {"scenes", *of_scope("model and dataset")}
    assert {row["stage"] for row in written["stages"]} == wanted
    assert all(row["seconds"] > 0 for row in written["stages"])
    assert (written["tokenizer"], written["whole"]) == ("word-level", False)
    shown = capsys.readouterr().out
    assert all(re.search(rf"^{stage} +squares +\d", shown, re.MULTILINE) for stage in wanted)
