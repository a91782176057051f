"""Results of an earlier run, damaged or of another version, and what a user is told: by the workflow, a stage, or a command.

``finish`` makes results that are whole, as far as planning looks; nothing is computed. Stores, probes and findings are real.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from activation_stores import bfloat16_values, description, written
from damaged_files import Harm, both, cut_short, edited, gone, holds
from vlm_spatial import __version__
from vlm_spatial.config.reading import parse_config
from vlm_spatial.files import write_json
from vlm_spatial.measures.claims import CLAIMS
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.saved import save_probes
from vlm_spatial.stages import registry
from vlm_spatial.workflow.code_identity import stage_identity
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.provenance import MadeBy, read_record, record_path, write_record

CONFIG = {
    "datasets": {"squares": {"kind": "squares"}},
    "organisms": {"small": {}},
    "models": {"mine": {"checkpoint": "checkpoint"}, "small": {"organism": "small"}},
}
MINE = "results/mine/squares"


def finish(folder: Path, checkpoint: Path) -> None:
    """A configuration and everything that it asks for, in an empty folder; called there, as what is recorded are relative paths."""
    shutil.copytree(checkpoint, folder / "checkpoint")
    (folder / "workflow_config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    plan = Plan(parse_config(CONFIG))
    results = folder / "results"
    (results / "scenes/squares/images").mkdir(parents=True)
    for name in ("images/main-00000.png", "scenes.parquet", "questions.parquet"):
        (results / "scenes/squares" / name).write_bytes(name.encode() * 20)
    record(plan, "scenes", ("squares",), results / "scenes/squares")
    shutil.copytree(checkpoint, results / "organisms/small")
    record(plan, "organism", ("small",), results / "organisms/small")
    described = description(6, shard_scenes=3)
    for model in CONFIG["models"]:
        made = results / model / "squares"
        made.mkdir(parents=True)
        written(made, described, bfloat16_values(described))
        for name in ("probes.safetensors", "probes_decorrelated.safetensors"):
            save_probes({("horizontal", "connector"): probe()}, {"identity": dict(described.model)}, made / name)
        for stage in registry.of_scope("model and dataset"):
            for result, names in plan.results_of(stage, model=model):
                if result.suffix == ".parquet":
                    result.write_bytes(f"{model:>9}{result.name}".encode() * 20)
                record(plan, stage, names, result)
    (results / "figures/mine").mkdir(parents=True)
    (results / "figures/mine/accuracy.svg").write_text("<svg/>", encoding="utf-8")
    (results / "report.html").write_text("<html/>", encoding="utf-8")
    found = {"dataset": "squares", "claim": CLAIMS[0].name, "verdict": "supported", "estimate": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    write_json([found | {"model": model} for model in CONFIG["models"]], results / "findings.json")
    for name in ("figures", "report.html", "findings.json"):
        record(plan, "figures", (), results / name)


def record(plan: Plan, stage: str, names: tuple[str, ...], result: Path) -> None:
    settings, identity = plan.settings(stage, names), stage_identity(stage)
    made_by = MadeBy(
        stage=stage,
        version=__version__,
        settings=settings,
        modules=identity.modules,
        packages=identity.packages,
        content=plan.content(settings),
        inputs={},
    )
    write_record(result, made_by)


def probe() -> Probe:
    zeros, ones, weight = np.zeros(7, np.float32), np.ones(7, np.float32), np.eye(3, 7, dtype=np.float32)
    return Probe(weight, np.zeros(3, np.float32), zeros, ones, weight, 1.0)


# --- what happens to them ------------------------------------------------------------------------------------------------


def bit_flipped(path: str) -> Harm:
    """In the middle of a file, or of the first one that the pattern finds."""

    def harm(folder: Path) -> None:
        file = next(found for found in sorted(folder.glob(path)) if found.is_file())
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    return harm


def record_edited(path: str, change: Callable[[dict], object]) -> Harm:
    return edited(str(record_path(Path(path))), change)  # type: ignore[arg-type]


def probes_without_strengths(folder: Path) -> None:
    """As a version would write them that has no strengths, without a record."""
    path = folder / MINE / "probes.safetensors"
    with safe_open(path, framework="numpy") as stream:
        metadata = json.loads(stream.metadata()["probes"])
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    del metadata["strengths"]
    save_file(tensors, path, metadata={"probes": json.dumps(metadata)})
    record_path(path).unlink()


def other_safetensors(folder: Path) -> None:
    path = folder / MINE / "probes.safetensors"
    save_file({"x": np.zeros(3)}, path)
    record_path(path).unlink()


def swapped(one: str, other: str, *, records: bool) -> Harm:
    """Two results of one size, under each other's name and time; ``records``: with what is known of them."""

    def exchange(a: Path, b: Path) -> None:
        aside = a.with_name("aside")
        a.rename(aside)
        b.rename(a)
        aside.rename(b)

    def harm(folder: Path) -> None:
        a, b = folder / one, folder / other
        assert a.stat().st_size == b.stat().st_size
        assert a.read_bytes() != b.read_bytes()
        os.utime(b, ns=(a.stat().st_atime_ns, a.stat().st_mtime_ns))
        exchange(a, b)
        if records:
            exchange(record_path(a), record_path(b))

    return harm


