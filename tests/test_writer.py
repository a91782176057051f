"""Interrupted, crowded and contested writing: nothing is lost, nothing is mixed, nothing half is taken for whole."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from activation_stores import bfloat16_values, description, scenes_folder, written
from vlm_spatial.activations import writer as writer_module
from vlm_spatial.activations.shards import ShardWriter
from vlm_spatial.activations.store import Store
from vlm_spatial.activations.writer import StoreWriter, readable_bytes
from vlm_spatial.errors import UserError

pytestmark = pytest.mark.unit


def files(store: Path) -> dict[str, bytes]:
    return {f.relative_to(store).as_posix(): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}


def paths(folder: Path) -> tuple[Path, Path]:
    return folder / "activations.zarr", folder / "activations.json"


def write_shards(writer: StoreWriter, values, shards, part: int = 3) -> None:
    size = writer.description.shard_scenes
    for shard in shards:
        for start in range(0, writer.scenes(shard).height, part):
            for site, array in values.items():
                writer.append(shard, site, array[shard * size : (shard + 1) * size][start : start + part])
        writer.commit(shard)


@pytest.fixture
def described():
    return description()


@pytest.fixture
def values(described):
    return bfloat16_values(described)


@pytest.fixture
def uninterrupted(tmp_path, described, values):
    return files(written(tmp_path / "uninterrupted", described, values))


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(tmp_path, described, values, uninterrupted):
    with StoreWriter(*paths(tmp_path), described) as writer:
        writer.batch = 3
        write_shards(writer, values, [0])
        writer.append(1, "connector", values["connector"][8:10])
    assert not any(path.exists() for path in paths(tmp_path))
    with StoreWriter(*paths(tmp_path), described) as writer:
        assert writer.pending == (1, 2)
        assert writer.batch == 3
        write_shards(writer, values, writer.pending, part=2)
        writer.finish()
    assert files(tmp_path / "activations.zarr") == uninterrupted
    kept = [".activations.zarr.provenance.json", "activations.json", "activations.zarr", "uninterrupted"]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
    assert list(Store.open(tmp_path / "activations.zarr").verify())


def test_killed_between_manifest_and_rename_the_next_run_only_renames(tmp_path, described, values, uninterrupted, monkeypatch):
    rename = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.suffix == ".zarr":
            raise KeyboardInterrupt
        return rename(path, target)

    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, writer.pending)
        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.finish()
        monkeypatch.setattr(Path, "replace", rename)
    with pytest.raises(UserError, match=r"no such store"):
        Store.open(tmp_path / "activations.zarr")
    with StoreWriter(*paths(tmp_path), described) as writer:
        assert writer.pending == ()
        writer.finish()
    assert files(tmp_path / "activations.zarr") == uninterrupted


def test_a_damaged_shard_of_an_interrupted_run_is_written_again(tmp_path, described, values, uninterrupted):
    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, [0, 1])
        damaged = next(writer.folder.rglob("connector/c/0/0/0"))
    damaged.write_bytes(damaged.read_bytes()[::-1])
    with StoreWriter(*paths(tmp_path), described) as writer:
        assert writer.pending == (0, 2)
        write_shards(writer, values, writer.pending)
        writer.finish()
    assert files(tmp_path / "activations.zarr") == uninterrupted


def test_damaged_metadata_of_an_interrupted_run_starts_afresh(tmp_path, described, values, uninterrupted):
    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, [0])
        damaged = next(writer.folder.rglob("boxes/zarr.json"))
    damaged.write_text("{}", encoding="utf-8")
    with StoreWriter(*paths(tmp_path), described) as writer:
        assert writer.pending == (0, 1, 2)
        write_shards(writer, values, writer.pending)
        writer.finish()
    assert files(tmp_path / "activations.zarr") == uninterrupted


@pytest.mark.parametrize(
    "change",
    [{"code": "other"}, {"model": {"dtype": "float32"}}, {"config": {"prompt": "!"}}, {"shard_scenes": 4}, {"machine": {"device": "cuda"}}],
)
def test_a_run_of_other_content_does_not_continue_it(tmp_path, described, values, change):
    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, [0])
    other = description(**change)
    with StoreWriter(*paths(tmp_path), other) as writer:
        assert len(writer.pending) == writer.shards
        write_shards(writer, values, writer.pending)
        writer.finish()
    assert [path.name for path in tmp_path.glob(".*")] == [".activations.zarr.provenance.json"]


def test_other_scenes_are_other_content(described):
    changed = described.scenes.with_columns(axis=pl.lit("vertical"))
    assert description(scenes=changed).identity() != described.identity()
    # Other images.
    assert description().identity(["other"]) != described.identity(["one"])
    assert description().identity(["one"]) == described.identity(["one"])


def test_finishing_early_is_refused(tmp_path, described, values):
    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, [0])
        with pytest.raises(ValueError, match="are not written"):
            writer.finish()
        with pytest.raises(ValueError, match="values of shape"):
            writer.append(1, "connector", values["vision.0"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_site_and_scene(tmp_path, described, values, bad):
    values["connector"][13, 4, 2] = bad
    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, [0])
        with pytest.raises(UserError, match=r"connector: NaN or infinite activations in scene 'main-horizontal-test-00013'"):
            write_shards(writer, values, [1])
    assert not (tmp_path / "activations.zarr").exists()


def test_a_full_disk_is_named_and_loses_no_shard(tmp_path, described, values, uninterrupted, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, [0])
        with monkeypatch.context() as patched:
            patched.setattr(ShardWriter, "_write", full)
            with pytest.raises(UserError, match=r"no space left.*kept in .*progress.*run again"):
                write_shards(writer, values, [1])
    with StoreWriter(*paths(tmp_path), described) as writer:
        write_shards(writer, values, writer.pending)
        writer.finish()
    assert files(tmp_path / "activations.zarr") == uninterrupted


def test_too_little_space_is_said_before_the_first_batch(tmp_path, described, monkeypatch):
    with StoreWriter(*paths(tmp_path), described) as writer:
        needed = 21 * 12 * (5 + 7 + 7) * 2
        assert writer.expected_bytes() == needed
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage._replace(free=needed))
        assert writer.check_space() == needed
        monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
        with pytest.raises(UserError, match=r"needs 9.58 kB, free are 9.57 kB; free space, or"):
            writer.check_space()


def test_sizes_in_words():
    assert [readable_bytes(n) for n in (0, 999, 1000, 1.25e9, 3e15)] == ["0 B", "999 B", "1 kB", "1.25 GB", "3e+03 TB"]


# --- a whole extraction, killed --------------------------------------------------------------------------------------

EXTRACTION = """
import sys
from pathlib import Path
import polars as pl
from vlm_spatial.activations.extraction import extract
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
checkpoint, scenes, folder = map(Path, sys.argv[1:])
dataset = Dataset.open(scenes)
chosen = dataset.scenes.filter(pl.col("variant") != "pair")
settings = ActivationsSettings(batch=2, shard_scenes=2)
extract(load_adapter(checkpoint, device="cpu"), dataset.image, chosen, folder / "activations.zarr", folder / "activations.json", settings)
"""


@pytest.mark.slow
def test_an_extraction_killed_at_any_moment_ends_with_the_same_store(tmp_path, checkpoint):
    """kill -9, a time limit's SIGTERM, kill -9; what ends is, byte for byte, what an uninterrupted run writes."""
    scenes = scenes_folder(tmp_path / "squares")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", EXTRACTION, str(checkpoint("gemma3")), str(scenes), str(folder)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    killed, kept = tmp_path / "killed", []
    for wanted, sent in ((2, signal.SIGKILL), (5, signal.SIGTERM), (8, signal.SIGKILL)):
        process = start(killed)
        while len(list(killed.glob(".*.progress/*.zarr/language.2/c/*/0/0"))) < wanted:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(sent)
        assert process.wait() == -sent
        assert not (killed / "activations.zarr").exists()
        with pytest.raises(UserError, match=r"no such store"):
            Store.open(killed / "activations.zarr")
        journal = json.loads(next(killed.glob(".*.progress/journal.json")).read_text(encoding="utf-8"))
        kept.append(len(journal["shards"]))
    assert 1 <= kept[0] < kept[1] < kept[2]
    assert start(killed).wait() == 0
    # The record beside the store names its folder and the times of its files.
    record = ".activations.zarr.provenance.json"
    ended, whole = files(killed), files(tmp_path / "whole")
    sums = [{name: said["sha256"] for name, said in json.loads(of.pop(record))["files"].items()} for of in (ended, whole)]
    assert sums[0] == sums[1]
    assert ended == whole
    assert list(Store.open(killed / "activations.zarr").verify())


