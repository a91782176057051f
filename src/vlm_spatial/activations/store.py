"""Reading an activation store, checked against its provenance record."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
from jaxtyping import Float, Int

from vlm_spatial.activations.grids import OWN_GRID
from vlm_spatial.activations.manifest import Manifest, default_manifest_path
from vlm_spatial.activations.pooling import cell_mean, patch_order, rounded
from vlm_spatial.activations.sampling import Sample
from vlm_spatial.activations.schema import READABLE, WHOLE, WORDS
from vlm_spatial.activations.shards import damaged, read_rows
from vlm_spatial.errors import UserError
from vlm_spatial.files import sha256
from vlm_spatial.models.peft import identity_with_peft
from vlm_spatial.tokens import TokenGrid
from vlm_spatial.workflow.provenance import FileRecord, files_of, read_record, why_no_record

_READERS = 2


class Store:
    """A whole activation store; make one with :meth:`open`.

    Values are float32, exactly as the model computed them in ``manifest.model["dtype"]``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._chunks: dict[str, tuple[tuple[int, int, int], int]] = {}

    @classmethod
    def open(cls, path: Path, manifest: Path | None = None, verify: bool = True) -> "Store":
        """Open a store with its manifest (by default the JSON file of the same name beside it).

        Every read checks the CRC-32C of the chunks it touches. ``verify`` also compares, at once, the metadata's and
        coordinates' SHA-256 and the size of every file with the store's provenance record; :meth:`verify` compares every byte.

        Raises:
            UserError: if there is no store, it is not whole, it does not belong to the manifest, or it is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such store; run snakemake to make it")
        manifest_path = Path(manifest) if manifest else default_manifest_path(path)
        store = cls(path, Manifest.read(manifest_path, READABLE))
        if verify:
            for name in store.files:
                store._check_file(name, content=not store._is_shard(name))
            if store._group.attrs.get("identity") != store.manifest.identity:
                raise UserError(f"{manifest_path}: the manifest of another store than {path}; run snakemake, it makes both anew")
        return store

    @cached_property
    def files(self) -> dict[str, FileRecord]:
        """Every file by its path inside the store, as its provenance record has it.

        Raises:
            UserError: if the store has no record: then it is not whole.
        """
        record = read_record(self.path)
        if record is None:
            raise UserError(f"{self.path}: {why_no_record(self.path)}; a store without its record is not whole: run snakemake to make it")
        return record.files

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites stored, in the order of computation."""
        return self.manifest.sites

    @property
    def grid(self) -> TokenGrid:
        """The grid of visual tokens; the smallest that holds all scenes' where they differ."""
        return TokenGrid(**self.manifest.grid)

    @cached_property
    def own_grids(self) -> dict[str, TokenGrid]:
        """By scene id its own token grid, which lies at the top left of :attr:`grid`; empty where all scenes have that one."""
        if OWN_GRID[0] not in self._group:
            return {}
        sides = [self._coordinate(name).tolist() for name in OWN_GRID]
        return {scene: TokenGrid(rows, cols) for scene, rows, cols in zip(self._coordinate("scene").tolist(), *sides, strict=True)}

    @property
    def pooling(self) -> str:
        """``none``, ``cell`` or ``token_set``."""
        return self.manifest.pooling

    @property
    def whole_scenes(self) -> tuple[str, ...]:
        """Scenes of which every token is stored at every site; all of them, unless only some tokens are kept."""
        names = self.scenes["scene_id"]
        return tuple(names.head(self.manifest.whole_scenes) if "sample" in self.manifest.rows.values() else names)

    def kept(self, site: str, scene_ids: Sequence[str]) -> Sample | None:
        """Which tokens of some scenes are stored at a site, in the order of ``scene_ids``; None if all are.

        Raises:
            UserError: for a site or scene that is not stored.
        """
        self._chunking(site)
        if self.manifest.rows[site] != "sample":
            return None
        places = self._places(scene_ids)
        return Sample(self._sample.tokens[places], self._sample.weights[places])

    @cached_property
    def scenes(self) -> pl.DataFrame:
        """One row a stored scene, in order: ``scene_id, axis, split, variant, width, height, slots, boxes, answers``."""
        count = [int(n) for n in (self._coordinate("slots") >= 0).sum(axis=1)]
        columns: dict[str, Any] = {"scene_id": self._coordinate("scene").tolist()}
        columns |= {name: self._coordinate(name).tolist() for name in ("axis", "split", "variant", "width", "height")}
        known = (~np.isnan(self._coordinate("boxes")[..., 0])).sum(axis=1).tolist()
        for name, counts in (("slots", count), ("boxes", known), ("answers", count)):
            columns[name] = [row[:n] for row, n in zip(self._coordinate(name).tolist(), counts, strict=True)]
        types: dict[str, Any] = {
            "width": pl.Int32,
            "height": pl.Int32,
            "slots": pl.List(pl.Int32),
            "boxes": pl.List(pl.List(pl.Float32)),
            "answers": pl.List(pl.String),
        }
        return pl.DataFrame(columns, schema_overrides=types)

    def read(self, site: str, scene_ids: Sequence[str]) -> Float[np.ndarray, "scene token feature"]:
        """A site's values at every visual token of some scenes, in the order of ``scene_ids``.

        Vision patches of a store of pooling ``none`` are averaged to their token, bit for bit as pooling ``cell`` does.

        Raises:
            UserError: for a site or scene that is not stored, or not with every token; a store of pooling ``token_set``; a damaged file.
        """
        if self.pooling == "token_set":
            raise UserError(f"{self.path}: holds means over token sets, not tokens; set activations.pooling to cell or none")
        if self.manifest.rows.get(site) == "sample":
            places = self._places(scene_ids)
            partly = next((name for name, place in zip(scene_ids, places, strict=True) if place >= self.manifest.whole_scenes), None)
            if partly is not None:
                raise UserError(
                    f"{self.path}: {site} holds {self.manifest.shape[site][1]} of {self.grid.size} tokens of scene {partly!r}, every "
                    f"one of the first {self.manifest.whole_scenes} scenes; set activations.tokens to all or raise activations.whole_scenes"
                )
            return self._read_rows(f"{site}{WHOLE}", places)
        values = self.read_stored(site, scene_ids)
        if self.manifest.rows[site] != "patch":
            return values
        patches = self.manifest.patches
        cells = np.empty_like(values)
        cells[:, patch_order(self.grid, patches)] = values
        shaped = cells.reshape(len(values), self.grid.size, patches, values.shape[-1])
        return rounded(cell_mean(shaped), self.manifest.model["dtype"])

    def read_stored(self, site: str, scene_ids: Sequence[str]) -> Float[np.ndarray, "scene row feature"]:
        """A site's values as stored: its rows are tokens, patches (row by row over the finer grid), regions or the tokens :meth:`kept`.

        Raises:
            UserError: for a site or scene that is not stored, or a damaged file.
        """
        return self._read_rows(site, self._places(scene_ids))

    def batches(
        self, site: str, scene_ids: Sequence[str], size: int
    ) -> Iterator[tuple[Sequence[str], Float[np.ndarray, "scene token feature"]]]:
        """``(scene ids, values)`` of at most ``size`` scenes at a time; the next batch is read while one is used.

        Where not every token is stored, the values are those of the tokens that :meth:`kept` names.

        Raises:
            UserError: as :meth:`read`.
        """
        read = self.read_stored if self.manifest.rows.get(site) == "sample" else self.read
        parts = [scene_ids[start : start + size] for start in range(0, len(scene_ids), size)]
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(read, site, parts[0]) if parts else None
            for index, part in enumerate(parts):
                assert coming is not None
                values = coming.result()
                coming = reader.submit(read, site, parts[index + 1]) if index + 1 < len(parts) else None
                yield part, values

    def verify(self) -> Iterator[str]:
        """Compare every byte of every file with the provenance record; yields the name of each file that is right.

        Raises:
            UserError: naming the first file that is not, or a file that the record does not know.
        """
        for name in self.files:
            self._check_file(name, content=True)
            yield name
        for name, path in files_of(self.path):
            if name not in self.files:
                raise UserError(f"{path}: not among the files that were written; delete it")

    def _check_file(self, name: str, *, content: bool) -> None:
        path, record = self.path / name, self.files[name]
        if not path.is_file():
            raise damaged(path, "missing")
        size = path.stat().st_size
        if size != record.size:
            raise damaged(path, f"{size} bytes, written were {record.size}")
        if content and sha256(path) != record.sha256:
            raise damaged(path, "SHA-256 differs from the record's")

    def check_model(self, identity: Mapping[str, Any]) -> None:
        """Refuse a store of another model.

        Args:
            identity: ``dataclasses.asdict`` of the adapter's ``ModelIdentity``.

        Raises:
            UserError: naming the first field that differs.
        """
        self._same_model(identity, ("architecture", "weights", "dtype", "processor", "prompting", "quirks"))

    def check_checkpoint(self, model: Mapping[str, Any]) -> None:
        """Refuse a store of another checkpoint than the one configured. Reads weight files, but loads no model.

        Args:
            model: arguments of ``models.load.load_adapter``. A hub id is compared by its revision, as its files may be elsewhere.

        Raises:
            UserError: naming the first field that differs.
        """
        known = self.manifest.model
        folder = Path(model["checkpoint"])
        expected = {**known, "dtype": model.get("dtype", known["dtype"])}
        if folder.is_dir():
            expected["weights"] = identity_with_peft(folder, model.get("peft"))
        elif model.get("revision") is not None:
            expected["revision"] = model["revision"]
        self._same_model(expected, ("revision", "weights", "dtype"))

    def check_grid(self, grid: TokenGrid) -> None:
        """Refuse a store on another token grid.

        Raises:
            UserError: naming both grids.
        """
        if grid != self.grid and grid not in self.own_grids.values():
            raise UserError(
                f"{self.path}: token grid {self.grid.rows}×{self.grid.cols}, expected {grid.rows}×{grid.cols}; "
                "run snakemake to extract it again"
            )

    def check_scenes(self, scenes: pl.DataFrame) -> None:
        """Refuse a store of other scenes than those of the dataset at hand.

        Args:
            scenes: rows of ``scenes.parquet``.

        Raises:
            UserError: naming the first stored scene that the dataset lacks or describes otherwise.
        """
        again = "the store is from another version of the dataset: run snakemake to extract it again"
        columns = ["scene_id", "axis", "split", "variant", "width", "height", "slots", "boxes"]
        known = scenes.select(pl.col(name).cast(self.scenes.schema[name]) for name in columns)
        stored = self.scenes.select(columns)
        for row, other in zip(
            stored.iter_rows(), stored.select("scene_id").join(known, on="scene_id", how="left").iter_rows(), strict=True
        ):
            different = next((name for name, one, two in zip(columns, row, other, strict=True) if one != two), None)
            if different is not None:
                raise UserError(f"{self.path}: scene {row[0]!r}: {different} differs from that of scenes.parquet; {again}")

    def _same_model(self, expected: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in keys:
            if expected.get(key) != self.manifest.model.get(key):
                raise UserError(
                    f"{self.path}: from another model ({key} {self.manifest.model.get(key)}, expected {expected.get(key)}); "
                    "run snakemake to extract this model's activations"
                )

    @cached_property
    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(self.path, mode="r", zarr_format=3)
        except (OSError, ValueError, KeyError) as error:
            raise damaged(self.path / "zarr.json", str(error)) from error

    def _coordinate(self, name: str) -> np.ndarray:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        values = np.asarray(array[:])
        words = array.attrs.get(WORDS)
        return values if words is None else np.array(json.loads(str(words)), dtype=object)[values]

    @cached_property
    def _sample(self) -> Sample:
        return Sample(self._coordinate("sample_token"), self._coordinate("sample_weight"))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {scene: index for index, scene in enumerate(self.scenes["scene_id"])}

    def _places(self, scene_ids: Sequence[str]) -> Int[np.ndarray, " scene"]:
        missing = next((scene for scene in scene_ids if scene not in self._place), None)
        if missing is not None:
            raise UserError(f"{self.path}: holds no scene {missing!r} ({len(self._place)} others); run snakemake to extract it again")
        return np.array([self._place[scene] for scene in scene_ids], dtype=np.int64)

    def _read_rows(self, site: str, places: Int[np.ndarray, " scene"]) -> Float[np.ndarray, "scene row feature"]:
        chunk_shape, chunks = self._chunking(site)
        out = np.empty((len(places), *chunk_shape[1:]), dtype=np.float32)
        shard_of, within = np.divmod(places, chunk_shape[0] * chunks)

        shards = np.unique(shard_of)
        # Several shards are read side by side, a single one chunk by chunk.
        within_shard = _READERS if len(shards) == 1 else 1

        def read_shard(shard: int) -> None:
            chosen = np.flatnonzero(shard_of == shard)
            first, last = int(chosen[0]), int(chosen[-1]) + 1
            path = self.path / site / "c" / str(shard) / "0" / "0"
            if last - first == len(chosen):
                read_rows(path, within[chosen], chunk_shape, chunks, out[first:last], within_shard)
            else:
                part = np.empty((len(chosen), *chunk_shape[1:]), dtype=np.float32)
                read_rows(path, within[chosen], chunk_shape, chunks, part, within_shard)
                out[chosen] = part

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read_shard, shards))
        return out

    def _chunking(self, site: str) -> tuple[tuple[int, int, int], int]:
        if site not in self.manifest.shape:
            raise UserError(f"{self.path}: no array for site {site!r}; stored are {', '.join(self.sites)}; add it to activations.sites")
        if site not in self._chunks:
            try:
                array = self._group[site]
            except KeyError as error:
                raise damaged(self.path / site, "the array is missing") from error
            assert isinstance(array, zarr.Array)
            assert array.shards is not None
            chunk = array.chunks
            self._chunks[site] = ((chunk[0], chunk[1], chunk[2]), array.shards[0] // chunk[0])
        return self._chunks[site]

    def _is_shard(self, name: str) -> bool:
        return name.partition("/")[0] in self.manifest.shape and not name.endswith("zarr.json")