def restored(path: str, change: Callable[[dict], object]) -> Harm:
    """An old backup over a new result: other bytes of the same size, the record that they had, the times of then."""

    def harm(folder: Path) -> None:
        result = folder / path
        result.write_bytes(result.read_bytes()[::-1])
        os.utime(result, (1_000_000_000, 1_000_000_000))
        record = read_record(result)
        assert record is not None
        write_record(result, MadeBy(**record.model_dump(exclude={"files", "result"})))
        said = json.loads(record_path(result).read_text(encoding="utf-8"))
        change(said)
        said["result"] = path
        record_path(result).write_text(json.dumps(said), encoding="utf-8")

    return harm


def replaced(path: str, make: Callable[[Path], object]) -> Harm:
    def harm(folder: Path) -> None:
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        make(target)

    return harm


OLDER = r"\nnote: results from another version .made by vlm_spatial 0\.0\.9, this is .* to keep the old results, set another "
CONFLICT = f"{MINE}/conflict.parquet"
RECORD = r"\.conflict\.parquet\.provenance\.json"
# Name, harm, what the dry-run says before its list of jobs, and one of those.
STALE: list[tuple[str, Harm, str, str]] = [
    ("a table altered", bit_flipped(f"{MINE}/behaviour.parquet"), r"behaviour\.parquet was altered after it was made", "behaviour"),
    ("a table cut short", cut_short(CONFLICT), rf"{CONFLICT} was altered after it was made", "conflict"),
    (
        "a record missing",
        gone(f"{MINE}/.conflict.parquet.provenance.json"),
        rf"{CONFLICT}: no {RECORD}: not finished",
        "conflict",
    ),
    (
        "a record cut short",
        cut_short(f"{MINE}/.conflict.parquet.provenance.json"),
        rf"{CONFLICT}: {RECORD} is damaged",
        "conflict",
    ),
    (
        "a record of another version",
        record_edited(CONFLICT, lambda record: record.pop("result")),
        rf"{CONFLICT}: {RECORD} is damaged or of another version",
        "conflict",
    ),
    (
        "results of an older version",
        record_edited(CONFLICT, lambda record: record.update(version="0.0.9", modules=record["modules"] | {"vlm_spatial.gone": "0"})),
        rf"{CONFLICT}: code vlm_spatial\.gone is gone" + OLDER,
        "conflict",
    ),
    (
        "results of a newer version",
        record_edited(CONFLICT, lambda record: record.update(version="99.0", settings={})),
        rf"{CONFLICT}: setting .*\nnote: results from another version .made by vlm_spatial 99\.0, this is ",
        "conflict",
    ),
    (
        "results of a stage that was renamed",
        record_edited(CONFLICT, lambda record: record.update(stage="dominance", version="0.0.9")),
        rf"{CONFLICT}: made by stage 'dominance', which this version does not have" + OLDER,
        "conflict",
    ),
    (
        "a chunk altered",
        bit_flipped(f"{MINE}/activations.zarr/connector/c/**/*"),
        "connector/c/.* was altered after it was made",
        "activations",
    ),
    ("a chunk missing", gone(f"{MINE}/activations.zarr/connector/c/0/0/0"), "connector/c/0/0/0 is missing", "activations"),
    (
        "a manifest of another version",
        edited(f"{MINE}/activations.json", lambda m: m.update(format=99)),
        "activations.json was altered",
        "probes",
    ),
    ("probes altered", bit_flipped(f"{MINE}/probes.safetensors"), r"probes\.safetensors was altered after it was made", "amplification"),
    ("an image missing", gone("results/scenes/squares/images/main-00000.png"), r"main-00000\.png is missing", "scenes"),
    ("an image altered", bit_flipped("results/scenes/squares/images/*.png"), r"main-00000\.png was altered after it was made", "behaviour"),
    (
        "weights of an organism altered",
        bit_flipped("results/organisms/small/model.safetensors"),
        "model.safetensors was altered",
        "organism",
    ),
    (
        "the report edited",
        holds("results/report.html", "<html>mine</html>"),
        r"results/report\.html was altered after it was made",
        "figures",
    ),
]

