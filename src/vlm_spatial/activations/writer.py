"""Writing an activation store shard by shard, so that a killed run continues where it stopped."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.activations.manifest import Manifest
from vlm_spatial.activations.sampling import Sample, sampled_tokens
from vlm_spatial.activations.schema import FORMAT, Pooling, SiteArray, create_store, expected_bytes, sampled_arrays, site_array
from vlm_spatial.activations.shards import FileRecord, ShardWriter
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json, sha256, write_json
from vlm_spatial.tokens import TokenGrid
from vlm_spatial.workflow.provenance import MadeBy, files_of, write_record


@dataclass(frozen=True)
class Description:
    """Everything that a store says of itself, known before the first value.

    Attributes:
        shapes: ``(cells, patches, features)`` of one scene at every site, in the order of computation.
        scenes: rows of ``scenes.parquet`` in storing order.
        patches: vision patches a visual token.
        model: ``ModelIdentity`` as a dict. ``processor``, ``code`` and ``config`` likewise say what made the values.
        sample: tokens of a scene kept at sites other than the connector, beside every one of the first ``whole`` scenes; None: all of all.
        machine: what may change a value's last bit (device, library versions): an interrupted run continues only on the same.
    """

    shapes: Mapping[str, tuple[int, int, int]]
    scenes: pl.DataFrame
    grid: TokenGrid
    patches: int
    pooling: Pooling
    shard_scenes: int
    model: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    sample: int | None = None
    whole: int = 0

    @property
    def arrays(self) -> tuple[SiteArray, ...]:
        found: list[SiteArray] = []
        for site, shape in self.shapes.items():
            if self.sample is None or site == "connector":
                found.append(site_array(site, self.scenes.height, shape, self.pooling, self.shard_scenes))
            else:
                found += sampled_arrays(site, self.scenes.height, shape, self.sample, self.whole, self.shard_scenes)
        return tuple(found)

    @cached_property
    def kept(self) -> Sample | None:
        """Which tokens are kept of each scene; None if all are."""
        return None if self.sample is None else sampled_tokens(self.scenes, self.grid, self.sample)

    @property
    def grid_sides(self) -> dict[str, int]:
        return {"rows": self.grid.rows, "cols": self.grid.cols}

    def identity(self, inputs: Iterable[str] = ()) -> str:
        """Hash of everything that decides the values and their layout; ``inputs`` are the digests of what was read, images among it."""
        columns = [c for c in ("scene_id", "axis", "slots", "boxes") if c in self.scenes.columns]
        parts = {
            "format": FORMAT,
            "inputs": sorted(inputs),
            "shapes": [[site, *shape] for site, shape in self.shapes.items()],
            "scenes": self.scenes.select(columns).rows(),
            "grid": self.grid_sides,
            "patches": self.patches,
            "pooling": self.pooling,
            "shard_scenes": self.shard_scenes,
            "sample": [self.sample, self.whole],
            **{name: dict(getattr(self, name)) for name in ("model", "processor", "config", "machine")},
            "code": self.code,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class StoreWriter:
    """Writes a store in a progress folder beside its target and renames it there when it is whole; a context manager.

    The folder's name carries the identity, so that only a run of the same model, scenes and settings continues it.
    Shards are written one after another: :meth:`append` values of every site in scene order, then :meth:`commit`.

    Args:
        made_by: for the store's provenance record.

    Raises:
        UserError: in any call, if there is no space left.
    """

    def __init__(self, target: Path, manifest: Path, description: Description, made_by: MadeBy | None = None) -> None:
        self.target = Path(target)
        self.manifest = Path(manifest)
        self.description = description
        self.arrays = {array.site: array for array in description.arrays}
        self._made_by = made_by or MadeBy(stage="")
        self.identity = description.identity(self._made_by.inputs.values())
        self.folder = self.target.with_name(f".{self.target.name}.{self.identity[:16]}.progress")
        self._store = self.folder / self.target.name
        self._journal = self.folder / "journal.json"
        self._open: dict[str, ShardWriter] = {}
        self._done: dict[int, dict[str, FileRecord]] = {}
        self._metadata: dict[str, FileRecord] = {}
        self._batch: int | None = None

    def __enter__(self) -> Self:
        with self._space():
            self._begin_or_continue()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for shard in self._open.values():
            shard.abandon()

    @property
    def shards(self) -> int:
        return -(-self.description.scenes.height // self.description.shard_scenes)

    @property
    def pending(self) -> tuple[int, ...]:
        """Shards still to be written, in order."""
        return tuple(shard for shard in range(self.shards) if shard not in self._done)

    @property
    def batch(self) -> int | None:
        """Batch size of the run that this one continues: another one could change last bits."""
        return self._batch

    @batch.setter
    def batch(self, size: int) -> None:
        self._batch = size
        with self._space():
            self._write_journal()

    def scenes(self, shard: int) -> pl.DataFrame:
        """The scenes of a shard."""
        return self.description.scenes.slice(shard * self.description.shard_scenes, self.description.shard_scenes)

    def expected_bytes(self) -> int:
        """Bytes still to be written, at most (see ``schema.expected_bytes``)."""
        scenes = sum(self.scenes(shard).height for shard in self.pending)
        return expected_bytes(self.description.arrays, self.description.model["dtype"], scenes)

    def check_space(self) -> int:
        """Free bytes on the target's disk.

        Raises:
            UserError: if they do not hold what is still to be written.
        """
        free = shutil.disk_usage(self.folder).free
        needed = self.expected_bytes()
        if needed > free:
            raise UserError(
                f"{self.target}: needs {readable_bytes(needed)}, free are {readable_bytes(free)}; "
                "free space, or choose fewer activations.tokens or activations.sites, pooling token_set, or another results folder"
            )
        return free

    def append(self, shard: int, site: str, values: Float[np.ndarray, "scene row feature"]) -> None:
        """Add the next scenes of a shard at one site.

        Raises:
            UserError: naming site and scene, for a value that is not finite.
        """
        array = self.arrays[site]
        if values.shape[1:] != array.shape[1:]:
            raise ValueError(f"{site}: values of shape {values.shape}, the array is {array.shape}")
        with self._space():
            if site not in self._open:
                self._open[site] = ShardWriter(self._store / array.shard_path(shard), array.chunk_shape, array.chunks_a_shard)
            if not np.isfinite(values).all():
                bad = ~np.isfinite(values).all(axis=(1, 2))
                scene = self.scenes(shard)["scene_id"][self._open[site].scenes + int(np.argmax(bad))]
                raise UserError(
                    f"{site}: NaN or infinite activations in scene {scene!r} ({int(bad.sum())} of {len(bad)} scenes of its "
                    f"batch); try models.*.dtype float32, and check the checkpoint"
                )
            self._open[site].append(values)

    def commit(self, shard: int) -> None:
        """Finish a shard: from now on a killed run need not compute it again."""
        with self._space():
            self._done[shard] = {self.arrays[site].shard_path(shard): writer.close() for site, writer in self._open.items()}
            self._open = {}
            self._write_journal()

    def abandon(self) -> None:
        """Drop what was appended since the last commit."""
        for shard in self._open.values():
            shard.abandon()
        self._open = {}

    def finish(self) -> Manifest:
        """Write manifest and provenance record, and rename the store to its target.

        Raises:
            ValueError: if shards are pending.
        """
        if self.pending:
            raise ValueError(f"shards {self.pending} are not written")
        described = self.description
        records = {**self._metadata, **{name: record for files in self._done.values() for name, record in files.items()}}
        manifest = Manifest(
            format=FORMAT,
            identity=self.identity,
            sites=tuple(described.shapes),
            shape={site: array.shape for site, array in self.arrays.items()},
            rows={site: array.row_name for site, array in self.arrays.items()},
            dtype="float32",
            pooling=described.pooling,
            grid=described.grid_sides,
            patches=described.patches,
            whole_scenes=described.whole,
            model=dict(described.model),
            processor=dict(described.processor),
            config={**described.config, "machine": dict(described.machine), "batch": self._batch},
        )
        # The store comes last: killed in between, the next run finds every shard written and only renames.
        with self._space():
            self.manifest.unlink(missing_ok=True)
            if self.target.exists():
                shutil.rmtree(self.target)
            manifest.write(self.manifest)
            write_record(self.target, self._made_by, at=self._store, checksums={name: record.sha256 for name, record in records.items()})
        self._store.replace(self.target)
        for stale in self.target.parent.glob(f".{self.target.name}.*.progress"):
            shutil.rmtree(stale)
        return manifest

    def _begin_or_continue(self) -> None:
        recorded = self._recorded() if self._journal.exists() else None
        if recorded is None:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            described = self.description
            create_store(
                self._store,
                described.arrays,
                described.scenes,
                described.grid,
                described.patches,
                {"identity": self.identity},
                described.kept,
            )
            self._metadata = {name: FileRecord(path.stat().st_size, sha256(path)) for name, path in files_of(self._store)}
            self._write_journal()
            return
        self._metadata, self._batch, self._done = recorded
        whole = {name for files in self._done.values() for name in files}
        for site in self.arrays:
            for file in (self._store / site / "c").rglob("*"):
                if file.is_file() and file.relative_to(self._store).as_posix() not in whole:
                    file.unlink()

    def _recorded(self) -> tuple[dict[str, FileRecord], int | None, dict[int, dict[str, FileRecord]]] | None:
        """Metadata, batch size and whole shards of an interrupted run, checked byte by byte; None if its metadata are not whole."""
        journal = read_json(self._journal)
        metadata = {name: FileRecord(**record) for name, record in journal["metadata"].items()}
        if not all(_as_recorded(self._store / name, record) for name, record in metadata.items()):
            return None
        done = {}
        for shard, files in journal["shards"].items():
            records = {name: FileRecord(**record) for name, record in files.items()}
            if records.keys() == {a.shard_path(int(shard)) for a in self.arrays.values() if int(shard) < a.shards} and all(
                _as_recorded(self._store / name, record) for name, record in records.items()
            ):
                done[int(shard)] = records
        return metadata, journal["batch"], done

    def _write_journal(self) -> None:
        write_json(
            {
                "identity": self.identity,
                "batch": self._batch,
                "metadata": _as_plain(self._metadata),
                "shards": {str(shard): _as_plain(files) for shard, files in self._done.items()},
            },
            self._journal,
        )

    @contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{self.target}: no space left on the disk; what is written is kept in {self.folder}: "
                f"free about {readable_bytes(self.expected_bytes())} and run again"
            ) from error


def _as_plain(records: Mapping[str, FileRecord]) -> dict[str, dict[str, Any]]:
    return {name: asdict(record) for name, record in records.items()}


def _as_recorded(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.bytes and sha256(path) == record.sha256


def readable_bytes(count: float) -> str:
    """``1.2 GB``: decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def write_arrays(
    target: Path, manifest: Path, description: Description, values: Mapping[str, Float[np.ndarray, "scene row feature"]]
) -> Manifest:
    """Write a whole store from arrays in memory, one a site.

    Raises:
        UserError: as :class:`StoreWriter`.
    """
    with StoreWriter(target, manifest, description) as writer:
        for shard in writer.pending:
            start = shard * description.shard_scenes
            for site, array in values.items():
                writer.append(shard, site, array[start : start + description.shard_scenes])
            writer.commit(shard)
        return writer.finish()
