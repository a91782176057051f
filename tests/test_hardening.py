"""What the workflow relies on, and what it must never do: unchecked inputs, pickles, paths that leave their folder."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_stores import bfloat16_values, description, written
from vlm_spatial.activations.store import Store
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.stages.stage import run_stage
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.provenance import MadeBy, write_record

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
MADE_BY = MadeBy(stage="scenes")
SEED = 9


# --- every byte that a stage consumes is checked before it is used ---------------------------------------------------------


def recorded(kind: str, folder: Path) -> Path:
    """A recorded result of each kind that a stage hands to another."""
    generator = np.random.default_rng(SEED)
    if kind in ("scenes", "organism"):
        result = folder / kind
        names = ("images/a.png", "scenes.parquet", "pairs.parquet") if kind == "scenes" else ("model.safetensors", "config.json")
        for name in names:
            (result / name).parent.mkdir(parents=True, exist_ok=True)
            (result / name).write_bytes(generator.bytes(300))
    else:
        result = folder / kind
        result.write_bytes(generator.bytes(300))
    write_record(result, MADE_BY)
    return result


KINDS = ("scenes", "organism", "probes.safetensors", "behaviour.parquet", "activations.json", "boxes.json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_does_not_start_on_an_altered_input(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = recorded(kind, tmp_path)
    generator = np.random.default_rng(SEED)
    given_as = ["--settings", repr({"model": {"checkpoint": str(result)}})] if kind == "organism" else ["--settings", "{}"]
    given_as += [] if kind == "organism" else ["--input", f"one={result}"]
    for file in sorted(path for path in (result, *result.rglob("*")) if path.is_file()):
        for position in generator.integers(0, 300, 5):
            whole = file.read_bytes()
            altered = bytearray(whole)
            altered[position] ^= 1 << int(generator.integers(8))
            file.write_bytes(altered)
            with pytest.raises(SystemExit):
                run_stage("conflict", lambda _: pytest.fail("started"), given_as)
            assert f"{file} was altered after it was made; run snakemake again" in capsys.readouterr().err, (file, position)
            file.write_bytes(whole)
    started: list[bool] = []
    run_stage("conflict", lambda _: started.append(True), given_as)
    assert started == [True]


def test_no_altered_byte_of_a_store_is_read(tmp_path: Path) -> None:
    """Every file of a store, metadata and chunks, at seeded places: opening or reading refuses."""
    described = description(6, shard_scenes=3)
    values = bfloat16_values(described)
    store = written(tmp_path, described, values)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    generator = np.random.default_rng(SEED)
    assert len(files) > 10

    def read_all() -> None:
        opened = Store.open(store, store.with_name("activations.json"))
        for site in opened.sites:
            opened.read(site, list(opened.scenes["scene_id"]))

    read_all()
    for file in files:
        whole = file.read_bytes()
        altered = bytearray(whole)
        position = int(generator.integers(len(whole)))
        altered[position] ^= 1 << int(generator.integers(8))
        file.write_bytes(altered)
        print(f"seed {SEED}: byte {position} of {file}")
        with pytest.raises(UserError, match="damaged"):
            read_all()
        file.write_bytes(whole)
    read_all()


# --- no pickle, no foreign code ---------------------------------------------------------------------------------------------

FORBIDDEN = (
    r"\b(import|from) (pickle|joblib|dill|shelve|marshal|cloudpickle)\b",
    r"\btorch\.(save|load)\(",
    r"\bnp\.(save|savez|load)\(",
    "allow_pickle=True",
    "trust_remote_code=True",
)


def test_no_code_path_reads_or_writes_pickles_or_runs_a_checkpoints_code() -> None:
    for path in [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "rules").glob("*.smk"), REPOSITORY / "Snakefile"]:
        code = "\n".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        for word in FORBIDDEN:
            assert not re.search(word, code), f"{path}: {word}"


@pytest.mark.slow
def test_no_result_is_a_pickle(finished_workflow: object) -> None:
    """Neither by name nor by content: a pickle of protocol 2 or later starts with byte 0x80 and its protocol."""
    folder: Path = finished_workflow.folder / "results"  # type: ignore[attr-defined]
    texts = {".json", ".html", ".svg", ".csv", ".md", ".tsv", ".log", ".provenance.json", ".jinja", ".lock"}
    allowed = texts | {".png", ".parquet", ".safetensors", ".pdf", ""}
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.suffix in allowed or path.name.endswith((".provenance.json", ".lock")), path
            head = path.read_bytes()[:2]
            is_chunk = "activations.zarr" in path.parts and "c" in path.parts
            assert is_chunk or not (head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")), path


# --- names and paths -------------------------------------------------------------------------------------------------------


@given(name=st.text(alphabet="./\\~$ ab0-_\n\0%{}*", min_size=1, max_size=8), results=st.text(alphabet="./~ ab\n", min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_what_is_written_stays_below_the_results_folder(name: str, results: str) -> None:
    config = {
        "results": results,
        "datasets": {name: {"kind": "squares"}},
        "organisms": {name: {"datasets": [name]}},
        "models": {name: {"organism": name, "datasets": [name]}},
    }
    try:
        plan = Plan(parse_config(config))
    except UserError:
        return
    folder = Path(plan.config.results)
    assert ".." not in folder.parts
    for path in (folder / name / name, folder / "scenes" / name, Path(plan.checkpoint(name))):
        inside = path.relative_to(folder)
        assert ".." not in inside.parts
        assert len(inside.parts) == 2


@pytest.mark.parametrize("name", ["scenes", "boxes", "organisms", "figures", "logs", "benchmarks", "report.html", "findings.json"])
def test_no_model_is_called_like_a_part_of_the_results(name: str) -> None:
    config = {
        "datasets": {"d": {"kind": "squares"}},
        "models": {name: {"organism": "o", "datasets": ["d"]}},
        "organisms": {"o": {"datasets": ["d"]}},
    }
    with pytest.raises(UserError, match=rf"models\.{re.escape(name)}: .*choose another"):
        parse_config(config)