SMALLS = CONFLICT.replace("mine", "small")
STALE += [
    ("two results swapped", swapped(CONFLICT, SMALLS, records=False), f"{CONFLICT} was altered after it was made", "conflict"),
    ("two results swapped with their records", swapped(CONFLICT, SMALLS, records=True), f"{CONFLICT}: made as {SMALLS}", "conflict"),
    (
        "a backup of other settings restored",
        restored(CONFLICT, lambda record: record["settings"].update(seed=7)),
        f"{CONFLICT}: setting seed: 7 → 0",
        "conflict",
    ),
    (
        "a backup of other packages restored",
        restored(CONFLICT, lambda record: record["packages"].update(torch="1.0")),
        f"{CONFLICT}: package torch: '1.0' → ",
        "conflict",
    ),
    (
        "a backup of other weights restored",
        restored(CONFLICT, lambda record: record["content"].update({"checkpoint/model.safetensors": "0"})),
        f"{CONFLICT}: file checkpoint/model.safetensors changed",
        "conflict",
    ),
    (
        "a backup that was made of other scenes restored",
        restored(CONFLICT, lambda record: record["inputs"].update({"results/scenes/squares": "0123456789abcdef"})),
        f"{CONFLICT}: input results/scenes/squares changed",
        "conflict",
    ),
    ("a backup of the bytes alone restored", bit_flipped(CONFLICT), f"{CONFLICT} was altered after it was made", "conflict"),
    (
        "the record of another result",
        lambda folder: shutil.copy(record_path(folder / MINE / "interchange.parquet"), record_path(folder / CONFLICT)),
        f"{CONFLICT}: made as {MINE}/interchange.parquet",
        "conflict",
    ),
    ("a record of no file", record_edited(CONFLICT, lambda record: record.update(files={})), rf"{RECORD} names no file", "conflict"),
    ("an empty file", replaced(CONFLICT, Path.touch), f"{CONFLICT} was altered after it was made", "conflict"),
    (
        "a folder in a table's place",
        replaced(CONFLICT, Path.mkdir),
        f"{CONFLICT} (is not the file that|was altered after it) was made",
        "conflict",
    ),
    (
        "a file in a store's place",
        replaced(f"{MINE}/activations.zarr", Path.touch),
        "activations.zarr/.* is not the file that was made",
        "activations",
    ),
    (
        "a link to another model's result",
        replaced(CONFLICT, lambda target: target.symlink_to(target.parents[2] / "small/squares/conflict.parquet")),
        f"{CONFLICT} was altered after it was made",
        "conflict",
    ),
    (
        "results of the older layout",
        lambda folder: record_path(folder / CONFLICT).rename(folder / MINE / ".conflict.parquet.seal"),
        rf"{CONFLICT}: of an older layout, whose records were seals\n"
        r"note: results: 1 results of an older layout are made again, the other \d+ are reused ",
        "conflict",
    ),
]