STREAM = """
import resource, sys
import numpy as np
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from activation_stores import description
from vlm_spatial.activations.batching import overlapped
from vlm_spatial.activations.writer import StoreWriter
from vlm_spatial.tokens import TokenGrid
count, folder = int(sys.argv[1]), Path(sys.argv[2])
shapes = {f"language.{layer}": (256, 1, 512) for layer in range(2)}
described = description(count, shapes=shapes, grid=TokenGrid(16, 16), shard_scenes=64)
with StoreWriter(folder / "a.zarr", folder / "a.json", described) as writer:
    def compute(item, generator):
        return {site: generator.standard_normal((8, 256, 512), dtype=np.float32) for site in shapes}
    def store(item, values):
        for site in shapes:
            writer.append(item // 8, site, values[site])
        if item % 8 == 7:
            writer.commit(item // 8)
    for _ in overlapped(range(count // 8), np.random.default_rng, compute, store):
        pass
    writer.finish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_scenes(tmp_path):
    peaks = []
    for count in (64, 512):
        command = [sys.executable, "-c", STREAM, str(count), str(tmp_path / str(count)), str(Path(__file__).parent)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout))
    written_mb = 448 * 2 * 256 * 512 * 4 / 1e6
    assert written_mb > 450
    assert peaks[1] - peaks[0] < 0.1 * written_mb
