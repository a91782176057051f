"""Natural organisms know their datasets: every template of each is answered right on scenes that they never saw.

``organisms`` holds what ``snakemake --configfile presets/natural.yaml`` trained, as bfloat16; ``recipe.json`` in each says how. The one
of Gemma-3's class went on with ``organisms/further.py``.
"""

from pathlib import Path

import polars as pl
import pytest
import yaml

from tiny_workflow import REPOSITORY, Workflow
from vlm_spatial.files import read_json

pytestmark = pytest.mark.workflow

ORGANISMS = REPOSITORY / "organisms"
PRESET = yaml.safe_load((REPOSITORY / "presets" / "natural.yaml").read_text(encoding="utf-8"))
NAMES = tuple(PRESET["organisms"])
LEARNT = [(name, dataset) for name in NAMES for dataset in PRESET["models"][name]["datasets"]]
SCENES = {
    "scenes": {"train": 1, "validation": 1, "test": 40},
    "variants": {"decorrelated": {"train": 1, "validation": 1, "test": 40}},
    "pairs": {"vision": 1, "language": 1, "conflict": 1},
}
CONFIG = {
    # Another seed than the training's, so that no scene is one that was trained on.
    "seed": 12,
    "datasets": {name: settings | SCENES for name, settings in PRESET["datasets"].items()},
    "behaviour": {"splits": ["test"]},
    "models": {name: {"checkpoint": str(ORGANISMS / name), "datasets": PRESET["models"][name]["datasets"]} for name in NAMES},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workflow = Workflow.create(tmp_path_factory.mktemp("natural") / "workflow")
    workflow.write_config(CONFIG)
    wanted = [f"results/{name}/{dataset}/behaviour.parquet" for name, dataset in LEARNT]
    workflow.run("--cores", "2", "--resources", "gpu=2", "--", *wanted)
    return workflow.folder / "results"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dataset"), LEARNT)
def test_every_template_is_answered_right(results: Path, name: str, dataset: str) -> None:
    table = pl.read_parquet(results / name / dataset / "behaviour.parquet").filter(variant="main", split="test")
    asked = table.group_by("axis", "template").agg(pl.len(), pl.col("correct").mean())
    assert len(asked) == 6
    assert asked["len"].min() >= 120
    assert asked["correct"].min() >= 0.95, asked.rows()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", PRESET["datasets"])
def test_the_one_that_went_on_knows_the_slot_where_it_is_not_the_place(results: Path, dataset: str) -> None:
    """``organisms/further.py`` made it; a rule that knows thirds of the canvas answers 57% of these questions right."""
    assert read_json(ORGANISMS / "natural-gemma3" / "recipe.json")["then"]["variants"]["decorrelated"] > 0
    table = pl.read_parquet(results / "natural-gemma3" / dataset / "behaviour.parquet").filter(variant="decorrelated", split="test")
    asked = table.group_by("axis", "template").agg(pl.len(), pl.col("correct").mean())
    assert asked["len"].min() >= 100
    assert asked["correct"].min() >= 0.9, asked.rows()


@pytest.mark.parametrize("name", NAMES)
def test_committed_organisms_are_those_of_the_preset(name: str) -> None:
    recipe = read_json(ORGANISMS / name / "recipe.json")
    entry = recipe["settings"]["organism"]
    assert {key: entry[key] for key in PRESET["organisms"][name]} == PRESET["organisms"][name]
    assert entry["accuracy"] >= 0.95
    assert recipe["settings"]["seed"] == PRESET["seed"]
    assert set(entry["datasets"]) == set(PRESET["models"][name]["datasets"])
