"""From images to an activation store: one forward pass an image serves all sites."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from PIL import Image

from vlm_spatial.activations.batching import (
    LARGEST_BATCH,
    alike,
    automatic_batch,
    estimated_transient,
    image_bytes,
    overlapped,
    side_by_side,
)
from vlm_spatial.activations.grids import GRIDS, OWN_GRID, fewest, framed, largest, on_own, own_grid, sizes, with_own_grids
from vlm_spatial.activations.manifest import Manifest
from vlm_spatial.activations.memory import free_memory, measured_growth
from vlm_spatial.activations.pooling import cell_mean, patch_order
from vlm_spatial.activations.schema import WHOLE, Pooling, scene_regions
from vlm_spatial.activations.writer import Description, StoreWriter, readable_bytes
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.finite import finite_values
from vlm_spatial.models.inputs import SHOWN_ONCE
from vlm_spatial.models.plain import Hooks, Reduce, Reduced
from vlm_spatial.models.values import Prepared, Site, SiteValues
from vlm_spatial.progress import progress
from vlm_spatial.tokens import TokenGrid
from vlm_spatial.workflow.provenance import MadeBy

PROMPT = "Describe the image."
"""The one prompt of every image. It follows the image, which sees nothing that follows; in PaliGemma alone it does, from the first
language block on, so that language sites are stored as they are under this prompt."""

# Measured in small and mid-size models, never more than 5.
_AMPLE = 8


@dataclass(frozen=True)
class _Batch:
    """Scenes of one shard and one token grid."""

    shard: int
    scenes: pl.DataFrame
    first: int
    last: bool

    def whole(self, described: Description) -> int:
        """How many of the batch's scenes, its first ones, are kept with every token."""
        return 0 if described.sample is None else max(0, min(self.scenes.height, described.whole - self.first))


def reducer(pooling: Pooling, grid: TokenGrid, scenes: pl.DataFrame, kept: Int[np.ndarray, "scenes sample"] | None = None) -> Reduce:
    """What of a site's values is stored, for the batch of these scenes on ``grid``; means are taken in float32 and rounded back.

    Args:
        kept: tokens of each scene on ``grid``, where not all are kept at sites other than the connector.
    """
    weights = torch.from_numpy(np.stack(scene_regions(scenes, grid))) if pooling == "token_set" else None

    chosen = None if kept is None else torch.from_numpy(kept.astype(np.int64))

    def reduce(site: Site, values: SiteValues) -> Reduced:
        if chosen is not None and site != "connector":
            values = values[torch.arange(len(values), device=values.device)[:, None], chosen.to(values.device)]
        batch, cells, patches, features = values.shape
        if weights is not None:
            regions = weights.to(values.device)
            tokens = cell_mean(values.float())
            return (regions @ tokens / regions.sum(dim=2, keepdim=True).clamp(min=1)).to(values.dtype)
        if patches == 1:
            return values.squeeze(2).clone()
        if pooling == "cell":
            return cell_mean(values.float()).to(values.dtype)
        order = torch.from_numpy(patch_order(grid, patches)).to(values.device)
        return values.reshape(batch, cells * patches, features)[:, order]

    return reduce


def extract(
    adapter: Adapter,
    image: Callable[[str], Image.Image],
    scenes: pl.DataFrame,
    target: Path,
    manifest: Path,
    settings: ActivationsSettings,
    code: str = "",
    made_by: MadeBy | None = None,
) -> Manifest:
    """Write the activations of all visual tokens of ``scenes`` at the sites that ``settings`` names.

    A killed run's whole shards are used again. Memory does not grow with the number of scenes.

    Args:
        image: the image of a scene id.
        scenes: rows of ``scenes.parquet``; the store keeps their order, unless some are kept whole or token grids differ.
        code: identity of the code; another one starts afresh.
        made_by: for the store's provenance record.

    Raises:
        UserError: for no scenes, an unknown site, values that are not finite, or too little disk or memory.
    """
    described = describe(adapter, scenes, settings, code)
    with StoreWriter(target, manifest, described, made_by) as writer:
        free = writer.check_space()
        batch = writer.batch or _batch_size(adapter, described, image, settings)
        _say(
            f"{scenes.height} scenes at {len(described.shapes)} sites, {readable_bytes(writer.expected_bytes())} to write at most "
            f"({readable_bytes(free)} free), batches of {batch}, "
            f"{writer.shards - len(writer.pending)} of {writer.shards} shards done before"
        )
        while writer.pending:
            if batch != writer.batch:
                writer.batch = batch
            try:
                _extract_pending(adapter, image, writer, batch)
            except torch.OutOfMemoryError as error:
                if batch == 1:
                    raise UserError(f"{adapter.device}: out of memory with one image; use models.*.dtype bfloat16 or device_map") from error
                writer.abandon()
                torch.cuda.empty_cache()
                batch //= 2
                _say(f"out of memory, going on with batches of {batch}")
        return writer.finish()


