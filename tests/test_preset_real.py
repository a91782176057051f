"""presets/paper.yaml from its plan to its report: two families with their published tokenizers, chat templates and image geometries.

Snakemake plans it and looks at everything that it looks at before a job; its commands then run in this process. The models are random,
their depths and widths are cut: what they answer means nothing. tests/test_real_size.py runs the stages at the published widths, Gemma-3
and the other kinds of datasets among them; presets/extended.yaml runs in tests/test_preset.py. ``benchmarks/preset_stages.py`` has the
full depth, on a GPU.
"""

import functools
import html
import importlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from benchmarks import preset_stages
from benchmarks.genuine import REVISION

from paper_preset import cut, filled
from real_checkpoints import real_checkpoint, tokenizer_files
from test_preset import snakemake
from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.report.published import published
from vlm_spatial.stages.registry import STAGES, of_scope
from vlm_spatial.stages.stage import run_stage

pytestmark = pytest.mark.workflow

FAMILIES = {"qwen": "qwen2_vl", "pixtral": "pixtral"}
# Both quirks, the family that has no published widths here, two datasets of a model, and the lists of words and of items.
DATASETS = {
    "qwen2-vl-7b-running": ["squares-qwen", "whatsup-qwen"],
    "pixtral-12b": ["objects-pixtral"],
    "pixtral-12b-coco": ["coco"],
}
# Tables of what a dataset or the preset has not: exchanges are crosswise and of the last token, pixels and strips are ours.
EMPTY = {"conflict", "amplification_items", "ablation_sweep", "interchange"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """The configuration, the results, and what was said before any job."""
    folder = tmp_path_factory.mktemp("paper")
    checkpoints = {name: real_checkpoint(folder / name, family) for name, family in FAMILIES.items()}
    values = cut(filled(folder, checkpoints, seven=3), DATASETS)
    config = folder / "paper.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    planned = snakemake(folder, config, "--dry-run", "--printshellcmds")
    assert planned.returncode == 0, planned.stderr
    commands = re.findall(r"^Shell command: (python -m vlm_spatial\.stages\..*)$", planned.stdout + planned.stderr, flags=re.MULTILINE)
    jobs = [shlex.split(command.split(" 2>&1 | tee ")[0])[2:] for command in commands]
    # A dry-run's order says nothing; the registry has each stage after those whose results it reads.
    jobs.sort(key=lambda job: list(STAGES).index(job[0].rpartition(".")[2]))
    # A vocabulary takes seconds to read, so each model is loaded once.
    loaded = functools.cache(lambda given: load_adapter(**json.loads(given)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, *arguments in jobs:
            module = importlib.import_module(name)
            stage = name.rpartition(".")[2]
            if hasattr(module, "load_adapter"):
                patch.setattr(module, "load_adapter", lambda **given: loaded(json.dumps(given, sort_keys=True)))
            run_stage(stage, getattr(module, stage), arguments)
    return values, folder / values["results"], planned.stderr


@pytest.mark.slow
def test_every_stage_runs_on_every_dataset_of_every_model(run: tuple[dict[str, Any], Path, str]) -> None:
    values, results, _ = run
    scored = set()
    for model, settings in values["models"].items():
        for dataset in settings["datasets"]:
            for stage in (STAGES[name] for name in of_scope("model and dataset")):
                for table, output in stage.tables.items():
                    held = pl.read_parquet(results / output.path.format(model=model, dataset=dataset))
                    assert held.height > 0 or table in EMPTY, (model, dataset, table)
                    if "log_probabilities" in held.columns and held.height:
                        scored.add(stage.name)
                        scores = held["log_probabilities"].to_list()
                        assert all(np.isfinite(row).all() and max(row) <= 0 for row in scores)
                        assert held["candidate_mass"].is_between(0, 1).all()
    # Every stage that runs the model asks it something, but the one that stores activations; the preset has no conflict pairs.
    assert scored == {name for name in of_scope("model and dataset") if STAGES[name].device == "gpu"} - {"activations", "conflict"}


@pytest.mark.slow
def test_every_published_experiment_ran(run: tuple[dict[str, Any], Path, str]) -> None:
    values, results, _ = run
    for model, settings in values["models"].items():
        for dataset in settings["datasets"]:
            asked = values["datasets"][dataset]["pairs"]
            table = pl.read_parquet(results / model / dataset / "interchange.parquet")
            ran = Counter(table.unique(["experiment", "pair_id"])["experiment"])
            axes = 1 if "whatsup" in dataset else 2
            assert ran["crosswise"] == axes * asked["vision"], (model, dataset)
            assert ran["last_token"] == axes * asked.get("last_token", 0), (model, dataset)
            assert set(ran) <= {"crosswise", "last_token"}
            sites = set(table.filter(experiment="crosswise")["site"])
            assert sites == ({"connector", "language.0", "language.1"} if asked["vision"] else set())
            assert set(table.filter(experiment="crosswise")["token_set"]) <= {"object", "strip"}
            ablated = pl.read_parquet(results / model / dataset / "ablation_sweep.parquet")
            assert set(ablated["experiment"]) == ({"crosswise"} if asked["vision"] else set())
            conditions = set(pl.read_parquet(results / model / dataset / "ablation_accuracy.parquet")["condition"])
            assert {"intact", "neutral"} <= conditions
            assert not any("erasure" in condition for condition in conditions)
            probes = pl.read_parquet(results / model / dataset / "measures.parquet").filter(experiment="probes", condition="published")
            assert set(probes["site"]) == {"connector"}
            items = pl.read_parquet(results / model / dataset / "amplification_items.parquet")
            assert items.is_empty() == (dataset != "coco")
            if dataset == "coco":
                assert set(items["alpha"]) == {0.0, 1.0, 15.0}
                # About the caption's subject, in both orders.
                assert items["question_id"].n_unique() == 2 * items["scene_id"].n_unique()


@pytest.mark.slow
def test_the_report_holds_every_model_its_quirks_and_the_published_numbers(run: tuple[dict[str, Any], Path, str]) -> None:
    values, results, said = run
    page = (results / "report.html").read_text(encoding="utf-8")
    for name, model in values["models"].items():
        assert name in page
        for sentence in QuirkSettings.model_validate(model.get("quirks", {})).named():
            assert sentence in page
    assert "running numbers for rotary positions" in page
    assert "second begin-of-sequence token" in page
    of_pixtral = published().filter(model="pixtral-12b", experiment="table1_behaviour", dataset="objects", axis="all")
    assert of_pixtral.height >= 2
    assert all(f"{float(value):.3f}" in page for value in of_pixtral["value"])
    # Every published figure of these models stands in the report: beside ours, or among those left out, with the reason.
    shown = html.unescape(page)
    for row in published().filter(pl.col("model").is_in(list(values["figures"]["published"].values()))).iter_rows(named=True):
        assert ", ".join(row[part] for part in ("experiment", "axis", "measure", "condition") if row[part]) in shown, row
        assert row["source_file"] in shown
    # Names that are no single token were left out, and told before any job.
    assert "names are left out, as they are more than one token to" in said
    findings = json.loads((results / "findings.json").read_text(encoding="utf-8"))
    assert {(record["model"], record["dataset"]) for record in findings} == {
        (name, dataset) for name, model in values["models"].items() for dataset in model["datasets"]
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "family", "models"),
    [
        ("extended", "qwen2_vl", {"qwen2-vl-7b": ["squares"]}),
        ("paper", "qwen2_vl", {"qwen2-vl-7b": ["objects-qwen", "whatsup-qwen"], "qwen2-vl-7b-running": ["objects-qwen", "whatsup-qwen"]}),
        ("paper", "qwen2_vl_2b", {"qwen2-vl-2b-coco": ["coco"]}),
    ],
)
def test_the_command_lists_every_stage_with_its_time(
    preset: str,
    family: str,
    models: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A tiny model takes the place of the published widths."""
    made: dict[str, Any] = {}
    arguments = ["--preset", preset, "--family", family, "--layers", "3", "--vision-layers", "2", "--output", str(tmp_path / "times.json")]
    if preset == "paper":
        tokenizer = tokenizer_files("qwen2_vl")
        filled(tmp_path, {})
        (tmp_path / "coco/photos").rename(tmp_path / "coco/val2017")
        (tmp_path / "coco/instances.json").rename(tmp_path / "coco/instances_val2017.json")
        (tmp_path / "coco/items.json").rename(tmp_path / "coco/coco_qa_two_obj.json")
        folders = {"whatsup": "whatsup", "pictures": "eight", "coco": "coco"}
        arguments += ["--tokenizer", str(tokenizer)]
        arguments += [word for option, name in folders.items() for word in (f"--{option}", str(tmp_path / name))]
    datasets = {name for of_model in models.values() for name in of_model}
    arguments += ["--datasets", *sorted({name.partition("-")[0] for name in datasets})]

    def tiny(family: str, *cut: Any, words: Sequence[str], **options: Any) -> Adapter:
        made.update(options, cut=cut)
        if preset == "paper":
            return load_adapter(real_checkpoint(tmp_path / family, "qwen2_vl"), device="cpu", revision=REVISION)
        return load_adapter(new_checkpoint(tmp_path / family, family, words), device="cpu", dtype="bfloat16", revision=REVISION)

    monkeypatch.setattr(preset_stages, "genuine_adapter", tiny)
    monkeypatch.setattr("sys.argv", ["preset_stages", *arguments])
    preset_stages.main()
    assert made["cut"][:2] == (3, 2)
    assert made["cut"][3] == {"extended": "bfloat16", "paper": "float32"}[preset]
    written = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    wanted = Counter((stage, name) for of_model in models.values() for name in of_model for stage in of_scope("model and dataset"))
    wanted.update({("scenes", name): 1 for name in datasets})
    assert Counter((row["stage"], row["of"]) for row in written["stages"] if row["of"] != "all") == wanted
    assert all(row["seconds"] > 0 for row in written["stages"])
    assert (written["tokenizer"], written["whole"]) == ("published" if preset == "paper" else "word-level", False)
    shown = capsys.readouterr().out
    assert all(re.search(rf"^{stage} +{name} +\d", shown, re.MULTILINE) for stage, name in wanted)


def test_the_command_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--preset", "paper", "--family", "qwen2_vl_2b", "--layers", "1"]
    for more, said in (([], "give the published --tokenizer"), (["--tokenizer", "."], "asks Qwen/Qwen2-VL-2B-Instruct nothing about")):
        monkeypatch.setattr("sys.argv", ["preset_stages", *asked, *more])
        with pytest.raises(SystemExit) as error:
            preset_stages.main()
        assert said in capsys.readouterr().err + str(error.value)
