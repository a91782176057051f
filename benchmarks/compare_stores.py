"""Shards of activations written and read: our own code, tensorstore, zarr-python, and zarr-python with the ``zarrs`` codec pipeline.

    python -m benchmarks.compare_stores --rounds 3

All sides write the same zarr arrays, with the metadata that stores have, and read them from the system's cache. Three kinds of work:

- *write*: values come batch by batch, as a model makes them. A finished shard's SHA-256 is taken, as the provenance record holds it.
  Our own code compresses each batch as it comes. The libraries get whole shards, as each write into a part of one makes all of it anew.
- *write beside a model*: the same, while products of matrices run in a thread beside it.
- *scattered rows*, *whole site*: 32 random scenes of a site, and all.

What was written is read back by another side's code and compared bit by bit before any time is given.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from benchmarks.measure import environment, rounds_of, version, write
from jaxtyping import Float, Int

from vlm_spatial.activations.schema import SiteArray, site_array
from vlm_spatial.activations.shards import ShardWriter, codecs, read_rows
from vlm_spatial.files import sha256

OURS = "vlm_spatial"
SHARD_SCENES = 64
SCATTERED = 32
Values = Float[np.ndarray, "scene row feature"]
Chosen = Int[np.ndarray, " scene"]


@dataclass(frozen=True)
class Shape:
    """What is stored of one site: ``scenes × rows × features``, in batches of ``batch`` scenes."""

    scenes: int
    rows: int
    features: int
    batch: int

    @property
    def array(self) -> SiteArray:
        return site_array("site", self.scenes, (self.rows, 1, self.features), "cell", SHARD_SCENES)

    def values(self) -> Values:
        """Values of a bfloat16 model, as float32."""
        made = torch.randn(self.scenes, self.rows, self.features, generator=torch.Generator().manual_seed(0))
        return made.bfloat16().float().numpy()


SHAPES = {
    "organism, all tokens": Shape(512, 36, 96, 32),
    "7B, 16 tokens a scene": Shape(256, 16, 3584, 8),
    "7B, all tokens": Shape(128, 256, 3584, 8),
}


def create(folder: Path, array: SiteArray) -> zarr.Array[Any]:
    """An empty array as stores have it."""
    return zarr.create_array(
        zarr.storage.LocalStore(folder),
        shape=array.shape,
        dtype="float32",
        chunks=array.chunk_shape,
        shards=(array.shard_scenes, array.rows, array.features),
        fill_value=0.0,
        config={"write_empty_chunks": True},
        **codecs(),
    )


class Ours:
    """The package's own shards."""

    def write(self, folder: Path, array: SiteArray, batches: Iterator[Values]) -> None:
        create(folder, array)
        writer, shard = None, 0
        for batch in batches:
            writer = writer or ShardWriter(_shard(folder, shard), array.chunk_shape, array.chunks_a_shard)
            writer.append(batch)
            if writer.scenes == array.shard_scenes:
                writer.close()
                writer, shard = None, shard + 1

    def read(self, folder: Path, array: SiteArray, rows: Chosen) -> Values:
        out = np.empty((len(rows), *array.shape[1:]), np.float32)
        of_shard, within = np.divmod(rows, array.shard_scenes)
        shards = np.unique(of_shard)

        def of(shard: int) -> None:
            first, last = np.flatnonzero(of_shard == shard)[[0, -1]]
            part = out[first : last + 1]
            read_rows(_shard(folder, shard), within[first : last + 1], array.chunk_shape, array.chunks_a_shard, part)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(of, shards))
        return out


