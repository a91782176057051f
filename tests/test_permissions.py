"""Results follow the umask, whatever writes them: a group that shares a folder can read, and write where it may, all of it."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_workflow import Workflow

pytestmark = pytest.mark.workflow

WRITES = """
import os, sys
os.umask(int(sys.argv[1], 8))
sys.path.insert(0, sys.argv[3])
from pathlib import Path
import numpy as np, polars as pl
from safetensors.numpy import save_file
from activation_stores import bfloat16_values, description, written
from damaged_results import probe
from vlm_spatial.files import write_json, write_parquet, written_then_renamed
from vlm_spatial.probes.saved import save_probes
from vlm_spatial.workflow.file_cache import FileCache
from vlm_spatial.workflow.lock import WorkflowLock
from vlm_spatial.workflow.provenance import MadeBy, write_record
folder = Path(sys.argv[2])
described = description(6, shard_scenes=3)
written(folder, described, bfloat16_values(described))
save_probes({("horizontal", "connector"): probe()}, {}, folder / "probes.safetensors")
with written_then_renamed(folder / "organism") as temporary:
    temporary.mkdir()
    save_file({"x": np.zeros(3)}, temporary / "model.safetensors")
write_json([1], folder / "findings.json")
write_parquet(pl.DataFrame({"a": [1]}), folder / "table.parquet")
write_record(folder / "table.parquet", MadeBy(stage="s"))
cache = FileCache(folder / "cache.json")
cache.of("x", [], lambda: 1)
cache.save()
WorkflowLock(folder).take(print)
"""


def modes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_every_writer_follows_the_umask(umask: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES, oct(umask), str(tmp_path / "results"), str(Path(__file__).parent)]
    subprocess.run(command, check=True)
    found = modes(tmp_path / "results")
    assert len(found) > 20
    assert {"probes.safetensors", "organism/model.safetensors", ".workflow.lock", ".table.parquet.provenance.json"} <= found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode != 0o666 & ~umask} == {}


@pytest.mark.slow
def test_every_result_of_a_run_follows_the_umask(finished_workflow: Workflow) -> None:
    (finished_workflow.folder / "new").touch()
    usual = modes(finished_workflow.folder)["new"]
    (finished_workflow.folder / "new").unlink()
    found = modes(finished_workflow.folder / "results")
    assert any(name.endswith("probes.safetensors") for name in found)
    assert {name: oct(mode) for name, mode in found.items() if mode != usual} == {}
