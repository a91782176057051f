"""What is made again after each kind of change: the EXACT set of jobs, on a finished run of the real workflow.

One tiny run is made once; each case copies it, makes its change and reads a dry-run. `docs/caching.md` has the table of these cases.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tiny_workflow import CONFIG, REPOSITORY, Workflow
from vlm_spatial.report.field_terms import GROUPS
from vlm_spatial.stages.registry import of_scope

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

ANALYSES = of_scope("model and dataset")
NOTHING: set[str] = set()
FIGURES = {"figures"}


def of(model: str, *stages: str, dataset: str = "squares") -> set[str]:
    """Jobs of a model on a dataset: the stages named, or all of them; the measures are made of every table, so they always follow."""
    return {f"{stage}:{model}:{dataset}" for stage in (*(stages or ANALYSES), "measures")}


def of_both(*stages: str) -> set[str]:
    return of("folder", *stages) | of("small", *stages)


SCENES = {"scenes:squares"}
ORGANISM = {"organism:small"}
MODELS = of_both() | FIGURES
EVERYTHING = SCENES | ORGANISM | MODELS
PROBES_AND_AFTER = of("folder", "probes", "ablation", "amplification") | FIGURES
# What a model of several datasets has beside the stages of each.
ACROSS = {"generalisation:folder", "transfer:folder"}
BOTH_PROBES_AND_AFTER = of_both("probes", "ablation", "amplification") | FIGURES


def as_it_is(_: Workflow) -> dict[str, str]:
    return {}


@dataclass
class Case:
    """A change to a finished run and the jobs that it makes necessary."""

    name: str
    change: Callable[[Workflow], None]
    jobs: set[str]
    arguments: tuple[str, ...] = ()
    environment: Callable[[Workflow], dict[str, str]] = as_it_is


# --- changes --------------------------------------------------------------------------------------------------------


def nothing(_: Workflow) -> None:
    pass


def edit(path: str, old: str, new: str) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        file = workflow.folder / path
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def append(path: str, text: str) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        with (workflow.folder / path).open("a", encoding="utf-8") as stream:
            stream.write(text)

    return change


def new_docstring(path: str) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        file = workflow.folder / path
        text = file.read_text(encoding="utf-8")
        assert text.startswith('"""')
        file.write_text('"""Quite another text.\n\nAnd more of it."""' + text[text.index('"""', 3) + 3 :], encoding="utf-8")

    return change


def configure(path: str, value: object) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        config = json.loads(json.dumps(CONFIG))
        section = config
        *parents, key = path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            del section[key]
        else:
            section[key] = value
        workflow.write_config(config)

    return change


def other_layout_of_the_config(workflow: Workflow) -> None:
    (workflow.folder / "workflow_config.yaml").write_text("# a comment\n\n" + json.dumps(CONFIG, indent=7), encoding="utf-8")


def other_order_of_the_config(workflow: Workflow) -> None:
    def turned(value: object) -> object:
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    text = yaml.safe_dump(turned(CONFIG), sort_keys=False)
    assert text != yaml.safe_dump(CONFIG, sort_keys=False)
    (workflow.folder / "workflow_config.yaml").write_text(text, encoding="utf-8")


def flip_a_bit(pattern: str) -> Callable[[Workflow], None]:
    """Alter one byte, size and modification time kept, as `rsync -a` of other content or a failing disk would."""

    def change(workflow: Workflow) -> None:
        file = next(path for path in sorted(workflow.folder.glob(pattern)) if path.is_file())
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        stat = file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return change


def delete(pattern: str) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        next(path for path in sorted(workflow.folder.glob(pattern)) if path.is_file()).unlink()

    return change


def touch_everything(workflow: Workflow) -> None:
    for path in sorted(workflow.folder.rglob("*"), reverse=True):
        if ".snakemake" not in path.parts:
            path.touch()
    # What others are made of is now the newest, whatever the clock's ticks.
    for path in [*workflow.folder.glob("results/scenes/**/*"), *workflow.folder.glob("results/organisms/**/*")]:
        os.utime(path, (time.time() + 60,) * 2)


def fresh_clone_beside_the_results(workflow: Workflow) -> None:
    for part in ("rules", "src", "profiles", "envs"):
        shutil.rmtree(workflow.folder / part)
        shutil.copytree(REPOSITORY / part, workflow.folder / part, copy_function=shutil.copy)
    shutil.copy(REPOSITORY / "Snakefile", workflow.folder / "Snakefile")


