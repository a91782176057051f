"""What an activation store looks like: its arrays, coordinates and attributes. No values are written here."""

import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import zarr

from vlm_spatial.activations.grids import OWN_GRID, own_grid
from vlm_spatial.activations.pooling import REGIONS, patch_order, patch_side, region_weights
from vlm_spatial.activations.sampling import Sample
from vlm_spatial.activations.shards import codecs
from vlm_spatial.scenes.dataset import bands_of, picture_of
from vlm_spatial.tokens import SLOTS, TokenGrid

Pooling = Literal["none", "cell", "token_set"]

FORMAT = 3
READABLE = (1, 2, 3)
"""Formats that this version reads. Format 1 had text as arrays of strings, which tensorstore does not open; 2 had
every token at every site."""
WORDS = "words"
"""Attribute of a coordinate of text: its words, as a JSON list. The array holds each word's number in it."""
CHUNK_BYTES = 1 << 20
EDGES = ("left", "top", "right", "bottom")
_DIMENSION_COORDINATES = ("scene", "edge", "whole_scene")
WHOLE = ".whole"
"""Ends the name of an array that holds every token of the first scenes, at a site where only some are kept of the others."""


@dataclass(frozen=True)
class SiteArray:
    """One site's array.

    Attributes:
        site: its name, with ``WHOLE`` behind it for the array of every token.
        rows: length of the middle dimension: tokens, patches, regions or kept tokens (``sample``).
        row_name: name of the middle dimension, and ``feature_name`` that of the last one.
        chunk_scenes: scenes in one inner chunk, the least that is read or checked at once.
    """

    site: str
    scenes: int
    rows: int
    features: int
    row_name: Literal["token", "patch", "region", "sample"]
    chunk_scenes: int
    shard_scenes: int

    @property
    def feature_name(self) -> str:
        # xarray allows one length a dimension name, and vision and language widths differ.
        return "vision_feature" if self.site.startswith("vision.") else "feature"

    @property
    def scene_name(self) -> str:
        return "whole_scene" if self.site.endswith(WHOLE) else "scene"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.scenes, self.rows, self.features)

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        return (self.chunk_scenes, self.rows, self.features)

    @property
    def chunks_a_shard(self) -> int:
        return self.shard_scenes // self.chunk_scenes

    @property
    def shards(self) -> int:
        return -(-self.scenes // self.shard_scenes)

    def shard_path(self, shard: int) -> str:
        """Path of a shard file inside the store."""
        return f"{self.site}/c/{shard}/0/0"


def site_array(site: str, scenes: int, values: Sequence[int], pooling: Pooling, shard_scenes: int) -> SiteArray:
    """The array of a site whose values for one scene have the shape ``(cells, patches, features)``."""
    cells, patches, features = values
    if pooling == "token_set":
        rows, row_name = len(REGIONS), "region"
    elif pooling == "none" and site.startswith("vision."):
        patch_side(patches)
        rows, row_name = cells * patches, "patch"
    else:
        rows, row_name = cells, "token"
    return _array(site, scenes, rows, features, row_name, shard_scenes)


def sampled_arrays(site: str, scenes: int, values: Sequence[int], sample: int, whole: int, shard_scenes: int) -> tuple[SiteArray, ...]:
    """The arrays of a site that keeps ``sample`` tokens of each scene, and every token of the first ``whole`` ones."""
    cells, _, features = values
    kept = _array(site, scenes, sample, features, "sample", shard_scenes)
    return (kept, _array(f"{site}{WHOLE}", whole, cells, features, "token", shard_scenes)) if whole else (kept,)


def _array(site: str, scenes: int, rows: int, features: int, row_name: str, shard_scenes: int) -> SiteArray:
    fitting = max(1, CHUNK_BYTES // (rows * features * 4))
    chunk = max(d for d in range(1, shard_scenes + 1) if shard_scenes % d == 0 and d <= fitting)
    return SiteArray(site, scenes, rows, features, row_name, chunk, shard_scenes)  # type: ignore[arg-type]


def expected_bytes(arrays: Sequence[SiteArray], dtype: str, scenes: int | None = None) -> int:
    """Bytes on disk to reckon with, for all scenes or ``scenes`` of them.

    The stored float32 values of a 16-bit model have two zero bytes each, which the compression takes away.
    """
    itemsize = 4 if dtype == "float32" else 2
    return sum((a.scenes if scenes is None else min(scenes, a.scenes)) * a.rows * a.features * itemsize for a in arrays)


def create_store(
    path: Path,
    arrays: Sequence[SiteArray],
    scenes: pl.DataFrame,
    grid: TokenGrid,
    patches: int,
    attributes: Mapping[str, Any],
    sample: Sample | None = None,
) -> None:
    """Make the zarr group with all metadata and coordinates, and no activation yet.

    Args:
        scenes: rows of ``scenes.parquet``, in the order of the ``scene`` dimension.
        patches: vision patches a token.
        attributes: of the group: text and numbers, as netCDF knows nothing else.
        sample: the tokens kept where not all are.
    """
    # In memory first: zarr hands every access to a file to another thread, which takes longer than all else.
    files: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(files)
    group = zarr.open_group(store, mode="w", zarr_format=3, attributes={"format": FORMAT, **attributes})
    named = _coordinates(scenes, grid, patches, {a.row_name for a in arrays}, sample)
    whole = next((a.scenes for a in arrays if a.scene_name == "whole_scene"), 0)
    if whole:
        named["whole_scene"] = (("whole_scene",), _text(scenes["scene_id"].head(whole)), "scene_id of a scene with every token")
    for name, (dimensions, values, description) in named.items():
        words: dict[str, str] = {}
        if values.dtype.kind == "O":
            # Text has no type that zarr, tensorstore, zarrita and netCDF all know.
            distinct = list(dict.fromkeys(values.ravel().tolist()))
            numbers = {word: number for number, word in enumerate(distinct)}
            values = np.vectorize(numbers.__getitem__, otypes=[np.int32])(values)
            words = {WORDS: json.dumps(distinct)}
        coordinate = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(max(1, n) for n in values.shape),
            fill_value=None,
            dimension_names=dimensions,
            attributes={"description": description, **words},
            config={"write_empty_chunks": True},
        )
        coordinate[...] = values
    for array in arrays:
        dimensions = (array.scene_name, array.row_name, array.feature_name)
        of_array = {array.scene_name, "object", "edge", array.row_name}
        known = [n for n, (d, _, _) in named.items() if n not in _DIMENSION_COORDINATES and set(d) <= of_array]
        group.create_array(
            array.site,
            shape=array.shape,
            dtype="float32",
            chunks=array.chunk_shape,
            shards=(array.shard_scenes, array.rows, array.features),
            fill_value=0.0,
            dimension_names=dimensions,
            # The CF convention by which xarray finds an array's coordinates.
            attributes={"coordinates": " ".join(known)},
            **codecs(),
        )
    with warnings.catch_warnings():
        # Not in the zarr v3 specification yet either; xarray warns about stores that lack it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store)

    def write(name: str) -> None:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(files[name].to_bytes())

    # Small files wait for the disk, not for the processor.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, files))


Coordinate = tuple[tuple[str, ...], np.ndarray, str]


def _coordinates(scenes: pl.DataFrame, grid: TokenGrid, patches: int, rows: set[str], sample: Sample | None) -> dict[str, Coordinate]:
    count = scenes.height
    slots = np.full((count, SLOTS), -1, dtype=np.int32)
    boxes = np.full((count, SLOTS, len(EDGES)), np.nan, dtype=np.float32)
    answers = np.full((count, SLOTS), "", dtype=object)
    for index, scene in enumerate(scenes.iter_rows(named=True)):
        for place, (slot, word) in enumerate(zip(scene["slots"], scene["objects"], strict=True)):
            slots[index, place], answers[index, place] = slot, word
        for place, box in enumerate(scene["boxes"]):
            boxes[index, place] = box
    named: dict[str, Coordinate] = {
        "scene": (("scene",), _text(scenes["scene_id"]), "scene_id"),
        "edge": (("edge",), np.array(EDGES, dtype=object), "sides of a box; right and bottom are exclusive"),
    }
    for name in ("axis", "split", "variant"):
        named[name] = (("scene",), _text(scenes[name]), f"{name} of the scene")
    if OWN_GRID[0] in scenes.columns:
        for name, counted in zip(OWN_GRID, ("rows", "columns"), strict=True):
            said = f"{counted} of the scene's own token grid; it lies at the top left, and what is beyond is 0 and means nothing"
            named[name] = (("scene",), scenes[name].to_numpy().astype(np.int32), said)
    for name in ("width", "height"):
        named[name] = (("scene",), scenes[name].to_numpy().astype(np.int32), "pixels")
    named["slots"] = (("scene", "object"), slots, "slot of each object, -1 where the scene has fewer objects")
    named["boxes"] = (
        ("scene", "object", "edge"),
        boxes,
        "pixel box of each object, nan where the scene has fewer objects, or boxes are not known",
    )
    named["answers"] = (("scene", "object"), answers, "answer word of each object")
    if "token" in rows:
        row, col = np.divmod(np.arange(grid.size, dtype=np.int32), grid.cols)
        named["token_row"] = (("token",), row, "row of the visual token's cell, from the top")
        named["token_col"] = (("token",), col, "column of the visual token's cell, from the left")
    if sample is not None:
        named["sample_token"] = (("scene", "sample"), sample.tokens, "the visual token kept")
        named["sample_weight"] = (("scene", "sample"), sample.weights, "how many visual tokens of its object or strip it stands for")
    if "patch" in rows:
        side = patch_side(patches)
        row, col = np.divmod(np.arange(grid.size * patches, dtype=np.int32), grid.cols * side)
        named["patch_row"] = (("patch",), row, "row of the vision patch, from the top")
        named["patch_col"] = (("patch",), col, "column of the vision patch, from the left")
        named["patch_token"] = (
            ("patch",),
            (patch_order(grid, patches) // patches).astype(np.int32),
            "the visual token that the patch becomes part of",
        )
    if "region" in rows:
        named["region_set"] = (("region",), np.array([r.token_set for r in REGIONS], dtype=object), "token set")
        named["region_slot"] = (("region",), np.array([r.slot for r in REGIONS], dtype=np.int32), "slot, -1 for the whole scene")
        counts = [weights.sum(axis=1) for weights in scene_regions(scenes, grid)]
        named["region_tokens"] = (
            ("scene", "region"),
            np.array(counts, dtype=np.int32).reshape(count, len(REGIONS)),
            "tokens in the region; where 0, the stored mean is 0 and means nothing",
        )
    return named


def scene_regions(scenes: pl.DataFrame, grid: TokenGrid) -> list[np.ndarray]:
    """:func:`region_weights` of every scene of the table, each on its own token grid; they are of one size if the grids are."""
    rows = [(row, own_grid(row, grid)) for row in scenes.iter_rows(named=True)]
    return [
        region_weights(row["boxes"], row["slots"], row["axis"], own, row["width"], row["height"], picture_of(row), bands_of(row, own))
        for row, own in rows
    ]


def _text(column: pl.Series) -> np.ndarray:
    return np.array(column.to_list(), dtype=object)
