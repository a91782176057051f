"""profiles/slurm, without a SLURM: what it says of every rule, and how many submissions a large run is. tests/slurm has the rest."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import warm_python
from snakemake_rules import rules
from vlm_spatial.stages.registry import STAGES, of_scope

pytestmark = pytest.mark.workflow

MODEL_STAGES, ACROSS_STAGES = of_scope("model and dataset"), of_scope("model")
REPOSITORY = Path(__file__).parents[1]
PROFILE = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8"))
MODELS, DATASETS = 20, 8


def test_every_rule_has_its_cores_memory_and_time() -> None:
    assert PROFILE["set-threads"].keys() == rules().keys() == STAGES.keys()
    for name, rule in rules().items():
        assert {"mem_mb", "runtime"} <= rule.resources, name


def test_jobs_that_go_together_take_turns() -> None:
    """Else a submission would ask for the sum of its jobs' cores, memory and GPUs, though they run one after another."""
    limits = {text.split("=")[0] for text in PROFILE["resources"]}
    assert PROFILE["set-resource-scopes"] == [f"{name}=local" for name in ("gpu", "turn")]
    together = {name for name, stage in STAGES.items() if stage.scope in ("model and dataset", "model") or name in PROFILE["groups"]}
    # A group is named after the stage that most of its jobs are of; what is about all datasets of a model goes with another stage.
    assert PROFILE["group-components"].keys() == together - set(of_scope("model"))
    for name in together:
        assert (rules()[name].gpus and "gpu" in limits) or PROFILE["set-resources"][name] == {"turn": 1}, name


@pytest.mark.slow
def test_twenty_models_on_eight_datasets_are_less_than_two_hundred_submissions(tmp_path: Path) -> None:
    datasets = [f"d{index}" for index in range(DATASETS)]
    config = {
        "datasets": {name: {"kind": "squares"} for name in datasets},
        "organisms": {f"o{index}": {"datasets": datasets[:1]} for index in range(MODELS)},
        "models": {f"m{index}": {"organism": f"o{index}", "datasets": datasets} for index in range(MODELS)},
    }
    (tmp_path / "workflow_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [warm_python.python(), "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--dry-run"]
    profile = ["--workflow-profile", str(REPOSITORY / "profiles" / "slurm")]
    done = subprocess.run([*command, *profile], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    alone = re.findall(r"^Job \d+: ", said, flags=re.MULTILINE)
    in_groups = re.findall(r"^ +Job \d+: ", said, flags=re.MULTILINE)
    groups = re.findall(r"Group job (\w+) ", said)
    # The organisms and the figures are submitted one by one.
    assert len(alone) == MODELS + 1
    assert len(in_groups) == DATASETS + len(MODEL_STAGES) * MODELS * DATASETS + len(ACROSS_STAGES) * MODELS
    # Eight jobs each: a model's on its eight datasets, where a stage across them holds them together, else those of any models.
    assert sorted(groups) == sorted(["scenes", *(stage for stage in MODEL_STAGES for _ in range(MODELS))])
    submissions = f"{len(alone) + len(in_groups):,} jobs in {len(alone) + len(groups)} submissions"
    assert submissions in (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