def describe(adapter: Adapter, scenes: pl.DataFrame, settings: ActivationsSettings, code: str = "") -> Description:
    """What the store will say of itself.

    Raises:
        UserError: for no scenes, or an unknown site.
    """
    sites = adapter.matching_sites(settings.sites)
    scenes, grid = with_own_grids(scenes, adapter.grid)
    sample, whole = None, 0
    if settings.tokens != "all" and settings.pooling == "cell" and 4 * settings.tokens <= grid.size:
        # A scene on a narrow grid of its own may have fewer.
        sample = min(settings.tokens, fewest(scenes, grid))
    scenes, whole = _in_order(scenes, 0 if sample is None else settings.whole_scenes, sampled=sample is not None)
    shapes = {site: (grid.size, *adapter.site_shape(site)) for site in sites}
    return Description(
        shapes=shapes,
        scenes=scenes,
        grid=grid,
        patches=adapter.vision_shape[0],
        pooling=settings.pooling,
        shard_scenes=settings.shard_scenes,
        model=asdict(adapter.identity) | {"family": adapter.family, "parameters": adapter.parameters},
        processor=_processor_identity(adapter.processor),
        code=code,
        config={"prompt": PROMPT, "sites": list(settings.sites)} | ({GRIDS: sizes(scenes)} if sizes(scenes) else {}),
        machine={"device": adapter.device.type},
        sample=sample,
        whole=whole,
    )


def _in_order(scenes: pl.DataFrame, count: int, *, sampled: bool) -> tuple[pl.DataFrame, int]:
    """The scenes as they are stored, and how many of the first keep every token where the others give a sample.

    Those are the blank ones, and ``count`` test scenes of each axis and variant. Within both parts scenes of one token grid stand together.
    """
    number = pl.int_range(pl.len()).over("axis", "variant", "split")
    whole = ((pl.col("variant") == "blank") | ((pl.col("split") == "test") & (number < count))) & sampled
    marked = scenes.with_columns((~whole).alias("_rest"))
    keys = ["_rest", *(side for side in OWN_GRID if side in scenes.columns)]
    return marked.sort(keys, maintain_order=True).drop("_rest"), int((~marked["_rest"]).sum())


def _extract_pending(adapter: Adapter, image: Callable[[str], Image.Image], writer: StoreWriter, batch: int) -> None:
    described = writer.description
    sites = tuple(described.shapes)

    def load(item: _Batch) -> Prepared:
        images = [image(scene) for scene in item.scenes["scene_id"]]
        for shown in images:
            shown.info[SHOWN_ONCE] = True
        prepared = adapter.prepare(images, [PROMPT] * len(images))
        own = own_grid(item.scenes.row(0, named=True), described.grid)
        if prepared.grid != own:
            raise UserError(
                f"scene {item.scenes['scene_id'][0]!r}: its image gives {prepared.grid.rows}×{prepared.grid.cols} visual tokens, "
                f"its width and height in scenes.parquet {own.rows}×{own.cols}; run snakemake to make the dataset again"
            )
        return prepared

    def compute(item: _Batch, prepared: Prepared) -> dict[Site, Reduced]:
        # Of whole scenes every token comes from the device, and the kept ones are picked here.
        kept = None if described.kept is None or item.whole(described) else kept_of(item, prepared.grid)
        return hooks.reduced(prepared, reducer(described.pooling, prepared.grid, item.scenes, kept))

    def kept_of(item: _Batch, own: TokenGrid) -> Int[np.ndarray, "scenes sample"]:
        assert described.kept is not None
        return on_own(described.kept.tokens[item.first : item.first + item.scenes.height], own, described.grid)

    def store(item: _Batch, captured: dict[Site, Reduced]) -> None:
        own = own_grid(item.scenes.row(0, named=True), described.grid)

        def append(site: Site) -> None:
            values = finite_values(adapter, site, captured.pop(site).float()).numpy()
            whole = item.whole(described)
            if whole and site != "connector":
                laid(f"{site}{WHOLE}", values[:whole])
                values = np.take_along_axis(values, kept_of(item, own)[..., None], axis=1)
            laid(site, values)

        def laid(name: str, values: Float[np.ndarray, "scene row feature"]) -> None:
            writer.append(item.shard, name, framed(values, writer.arrays[name].row_name, own, described.grid, described.patches))

        # Each site has a file of its own; compression and checksums release the interpreter's lock.
        list(storers.map(append, sites))
        if item.last:
            writer.commit(item.shard)

    items = list(_batches(writer, batch))
    with Hooks(adapter, sites) as hooks, side_by_side(adapter.device) as workers, ThreadPoolExecutor(_storers(adapter.device)) as storers:
        for _ in progress(overlapped(items, load, compute, store, workers), "activations", total=len(items)):
            pass


