"""The registry: complete, free of contradictions, light, and followed by what reads it."""

import subprocess
import sys
from pathlib import Path

import pytest

from vlm_spatial.config.reading import parse_config
from vlm_spatial.config.yaml_files import read_yaml
from vlm_spatial.stages.registry import SCOPES, STAGES, fixed_names, of_scope, tables
from vlm_spatial.workflow.planning import Plan

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]


def test_every_stage_module_and_rule_is_registered_and_the_reverse():
    modules = {path.stem for path in (REPOSITORY / "src/vlm_spatial/stages").glob("*.py")} - {"__init__", "stage", "registry"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile", "--list-rules"],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert modules == STAGES.keys()
    assert STAGES.keys() <= set(done.stdout.split())


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_reads_what_earlier_ones_write_and_its_results_are_named_after_its_scope(stage):
    earlier = list(STAGES)[: list(STAGES).index(stage.name)]
    for producer, key in stage.sources.values():
        assert producer.name in earlier
        assert key in producer.outputs
    for result in stage.outputs.values():
        assert {name for name in ("model", "dataset", "organism") if f"{{{name}}}" in result.path} == set(SCOPES[stage.scope])


def test_no_two_results_share_a_path_and_no_two_tables_a_name():
    paths = [result.path for stage in STAGES.values() for result in stage.outputs.values()]
    assert len(paths) == len(set(paths))
    names = [name for stage in STAGES.values() for name in stage.tables]
    assert len(names) == len(set(names)) == sum(len(tables(scope)) for scope in SCOPES)


def test_every_table_is_described():
    described = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    headings = [line for line in described.splitlines() if line.startswith("#")]
    for stage in STAGES.values():
        for table in stage.tables.values():
            assert any(table.file in line for line in headings), f"docs/formats.md has no heading for {table.file}"


def test_names_of_results_are_taken():
    assert {"scenes", "organisms", "report.html", "figures"} <= fixed_names("")
    assert {"transfer.parquet"} <= fixed_names("{model}/")
    assert not any("{" in name for name in fixed_names(""))


def test_the_registry_is_light():
    code = "import sys, vlm_spatial.stages.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.split()
    assert not {"torch", "zarr", "polars", "numpy", "transformers", "altair"} & set(loaded)


def test_jobs_and_their_inputs_of_a_model_on_two_datasets():
    values = read_yaml(REPOSITORY / "workflow_config.yaml")
    [model, *others] = values["models"]
    for other in others:
        del values["models"][other]
    plan = Plan(parse_config(values))
    first, second = plan.config.models[model].datasets
    assert plan.jobs("scenes") == [{"dataset": first}, {"dataset": second}]
    assert plan.jobs("probes", dataset=second) == [{"model": model, "dataset": second}]
    assert plan.jobs("boxes") == []
    assert plan.jobs("transfer", dataset=first) == [{"model": model}]
    probes = plan.inputs("probes", model=model, dataset=first)
    assert probes["store"] == {"store": Path(f"results/{model}/{first}/activations.zarr")}
    across = plan.inputs("transfer", model=model)
    assert across["scenes"] == {f"scenes:{name}": Path(f"results/scenes/{name}") for name in (first, second)}
    assert across["probes"] == {f"probes:{name}": Path(f"results/{model}/{name}/probes.safetensors") for name in (first, second)}
    assert plan.inputs("figures")["transfer"] == {f"transfer:{model}": Path(f"results/{model}/transfer.parquet")}
    assert set(plan.inputs("figures")["probes"]) == {f"probes:{model}:{name}" for name in (first, second)}
    assert of_scope("model") == ("generalisation", "transfer")
