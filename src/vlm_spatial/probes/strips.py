"""Strip maps: the predicted slot at every cell, and how column-like such a map is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from vlm_spatial.probes.layout import Group
from vlm_spatial.tokens import Axis, TokenGrid

STRIP_MAP: dict[str, Any] = {
    **dict.fromkeys(("scene_id", "axis", "site"), pl.String),
    **dict.fromkeys(("token", "row", "col", "slot", "predicted"), pl.Int32),
    "probability": pl.List(pl.Float32),
    "token_set": pl.String,
    "kind": pl.String,
}


def strip_index(
    maps: Float[np.ndarray, "*scenes tokens slots"],
    grid: TokenGrid,
    axis: Axis,
    inside: Bool[np.ndarray, "*scenes tokens"] | None = None,
) -> Float[np.ndarray, "*scenes"]:
    """How strip-like a map of slot probabilities is: 1 for perfect strips across ``axis``, about 0 for noise.

    It is the share of the map's variance over cells that lies between lines (columns for the horizontal axis, rows for
    the vertical one), adjusted for the number of lines as in an analysis of variance (epsilon squared, Kelley 1935): ``1 - (within /
    (cells - lines)) / (total / (cells - 1))``, summed over the slots. Bands that run the other way give negative values.
    ``nan`` for a map without variance, and for a grid with one cell a line. Cells that are not ``inside`` do not count.
    """
    table = maps.reshape(*maps.shape[:-2], grid.rows, grid.cols, maps.shape[-1])
    counted = np.ones(maps.shape[:-1], dtype=bool) if inside is None else inside
    counted = counted.reshape(*table.shape[:-1], 1)
    across = -3 if axis == "horizontal" else -2
    of_line, cells = (counted.sum(axis=sides, keepdims=True) for sides in (across, (-3, -2)))
    line_mean = (table * counted).sum(axis=across, keepdims=True) / np.maximum(of_line, 1)
    mean = (table * counted).sum(axis=(-3, -2), keepdims=True) / np.maximum(cells, 1)
    within = (counted * (table - line_mean) ** 2).sum(axis=(-3, -2, -1))
    total = (counted * (table - mean) ** 2).sum(axis=(-3, -2, -1))
    size, lines = cells[..., 0, 0, 0], (of_line > 0).sum(axis=(-3, -2, -1))
    flat = (total <= 1e-12 * size) | (size <= lines)
    adjusted = 1 - (within / np.maximum(size - lines, 1)) / (np.where(flat, 1, total) / np.maximum(size - 1, 1))
    return np.where(flat, np.nan, adjusted)


def strip_map_rows(
    scenes: Group,
    kept: int,
    probability: Float[np.ndarray, "scenes tokens slots"],
    grid: TokenGrid,
    axis: Axis,
    site: str,
    kind: str,
    own_grids: Mapping[str, TokenGrid] = MappingProxyType({}),
) -> pl.DataFrame:
    """Rows of strip_map.parquet for the first ``kept`` of ``scenes``, each on its own token grid, as a probe of ``kind`` reads them."""
    count = min(kept, scenes.size)
    parts = [_scene_rows(scenes, index, probability[index], grid, own_grids.get(scenes.scene_ids[index], grid)) for index in range(count)]
    if not parts:
        return pl.DataFrame(schema=STRIP_MAP)
    return pl.concat(parts).with_columns(axis=pl.lit(axis), site=pl.lit(site), kind=pl.lit(kind)).select(*STRIP_MAP)


def _scene_rows(scenes: Group, index: int, probability: Float[np.ndarray, "tokens slots"], grid: TokenGrid, own: TokenGrid) -> pl.DataFrame:
    cells = own.within(grid)
    token = np.arange(own.size, dtype=np.int32)
    slot, shown = scenes.strips[index, cells].astype(np.int32), probability[cells].astype(np.float32)
    token_set = np.where(slot < 0, "padding", np.where(scenes.objects[index, cells] >= 0, "object", "rim"))
    columns = {
        "scene_id": [scenes.scene_ids[index]] * own.size,
        "token": token,
        "row": token // own.cols,
        "col": token % own.cols,
        "slot": [None if place < 0 else place for place in slot.tolist()],
        "predicted": shown.argmax(axis=-1).astype(np.int32),
        "probability": shown.tolist(),
        "token_set": token_set.tolist(),
    }
    return pl.DataFrame(columns, schema={name: STRIP_MAP[name] for name in columns})
