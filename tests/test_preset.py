"""presets/extended.yaml: stops where it is to be filled in, plans every job once it is, and runs whole on small checkpoints.

The run takes every command that Snakemake would give to the shell, in its order, and runs it in this process: 60 stages then
import torch once. Its models are folders of the preset's two architectures with reduced widths, its photos the tests' own set. Only paths
are changed, and what ``FEWER`` and ``FEWER_DATASETS`` say, unless VLM_SPATIAL_WHOLE_PRESET is set: the whole takes hours of CPU.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import warm_python
from photo_set import THINGS, write_photo_set
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.reading import parse_config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.scenes.questions import vocabulary
from vlm_spatial.stages.registry import STAGES, of_scope
from vlm_spatial.stages.stage import run_stage

pytestmark = pytest.mark.workflow

MODEL_STAGES, ACROSS_STAGES = of_scope("model and dataset"), of_scope("model")
REPOSITORY = Path(__file__).parents[1]
PRESET = REPOSITORY / "presets/extended.yaml"
DATASETS = ("squares", "shapes", "objects", "whatsup")
FAMILIES = {"qwen2-vl-7b": "qwen2_vl", "gemma-3-4b": "gemma3"}
WHOLE = "VLM_SPATIAL_WHOLE_PRESET" in os.environ
# One with three contents a dataset, one with photographs, one drawn with the other model; tests/test_preset_real.py has the rest.
FEWER_DATASETS = {"qwen2-vl-7b": ("objects", "whatsup"), "gemma-3-4b": ("squares",)}
RUNS = dict.fromkeys(FAMILIES, DATASETS) if WHOLE else FEWER_DATASETS
RAN_ON = sorted({dataset for datasets in RUNS.values() for dataset in datasets})
# Merged over the preset for a run of minutes; everything else is as it stands there.
FEWER: dict[str, Any] = {
    "dataset": {
        "scenes": {"train": 8, "validation": 3, "test": 4},
        "variants": {"decorrelated": {"train": 6, "validation": 2, "test": 2}},
        "pairs": {"vision": 2, "language": 2, "conflict": 2},
    },
    # Split by object: of six objects a reference two each.
    "photos": {"scenes": {"train": 12, "validation": 12, "test": 12}},
    "probes": {"strengths": [1.0], "strip_map_scenes": 2},
    "ablation": {"questions": 9, "fit_scenes": 6},
    "interchange": {
        "token_sets": ["object", "strip", "random"],
        "vision_sites": ["vision.0", "connector"],
        "language_sites": ["connector"],
    },
    "amplification": {"questions": 9, "random_draws": 2, "projection_alphas": [1.0, 15.0], "oracle_alphas": [1.0, 15.0]},
    "figures": {"explorer_scenes": 2},
}


def filled(root: Path, checkpoints: Mapping[str, Path | None]) -> dict[str, Any]:
    """The preset with its blanks filled in; a model without a folder keeps its hub id and gets some commit."""
    values = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    values["datasets"]["whatsup"]["root"] = str(root)
    for name, model in values["models"].items():
        model["revision"] = "0123456789abcdef0123456789abcdef01234567"
        if checkpoints.get(name):
            model["checkpoint"] = str(checkpoints[name])
            del model["revision"]
    return values


def snakemake(folder: Path, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        warm_python.python(),
        "-m",
        "snakemake",
        "--snakefile",
        str(REPOSITORY / "Snakefile"),
        "--configfile",
        str(config),
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whatsup")
    # The made box is as brown as the table.
    write_photo_set(root, references=("book", "phone"), things=tuple(thing for thing in THINGS if thing != "box"))
    return root


def test_the_preset_states_the_paper_s_numbers() -> None:
    values = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    assert list(values["datasets"]) == list(DATASETS)
    for dataset in values["datasets"].values():
        assert dataset["pairs"] == {"vision": 50, "language": 50, "conflict": 50}
    for model in values["models"].values():
        assert model["datasets"] == list(DATASETS)
        assert model["dtype"] == "bfloat16"
    for form in ("projection_alphas", "oracle_alphas"):
        alphas = values["amplification"][form]
        assert {1, 15} <= set(alphas)
        assert sum(1 <= alpha <= 15 for alpha in alphas) >= 10


def test_the_preset_as_it_stands_says_what_to_fill_in(tmp_path: Path) -> None:
    done = snakemake(tmp_path, PRESET, "--dry-run")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    for key in ("datasets.whatsup.root", "models.qwen2-vl-7b.revision", "models.gemma-3-4b.revision"):
        assert key in line
    values = filled(tmp_path, {})
    values["models"]["gemma-3-4b"]["revision"] = "FILL-IN"
    with pytest.raises(UserError, match=r"extended\.yaml: fill in models\.gemma-3-4b\.revision; found FILL-IN"):
        parse_config(values, Source(PRESET))


def test_the_filled_in_preset_plans_every_job(tmp_path: Path, photos: Path) -> None:
    config = tmp_path / "paper.yaml"
    config.write_text(yaml.safe_dump(filled(photos, {}), sort_keys=False), encoding="utf-8")
    done = snakemake(tmp_path, config, "--dry-run", "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    rows = (line.split() for line in (done.stdout + done.stderr).split("Job stats:")[1].splitlines())
    jobs = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    assert jobs["scenes"] == 4
    assert all(jobs[stage] == 8 for stage in MODEL_STAGES)
    assert jobs["figures"] == 1
    assert not {"organism", "boxes"} & jobs.keys()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The preset run whole; the results folder."""
    folder = tmp_path_factory.mktemp("preset")
    words = [word for kind in ("squares", "shapes", "objects") for word in vocabulary(dataset_settings({"kind": kind}))]
    checkpoints = {name: new_checkpoint(folder / name, family, [*words, *THINGS], seed=3) for name, family in FAMILIES.items()}
    values = filled(photos, checkpoints)
    if not WHOLE:
        for dataset in values["datasets"].values():
            dataset.update(FEWER["dataset"] | (FEWER["photos"] if dataset["kind"] == "whatsup" else {}))
        for section in FEWER.keys() - {"dataset", "photos"}:
            values[section] = values.get(section, {}) | FEWER[section]
        for name, datasets in RUNS.items():
            values["models"][name]["datasets"] = list(datasets)
    config = folder / "paper.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    planned = snakemake(folder, config, "--dry-run", "--printshellcmds")
    assert planned.returncode == 0, planned.stderr
    commands = re.findall(r"^Shell command: (python -m vlm_spatial\.stages\..*)$", planned.stdout + planned.stderr, flags=re.MULTILINE)
    across = sum(len(ACROSS_STAGES) for datasets in RUNS.values() if len(datasets) > 1)
    of_models = sum(len(datasets) * len(MODEL_STAGES) for datasets in RUNS.values()) + across
    assert len(commands) == len(DATASETS) + of_models + len(["figures"])
    jobs = [shlex.split(command.split(" 2>&1 | tee ")[0])[2:] for command in commands]
    # A dry-run's order says nothing; the registry has each stage after those whose results it reads.
    jobs.sort(key=lambda job: list(STAGES).index(job[0].rpartition(".")[2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module, *arguments in jobs:
            stage = module.rpartition(".")[2]
            run_stage(stage, getattr(importlib.import_module(module), stage), arguments)
    return folder / values["results"]


@pytest.mark.slow
def test_the_preset_runs_whole(results: Path) -> None:
    pages = (results / "report.html").read_text(encoding="utf-8")
    findings = json.loads((results / "findings.json").read_text(encoding="utf-8"))
    claims = {record["claim"] for record in findings}
    for model, datasets in RUNS.items():
        assert model in pages
        for dataset in datasets:
            folder = results / model / dataset
            for table in (table for stage in MODEL_STAGES for table in STAGES[stage].tables):
                # The list of COCO's items is of photographs with boxes only.
                assert pl.read_parquet(folder / f"{table}.parquet").height > 0 or table == "amplification_items", (model, dataset, table)
            assert (folder / "activations.zarr").is_dir()
            assert {record["claim"] for record in findings if (record["model"], record["dataset"]) == (model, dataset)} == claims
            manifest = json.loads((folder / "activations.json").read_text(encoding="utf-8"))
            assert manifest["model"]["dtype"] == "bfloat16"


@pytest.mark.slow
def test_every_experiment_of_the_preset_ran_on_every_dataset(results: Path) -> None:
    """Photos too: their language and conflict pairs have blocks of tokens that can be exchanged on either model's grid."""
    wanted = 50 if WHOLE else FEWER["dataset"]["pairs"]["vision"]
    for dataset in RAN_ON:
        axes = 1 if dataset == "whatsup" else 2
        pairs = Counter(pl.read_parquet(results / "scenes" / dataset / "pairs.parquet")["experiment"])
        # A dozen photo sets need not give as many; what is missing is counted.
        if dataset != "whatsup":
            assert pairs == dict.fromkeys(("vision", "language", "conflict"), wanted * axes)
        else:
            assert set(pairs) == {"vision", "language", "conflict"}
            aside = set(pl.read_parquet(results / "scenes" / dataset / "set_aside.parquet")["file"])
            assert aside >= {f"{experiment} pairs" for experiment, made in pairs.items() if made < wanted}
        for model in (name for name, datasets in RUNS.items() if dataset in datasets):
            interchange = pl.read_parquet(results / model / dataset / "interchange.parquet")
            conflict = pl.read_parquet(results / model / dataset / "conflict.parquet")
            for table, experiment in ((interchange, "vision"), (interchange, "language"), (conflict, "conflict")):
                assert table.filter(experiment=experiment)["pair_id"].n_unique() == pairs[experiment] > 0, (model, dataset, experiment)
            ablation = pl.read_parquet(results / model / dataset / "ablation_accuracy.parquet")
            assert {"intact", "erasure", "neutral"} <= set(ablation["condition"])
            amplification = pl.read_parquet(results / model / dataset / "amplification.parquet")
            assert {1.0, 15.0} <= set(amplification.filter(method="projection")["alpha"])


@pytest.mark.slow
def test_photos_are_asked_unmerged_merged_and_merged_with_themselves(results: Path) -> None:
    for model in (name for name, datasets in RUNS.items() if "whatsup" in datasets):
        behaviour = pl.read_parquet(results / model / "whatsup" / "behaviour.parquet")
        assert {"photo", "main", "self_merge"} <= set(behaviour.filter(split="test")["variant"])