def results_without_snakemakes_records(workflow: Workflow) -> None:
    shutil.rmtree(workflow.folder / ".snakemake")


def both(*changes: Callable[[Workflow], None]) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        for each in changes:
            each(workflow)

    return change


def pretend_version(package: str, version: str) -> Callable[[Workflow], dict[str, str]]:
    """An environment in which ``package`` says that it has another version."""

    def environment(workflow: Workflow) -> dict[str, str]:
        site = workflow.folder / "other-site"
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
        return {"PYTHONPATH": str(site)}

    return environment


def second_dataset(workflow: Workflow) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["datasets"]["shapes"] = {"kind": "shapes"}
    config["models"]["folder"]["datasets"].append("shapes")
    workflow.write_config(config)


def with_old_times(change: Callable[[Workflow], None], path: str) -> Callable[[Workflow], None]:
    """As `rsync -a` brings a file: other content, and a time that is older than every result."""

    def changed(workflow: Workflow) -> None:
        change(workflow)
        os.utime(workflow.folder / path, (1_000_000_000, 1_000_000_000))

    return changed


def recorded_by(pattern: str, **changes: object) -> Callable[[Workflow], None]:
    """Records as another release would have written them."""

    def change(workflow: Workflow) -> None:
        records = list(workflow.folder.glob(f"results/**/{pattern}"))
        assert records
        for path in records:
            record = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**record, **changes}), encoding="utf-8")

    return change


def unfinished_marker(workflow: Workflow) -> None:
    """What a job that was killed leaves behind: an output without a record."""
    (workflow.folder / "results/folder/squares/.conflict.parquet.provenance.json").unlink()


