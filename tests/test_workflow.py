"""The workflow as a whole, without running jobs: what a dry-run plans, how fast, and that the linters are content."""

import os
import re
import subprocess
from ast import literal_eval
from collections import Counter
from pathlib import Path

import pytest
import yaml

import warm_python
from snakemake_rules import rules
from vlm_spatial.config.reading import load_config
from vlm_spatial.stages.registry import STAGES, of_scope
from vlm_spatial.workflow.planning import Plan

pytestmark = pytest.mark.workflow

MODEL_STAGES, ACROSS_STAGES = of_scope("model and dataset"), of_scope("model")
REPOSITORY = Path(__file__).parents[1]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [warm_python.python(), "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)


def counted(output: str) -> Counter[str]:
    """Jobs by rule, from a dry-run's table."""
    rows = (line.split() for line in output.split("Job stats:")[1].splitlines())
    return Counter({row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()})


def test_the_default_workflow_has_one_job_a_stage_model_and_dataset(tmp_path):
    (tmp_path / "workflow_config.yaml").write_text((REPOSITORY / "workflow_config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    done = snakemake(tmp_path, "--dry-run", "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    jobs = counted(done.stdout + done.stderr)
    # Two models, one of them on two datasets.
    once = {rule: 1 for rule in (*ACROSS_STAGES, "figures", "all")}
    thrice = {stage: 3 for stage in MODEL_STAGES}
    assert jobs == Counter(once | {"scenes": 2} | thrice | {"total": jobs["total"]})


def test_every_job_is_handed_all_its_inputs_which_its_stage_checks(tmp_path):
    (tmp_path / "workflow_config.yaml").write_text((REPOSITORY / "workflow_config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "organisms").symlink_to(REPOSITORY / "organisms")
    done = snakemake(tmp_path, "--dry-run", "--printshellcmds")
    commands = re.findall(r"-m vlm_spatial\.stages\.(\w+) (.*)", done.stdout + done.stderr)
    off = {name for name, stage in STAGES.items() if stage.optional}
    assert {stage for stage, _ in commands} == STAGES.keys() - {"boxes", "organism"} - off
    for stage, command in commands:
        handed = {name.split(":")[0] for name in re.findall(r"--input=([^=]+)=", command)}
        # No dataset has a detector, tables across datasets are of models of several, and the report shows times and training curves.
        optional = {"boxes"} | {name for name, (of, _) in STAGES[stage].sources.items() if of.scope == "model" or of.optional}
        assert STAGES[stage].inputs.keys() - optional <= handed <= STAGES[stage].inputs.keys() | {"benchmark", "training"}, stage


@pytest.mark.slow
def test_twenty_models_on_eight_datasets_are_planned(tmp_path):
    datasets = {f"d{index}": {"kind": "squares"} for index in range(8)}
    organisms = {f"o{index}": {"datasets": ["d0"]} for index in range(20)}
    models = {f"m{index}": {"organism": f"o{index}", "datasets": list(datasets)} for index in range(20)}
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump({"datasets": datasets, "organisms": organisms, "models": models}), encoding="utf-8")
    done = snakemake(tmp_path, "--dry-run", "--quiet", "rules", "--configfile", str(path))
    assert done.returncode == 0, done.stderr
    jobs = counted(done.stdout + done.stderr)
    assert all(jobs[stage] == 160 for stage in MODEL_STAGES)
    assert all(jobs[stage] == 20 for stage in ACROSS_STAGES)
    assert (jobs["scenes"], jobs["organism"], jobs["figures"]) == (8, 20, 1)


def test_settings_are_plain_builtins_with_sorted_keys():
    """All that Snakemake compares faithfully."""

    def check(value):
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert type(value) in (str, int, float, bool, type(None))

    plan = Plan(load_config(REPOSITORY / "presets" / "natural.yaml"))
    for stage in STAGES:
        for names in plan.jobs(stage):
            check(plan.settings(stage, tuple(names.values())))


def test_the_report_is_told_which_files_were_given_and_nothing_of_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = load_config(REPOSITORY / "presets" / "natural.yaml")
    for given in (Path("presets/natural.yaml"), REPOSITORY / "presets" / "natural.yaml"):
        assert Plan(config, [given]).settings("figures", ())["config_files"] == ["presets/natural.yaml"]
    assert Plan(config, [Path("/elsewhere/mine.yaml")]).settings("figures", ())["config_files"] == ["/elsewhere/mine.yaml"]
    for files in ([], [Path("workflow_config.yaml")]):
        assert "config_files" not in Plan(config, files).settings("figures", ())


def test_gpu_stages_and_probes_ask_for_one_and_the_others_for_none():
    # Probes run no model, but are fitted on a GPU where that pays.
    asking = {name for name, stage in STAGES.items() if stage.device == "gpu"} | {"probes"}
    assert {name: rule.gpus for name, rule in rules().items()} == {name: int(name in asking) for name in STAGES}


def test_models_of_a_few_mb_take_one_core_and_no_gpu_and_others_the_gpu_and_every_core(tmp_path):
    hub = {"checkpoint": "owner/name", "revision": "0" * 40, "datasets": ["squares"]}
    organism = {"checkpoint": str(REPOSITORY / "organisms" / "natural-gemma3"), "datasets": ["squares"]}
    config = {"datasets": {"squares": {"kind": "squares"}}, "models": {"hub": hub, "organism": organism}}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    snakefile = tmp_path / "Snakefile"
    shown = "print('asked', [(name, model_threads(Wildcards(model=name)), model_gpus(Wildcards(model=name))) for name in config['models']])"
    including = ["from types import SimpleNamespace as Wildcards", f"include: {str(REPOSITORY / 'Snakefile')!r}", shown]
    snakefile.write_text("\n".join(including), encoding="utf-8")
    done = snakemake(tmp_path, "--snakefile", str(snakefile), "--list-rules", "--configfile", str(path))
    assert done.returncode == 0, done.stderr
    asked = literal_eval(re.findall("^asked (.*)", done.stdout, flags=re.MULTILINE)[0])
    assert asked == [("hub", len(os.sched_getaffinity(0)), 1), ("organism", 1, 0)]