class Zarr:
    """zarr-python; whole shards are written.

    Args:
        pipeline: path of its codec pipeline's class.
    """

    def __init__(self, pipeline: str = "zarr.core.codec_pipeline.BatchedCodecPipeline") -> None:
        self.pipeline = pipeline

    def write(self, folder: Path, array: SiteArray, batches: Iterator[Values]) -> None:
        with zarr.config.set({"codec_pipeline.path": self.pipeline}):
            made = create(folder, array)
            for start, values in _shards(array, batches):
                made[start : start + len(values)] = values
                sha256(_shard(folder, start // array.shard_scenes))

    def read(self, folder: Path, array: SiteArray, rows: Chosen) -> Values:
        with zarr.config.set({"codec_pipeline.path": self.pipeline}):
            stored = zarr.open_array(folder, mode="r")
            return np.asarray(stored[:] if len(rows) == array.scenes else stored.oindex[rows])


class Tensorstore:
    """tensorstore; whole shards are written."""

    @staticmethod
    def _open(folder: Path) -> Any:
        import tensorstore

        return tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}, open=True).result()

    def write(self, folder: Path, array: SiteArray, batches: Iterator[Values]) -> None:
        create(folder, array)
        stored = self._open(folder)
        for start, values in _shards(array, batches):
            stored[start : start + len(values)].write(values).result()
            sha256(_shard(folder, start // array.shard_scenes))

    def read(self, folder: Path, array: SiteArray, rows: Chosen) -> Values:
        stored = self._open(folder)
        return np.asarray((stored if len(rows) == array.scenes else stored[rows]).read().result())


def _shard(folder: Path, number: int) -> Path:
    return folder / f"c/{number}/0/0"


def _shards(array: SiteArray, batches: Iterator[Values]) -> Iterator[tuple[int, Values]]:
    """Whole shards with the number of their first scene."""
    kept, start = np.empty((array.shard_scenes, *array.shape[1:]), np.float32), 0
    filled = 0
    for batch in batches:
        kept[filled : filled + len(batch)] = batch
        filled += len(batch)
        if filled == array.shard_scenes:
            yield start, kept
            start, filled = start + filled, 0


def sides() -> dict[str, Any]:
    """Every side that is installed."""
    found: dict[str, Any] = {OURS: Ours(), "zarr-python": Zarr()}
    if version("tensorstore"):
        found["tensorstore"] = Tensorstore()
    if version("zarrs"):
        found["zarrs"] = Zarr("zarrs.ZarrsCodecPipeline")
    return found


def in_batches(values: Values, size: int) -> Iterator[Values]:
    """The values, a batch at a time."""
    yield from (values[start : start + size] for start in range(0, len(values), size))


def beside_a_model(batches: Iterator[Values], passes: int, weights: torch.Tensor) -> Iterator[Values]:
    """Batches, each made in a thread while the one before is written."""

    def compute(batch: Values) -> Values:
        for _ in range(passes):
            weights @ weights
        return batch

    with ThreadPoolExecutor(1) as model:
        coming: Future[Values] | None = None
        for batch in batches:
            following = model.submit(compute, batch)
            if coming is not None:
                yield coming.result()
            coming = following
        assert coming is not None
        yield coming.result()


def measure(shape: Shape, rounds: int, scratch: Path) -> dict[str, Any]:
    """All kinds of work on one shape, of every side."""
    values, array, known = shape.values(), shape.array, sides()
    weights = torch.randn(1024, 1024)
    scattered = np.sort(np.random.default_rng(0).choice(shape.scenes, SCATTERED, replace=False))
    every = np.arange(shape.scenes)

    def writing(name: str, round_: int, passes: int) -> Values:
        folder = scratch / f"{name}-{passes}-{round_}"
        batches = in_batches(values, shape.batch)
        known[name].write(folder, array, beside_a_model(batches, passes, weights) if passes else batches)
        return np.empty(0)

    def written(_: object, round_: int, passes: int) -> dict[str, float]:
        apart = {}
        for name in known:
            folder = scratch / f"{name}-{passes}-{round_}"
            other = Zarr() if name == OURS else Ours()
            apart[name] = 0.0 if np.array_equal(other.read(folder, array, every), values) else 1.0
            shutil.rmtree(folder)
        return apart

    def equal(results: dict[str, Values], _: int, rows: Chosen) -> dict[str, float]:
        return {name: 0.0 if np.array_equal(found, values[rows]) else 1.0 for name, found in results.items()}

    stored = scratch / "stored"
    Ours().write(stored, array, in_batches(values, shape.batch))
    # As many products as take about as long as writing a batch does.
    passes = max(1, round(shape.batch * shape.rows * shape.features / 1e6))
    cpu, found = torch.device("cpu"), {}
    work: dict[str, tuple[Callable[[str, int], Values], Any]] = {
        "write": (partial(writing, passes=0), partial(written, passes=0)),
        "write beside a model": (partial(writing, passes=passes), partial(written, passes=passes)),
        "scattered rows": (lambda name, _: known[name].read(stored, array, scattered), partial(equal, rows=scattered)),
        "whole site": (lambda name, _: known[name].read(stored, array, every), partial(equal, rows=every)),
    }
    for what, (do, check) in work.items():
        found[what] = rounds_of({name: partial(do, name) for name in known}, rounds, check, cpu, 0.0)
    shutil.rmtree(stored)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small shape: does it run? Times mean nothing")
    given = parser.parse_args()
    shapes = {"quick": Shape(64, 4, 8, 16)} if given.quick else SHAPES
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, shape in shapes.items():
            print(name, flush=True)
            found[name] = {"shape": vars(shape), "work": measure(shape, given.rounds, Path(scratch))}
    made = environment(torch.device("cpu"))
    made["versions"] |= {package: version(package) for package in ("tensorstore", "zarrs")}
    write("stores", {"benchmark": "stores", "shapes": found, **made})


if __name__ == "__main__":
    main()