SRC = "src/vlm_spatial"
CASES = [
    Case("nothing", nothing, NOTHING),
    # code
    Case("comment in tokens.py", append(f"{SRC}/tokens.py", "\n# a remark\n"), NOTHING),
    Case("docstring of tokens.py", new_docstring(f"{SRC}/tokens.py"), NOTHING),
    Case("constant in tokens.py", edit(f"{SRC}/tokens.py", "_TIE = 1e-9", "_TIE = 2e-9"), EVERYTHING),
    Case("code of the Gemma-3 adapter", append(f"{SRC}/models/families/gemma3.py", "\nNEW = 1\n"), EVERYTHING - SCENES),
    Case("code of the conflict experiment", append(f"{SRC}/stages/conflict.py", "\nNEW = 1\n"), of_both("conflict") | FIGURES),
    Case("code of the erasure", append(f"{SRC}/interventions/erasure.py", "\nNEW = 1\n"), of_both("ablation") | FIGURES),
    Case("code of the probes", append(f"{SRC}/probes/fitting.py", "\nNEW = 1\n"), BOTH_PROBES_AND_AFTER),
    Case("code of the model of the probes' section", append(f"{SRC}/config/probes.py", "\nNEW = 1\n"), BOTH_PROBES_AND_AFTER),
    Case("code of the model of the whole configuration", append(f"{SRC}/config/workflow.py", "\nNEW = 1\n"), NOTHING),
    Case("code of the scenes stage", append(f"{SRC}/stages/scenes.py", "\nNEW = 1\n"), EVERYTHING - ORGANISM),
    Case(
        "code with old times",
        with_old_times(append(f"{SRC}/stages/conflict.py", "\nNEW = 1\n"), f"{SRC}/stages/conflict.py"),
        of_both("conflict") | FIGURES,
    ),
    Case("code of a stage that is off", append(f"{SRC}/stages/routes.py", "\nNEW = 1\n"), NOTHING),
    Case("code of a figure", append(f"{SRC}/figures/accuracy.py", "\nNEW = 1\n"), FIGURES),
    Case("code of the claims", append(f"{SRC}/measures/claims.py", "\nNEW = 1\n"), of_both("measures") | FIGURES),
    Case("code of a command", append(f"{SRC}/commands/inspect.py", "\nNEW = 1\n"), NOTHING),
    Case("version of this package", edit(f"{SRC}/__init__.py", '"0.1.0"', '"0.2.0"'), NOTHING),
    Case("shell command of the rules", edit("rules/bases.smk", "tee {log:q}", "tee -i {log:q}"), EVERYTHING),
    Case("an entry of the registry", append(f"{SRC}/stages/registry.py", "\nNEW = 1\n"), FIGURES),
    # configuration
    Case("layout and comments of the configuration", other_layout_of_the_config, NOTHING),
    Case("order of the configuration's keys", other_order_of_the_config, NOTHING),
    Case("seed", configure("seed", 1), EVERYTHING),
    Case("results: another folder", configure("results", "elsewhere"), EVERYTHING),
    Case("datasets: pairs", configure("datasets.squares.pairs.vision", 3), EVERYTHING - ORGANISM),
    Case("datasets: difficulty", configure("datasets.squares.difficulty", {"noise": 0.1}), EVERYTHING),
    Case("organisms: steps", configure("organisms.small.steps", 2), ORGANISM | of("small") | FIGURES),
    Case("models: dtype", configure("models.folder.dtype", "bfloat16"), of("folder") | FIGURES),
    Case("models: revision", configure("models.folder.revision", "0" * 40), of("folder") | FIGURES),
    Case("models: mechanism", configure("models.folder.mechanism", "vision"), FIGURES),
    Case("behaviour: batch", configure("behaviour", {"batch": 16}), of_both("behaviour", "amplification") | FIGURES),
    Case("activations: shard_scenes", configure("activations", {"shard_scenes": 8}), of_both("activations") | BOTH_PROBES_AND_AFTER),
    Case("probes: strip_map_scenes", configure("probes.strip_map_scenes", 3), BOTH_PROBES_AND_AFTER),
    Case("interchange: token_sets", configure("interchange.token_sets", ["object"]), of_both("interchange", "ablation") | FIGURES),
    Case("conflict: token_sets", configure("conflict", {"token_sets": ["object"]}), of_both("conflict") | FIGURES),
    Case("positions: enabled", configure("positions", {"enabled": True}), of_both("positions") | FIGURES),
    Case("readout: enabled", configure("readout", {"enabled": True}), of_both("readout") | FIGURES),
    Case("routes: enabled", configure("routes", {"enabled": True}), of_both("routes") | FIGURES),
    Case("ablation: methods", configure("ablation.methods", ["erasure"]), of_both("ablation") | FIGURES),
    Case("amplification: random_draws", configure("amplification.random_draws", 3), of_both("amplification") | FIGURES),
    Case("figures: title", configure("figures.title", "Where?"), FIGURES),
    Case("figures: palette", configure("figures.palette", "viridis"), FIGURES),
    Case(
        "a dataset more", second_dataset, {"scenes:shapes"} | of("folder", dataset="shapes") | ACROSS | of("folder", "measures") | FIGURES
    ),
    Case("a model more", configure("models.again", {"checkpoint": "checkpoint"}), of("again") | FIGURES),
    Case("a model less", configure("models.small", None), FIGURES),
    # how it is run
    Case("one core", nothing, NOTHING, ("--cores", "1")),
    Case("other resources", nothing, NOTHING, ("--resources", "gpu=3", "mem_mb=100000", "--set-resources", "probes:mem_mb=9")),
    Case("the SLURM profile", nothing, NOTHING, ("--workflow-profile", "profiles/slurm")),
    Case("memory in a rule", edit("rules/common.smk", "6000 * attempt", "7000 * attempt"), NOTHING),
    Case("times of all files", touch_everything, NOTHING),
    Case("fresh clone beside the results", fresh_clone_beside_the_results, NOTHING),
    Case("results without Snakemake's records", results_without_snakemakes_records, NOTHING),
    Case(
        "results of older code, without Snakemake's records",
        both(results_without_snakemakes_records, append(f"{SRC}/stages/conflict.py", "\nNEW = 1\n")),
        of_both("conflict") | FIGURES,
    ),
    Case("results of a release with another number", recorded_by(".*.provenance.json", version="0.0.9"), NOTHING),
    Case(
        "results of an older release",
        recorded_by(".conflict*.json", version="0.0.9", modules={}),
        of_both("conflict") | FIGURES,
    ),
    # packages and files from outside
    Case("version of transformers", nothing, ORGANISM | MODELS, environment=pretend_version("transformers", "99.0")),
    Case("version of altair", nothing, FIGURES, environment=pretend_version("altair", "99.0")),
    Case("version of tqdm", nothing, NOTHING, environment=pretend_version("tqdm", "99.0")),
    Case("weights of a checkpoint folder, old times", flip_a_bit("checkpoint/model.safetensors"), of("folder") | FIGURES),
    # results
    Case("bit of an image", flip_a_bit("results/scenes/squares/images/*.png"), EVERYTHING - ORGANISM),
    Case("deleted image", delete("results/scenes/squares/images/*.png"), EVERYTHING - ORGANISM),
    Case("weights of an organism", flip_a_bit("results/organisms/small/model.safetensors"), ORGANISM | of("small") | FIGURES),
    Case("bit of a table", flip_a_bit("results/folder/squares/behaviour.parquet"), of("folder", "behaviour", "amplification") | FIGURES),
    Case(
        "bit of a chunk",
        flip_a_bit("results/folder/squares/activations.zarr/connector/c/**/*"),
        of("folder", "activations") | PROBES_AND_AFTER,
    ),
    Case(
        "deleted chunk", delete("results/folder/squares/activations.zarr/connector/c/**/*"), of("folder", "activations") | PROBES_AND_AFTER
    ),
    Case("bit of a manifest", flip_a_bit("results/folder/squares/activations.json"), of("folder", "activations") | PROBES_AND_AFTER),
    Case("deleted manifest", delete("results/folder/squares/activations.json"), of("folder", "activations") | PROBES_AND_AFTER),
    Case("deleted table", delete("results/folder/squares/conflict.parquet"), of("folder", "conflict") | FIGURES),
    Case("bit of the probes", flip_a_bit("results/folder/squares/probes.safetensors"), PROBES_AND_AFTER),
    Case("edited report", append("results/report.html", "<!-- -->"), FIGURES),
    Case("deleted figure", delete("results/figures/*/*.svg"), FIGURES),
    Case("a table without its record", unfinished_marker, of("folder", "conflict") | FIGURES),
]