def _batches(writer: StoreWriter, size: int) -> Iterator[_Batch]:
    """Batches never cross shards, so that an interrupted run goes on with the same batches."""
    for shard in writer.pending:
        scenes = writer.scenes(shard)
        start = 0
        for batch in alike(scenes.rows(named=True), size, lambda row: own_grid(row, writer.description.grid)):
            first, end = shard * writer.description.shard_scenes + start, start + len(batch)
            yield _Batch(shard, scenes.slice(start, len(batch)), first, end == scenes.height)
            start = end


def _storers(device: torch.device) -> int:
    """Threads that compress and write: on a CPU the model needs the cores."""
    return 1 if device.type == "cpu" else max(1, min(16, len(os.sched_getaffinity(0)) - 2))


def _batch_size(adapter: Adapter, described: Description, image: Callable[[str], Image.Image], settings: ActivationsSettings) -> int:
    """The settings', or the one that fits: by an estimate and by measuring two small batches, whichever says more.

    Where many times the estimate would fit, nothing is measured: it could not change the batch.
    """
    if settings.batch != "auto":
        return settings.batch
    memory = free_memory(adapter.device)
    first = adapter.prepare([image(largest(described.scenes)["scene_id"][0])], [PROMPT])
    patches, vision_width = adapter.vision_shape
    stored = sum(a.rows * a.features for a in described.arrays)
    estimated = estimated_transient(
        vision_values=first.grid.size * patches * vision_width,
        language_values=first.inputs["input_ids"].shape[1] * adapter.site_shape("connector")[1],
        itemsize=adapter.dtype.itemsize,
    )
    pixels = first.inputs["pixel_values"].numel()
    with side_by_side(adapter.device) as workers:

        def fitting(transient: int) -> int:
            needed = image_bytes(stored, transient, pixels, adapter.dtype.itemsize, workers)
            return min(automatic_batch(needed, memory), described.shard_scenes)

        ample = fitting(_AMPLE * estimated)
        if ample == min(LARGEST_BATCH, described.shard_scenes):
            return ample
        try:
            grown = measured_growth(lambda images: _try(adapter, image, described, images), adapter.device)
        except torch.OutOfMemoryError:
            return 1
        return fitting(max(estimated, grown - stored * adapter.dtype.itemsize))


def _try(adapter: Adapter, image: Callable[[str], Image.Image], described: Description, images: int) -> object:
    """A forward pass over the first scenes, as many as ``images`` if there are."""
    scenes = largest(described.scenes).head(images)
    prepared = adapter.prepare([image(scene) for scene in scenes["scene_id"]], [PROMPT] * scenes.height)
    with Hooks(adapter, tuple(described.shapes)) as hooks:
        return hooks.reduced(prepared, reducer(described.pooling, prepared.grid, scenes))


def _processor_identity(processor: Any) -> dict[str, str]:
    said = processor.image_processor.to_json_string() + processor.chat_template
    return {"class": type(processor).__name__, "sha256": hashlib.sha256(said.encode()).hexdigest()}


def _say(text: str) -> None:
    print(f"activations: {text}", file=sys.stderr, flush=True)