STORE, MANIFEST, PROBES = (f"{MINE}/{name}" for name in ("activations.zarr", "activations.json", "probes.safetensors"))
FINDINGS = "results/findings.json"
INSPECT = ("vlm-spatial", "inspect", STORE)
COMPARE = ("vlm-spatial", "compare", "mine", "small")
AMPLIFY = ("vlm-spatial", "amplify", "--model", "checkpoint", "--probe", PROBES, "--alpha", "2")
PROBES_STAGE = (
    *("python", "-m", "vlm_spatial.stages.probes", "--settings", "{'model': {'checkpoint': 'checkpoint'}, 'seed': 0}"),
    *("--input", "scenes=results/scenes/squares", "--input", f"store={STORE}", "--input", f"manifest={MANIFEST}"),
    *("--output", "table=new/probes.parquet"),
)
UNRECORDED = gone(f"{MINE}/.activations.json.provenance.json")
# Name, harm, command, what its one line must say.
REFUSED: list[tuple[str, Harm, tuple[str, ...], str]] = [
    ("inspect: no store", gone(STORE), INSPECT, f"{STORE}: no such store; run snakemake to make it"),
    ("inspect: no manifest", gone(MANIFEST), INSPECT, f"{MANIFEST}: no such manifest; a store without one is not whole"),
    ("inspect: manifest broken", cut_short(MANIFEST), INSPECT, f"{MANIFEST}: line .*: is not JSON .*; delete it and run snakemake again"),
    (
        "inspect: manifest of another version",
        edited(MANIFEST, lambda m: m.update(format=99)),
        INSPECT,
        "format 99, this version reads 1, 2, 3; run snakemake",
    ),
    (
        "inspect: manifest without a key",
        edited(MANIFEST, lambda m: m.pop("pooling")),
        INSPECT,
        "activations.json: pooling: Field req",
    ),
    (
        "inspect: chunk cut short",
        cut_short(f"{STORE}/connector/c/0/0/0", 3),
        INSPECT,
        r"connector/c/0/0/0: damaged .\d+ bytes, written were",
    ),
    ("inspect: chunk missing", gone(f"{STORE}/connector/c/0/0/0"), INSPECT, "connector/c/0/0/0: damaged .missing.; delete .* and run snak"),
    ("inspect: metadata altered", bit_flipped(f"{STORE}/zarr.json"), INSPECT, "zarr.json: damaged .SHA-256 differs"),
    (
        "inspect: chunk altered",
        bit_flipped(f"{STORE}/connector/c/0/0/0"),
        (*INSPECT, "--verify"),
        "connector/c/0/0/0: damaged .SHA-256 differs from the record's",
    ),
    ("compare: no findings", gone(FINDINGS), COMPARE, f"{FINDINGS}: no such file; run snakemake to make it"),
    ("compare: findings cut short", cut_short(FINDINGS), COMPARE, f"{FINDINGS}: line .*: is not JSON"),
    (
        "compare: findings of another version",
        edited(FINDINGS, lambda found: [record.pop("verdict") for record in found]),
        COMPARE,
        f"{FINDINGS}: not findings of this version, a list of records with claim, dataset",
    ),
    (
        "compare: claims of another version",
        edited(FINDINGS, lambda found: [record.update(claim="halo") for record in found]),
        COMPARE,
        "claim 'halo': not one of this version .*; make them again",
    ),
    ("compare: findings of something else", holds(FINDINGS, "{}"), COMPARE, "not findings of this version"),
    (
        "why: no such result",
        gone(CONFLICT),
        ("vlm-spatial", "why", CONFLICT),
        f"{CONFLICT}: no such result of workflow_config.yaml; there are",
    ),
    ("amplify: no probes", gone(PROBES), AMPLIFY, f"{PROBES}: no such file; run snakemake to make it"),
    (
        "amplify: probes cut short",
        cut_short(PROBES),
        AMPLIFY,
        f"{PROBES} was altered after it was made; run snakemake again",
    ),
    ("amplify: probes altered", bit_flipped(PROBES), AMPLIFY, f"{PROBES} was altered after it was made; run snakemake again"),
    (
        "amplify: other safetensors",
        other_safetensors,
        AMPLIFY,
        "safetensors without this workflow's metadata; give the file that the probes",
    ),
    (
        "amplify: probes of another version",
        probes_without_strengths,
        AMPLIFY,
        f"{PROBES}: probes of another version, without strengths; delete",
    ),
    (
        "probes: scenes altered",
        bit_flipped("results/scenes/squares/images/*.png"),
        PROBES_STAGE,
        "main-00000.png was altered after it was made",
    ),
    (
        "probes: scenes missing",
        both(gone("results/scenes"), UNRECORDED),
        PROBES_STAGE,
        "results/scenes/squares: no such dataset folder; run the",
    ),
    (
        "probes: table broken",
        gone("results/scenes/.squares.provenance.json"),
        PROBES_STAGE,
        "scenes.parquet: is not a whole parquet table .*; delete it",
    ),
    ("probes: manifest altered", bit_flipped(MANIFEST), PROBES_STAGE, f"{MANIFEST} was altered after it was made; run snakemake again"),
    ("probes: settings cut short", UNRECORDED, (*PROBES_STAGE, "--settings", "{'a': "), "--settings: not a Python literal"),
    ("probes: settings of another kind", UNRECORDED, (*PROBES_STAGE, "--settings", "[1]"), "--settings: must be a dict, found list"),
    ("probes: an input without a name", UNRECORDED, (*PROBES_STAGE, "--input", "results"), "'results': must be NAME=PATH"),
]