@pytest.fixture(scope="session")
def finished(finished_workflow: Workflow) -> Workflow:
    return finished_workflow


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_the_jobs_that_a_change_needs(case: Case, finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copy(tmp_path / "run")
    case.change(workflow)
    assert workflow.jobs(*case.arguments, environment=case.environment(workflow)) == case.jobs


OFF = tuple(name for name in of_scope("model and dataset", optional=True) if name not in ANALYSES)
"""Stages that a setting turns on."""


def test_stages_that_are_off_run_through_the_workflow_once_they_are_on(finished: Workflow, tmp_path: Path) -> None:
    """Of a model that answers right, so that there is something to draw: figures, section of the report; and a change of one alone."""
    workflow = finished.copy(tmp_path / "run")
    known = {"checkpoint": str(REPOSITORY / "organisms" / "natural-gemma3"), "datasets": ["squares"]}
    workflow.write_config(CONFIG | {"models": {"natural": known}} | {stage: {"enabled": True, "pairs": 1} for stage in OFF})
    assert workflow.jobs() == of("natural", *ANALYSES, *OFF) | FIGURES
    workflow.run()
    assert workflow.jobs() == NOTHING
    drawn = {*GROUPS["How does the language model fetch the answer?"], "positions", "positions_by_layer"}
    # One pair cannot be parted in halves, on which heads are ranked and counted.
    for name in drawn - {"heads_together"}:
        assert (workflow.folder / f"results/figures/natural/{name}.svg").is_file()
    page = (workflow.folder / "results/report.html").read_text(encoding="utf-8")
    assert "How does the language model fetch the answer?" in page
    append(f"{SRC}/stages/routes.py", "\nNEW = 1\n")(workflow)
    assert workflow.jobs() == of("natural", "routes") | FIGURES


def test_the_documentation_has_a_line_for_each_case() -> None:
    table = re.findall(
        r"^\| ([^|]+?) \| ([^|]+?) \|$", (REPOSITORY / "docs" / "caching.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert [name for name, _ in table if name not in ("change", "---")] == [case.name for case in CASES]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (configure("probes.strip_map_scenes", 3), "setting stage.strip_map_scenes: 2 → 3"),
        (append(f"{SRC}/stages/conflict.py", "\nNEW = 1\n"), "code vlm_spatial.stages.conflict changed"),
        (flip_a_bit("checkpoint/model.safetensors"), "file checkpoint/model.safetensors changed"),
        (flip_a_bit("results/folder/squares/behaviour.parquet"), "results/folder/squares/behaviour.parquet was altered after it was made"),
        (delete("results/scenes/squares/images/*.png"), ".png is missing"),
    ],
)
def test_why_names_what_changed(change: Callable[[Workflow], None], says: str, finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copy(tmp_path / "run")
    change(workflow)
    command = [sys.executable, "-c", "from vlm_spatial.cli import app; app()", "why"]
    told = subprocess.run(
        command,
        cwd=workflow.folder,
        env=workflow.environment({"PYTHONPATH": str(workflow.folder / "src")}),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert says in told.stdout
    assert "again: " in workflow.snakemake("--dry-run").stderr
