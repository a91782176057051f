"""Scenes on token grids of their own: a store's grid is the smallest that holds them all, and each lies at its top left."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from vlm_spatial.activations.pooling import patch_side
from vlm_spatial.errors import UserError
from vlm_spatial.tokens import TokenGrid

OWN_GRID = ("grid_rows", "grid_cols")
"""Columns of a table of scenes, and coordinates of a store, that are there where scenes have token grids of their own."""
GRIDS = "grids"
"""Key of the manifest's ``config``: rows and columns by :func:`size_name`, where scenes have token grids of their own."""


def with_own_grids(scenes: pl.DataFrame, grid: Callable[[int, int], TokenGrid]) -> tuple[pl.DataFrame, TokenGrid]:
    """The scenes and the store's grid; where their grids differ, each scene has its sides in the table.

    Args:
        grid: the model's token grid for an image's width and height.

    Raises:
        UserError: for no scenes.
    """
    if scenes.is_empty():
        raise UserError("scenes: none to extract activations from; ask for scenes in datasets.*.scenes")
    grids = [grid(width, height) for width, height in scenes.select("width", "height").iter_rows()]
    if len(set(grids)) == 1:
        return scenes, grids[0]
    rows, cols = [own.rows for own in grids], [own.cols for own in grids]
    sides = {name: pl.Series(side, dtype=pl.Int32) for name, side in zip(OWN_GRID, (rows, cols), strict=True)}
    return scenes.with_columns(**sides), TokenGrid(max(rows), max(cols))


def own_grid(row: Mapping[str, Any], frame: TokenGrid) -> TokenGrid:
    """The token grid of a scene of a store on ``frame``."""
    return TokenGrid(row[OWN_GRID[0]], row[OWN_GRID[1]]) if OWN_GRID[0] in row else frame


def fewest(scenes: pl.DataFrame, frame: TokenGrid) -> int:
    """Tokens of the scene that has fewest."""
    return min(own_grid(row, frame).size for row in scenes.iter_rows(named=True))


def largest(scenes: pl.DataFrame) -> pl.DataFrame:
    """The scenes of the grid with the most tokens, in their order."""
    if OWN_GRID[0] not in scenes.columns:
        return scenes
    tokens = pl.col(OWN_GRID[0]) * pl.col(OWN_GRID[1])
    first = scenes.filter(tokens == tokens.max()).row(0, named=True)
    return scenes.filter(*(pl.col(side) == first[side] for side in OWN_GRID))


def size_name(row: Mapping[str, Any]) -> str:
    """``448x336``: width and height of a scene's image, which decide its token grid."""
    return f"{row['width']}x{row['height']}"


def sizes(scenes: pl.DataFrame) -> dict[str, list[int]]:
    """Rows and columns by :func:`size_name`; empty where all scenes have one grid."""
    if OWN_GRID[0] not in scenes.columns:
        return {}
    return {size_name(row): [row[side] for side in OWN_GRID] for row in scenes.iter_rows(named=True)}


def framed(
    values: Float[np.ndarray, "scene row feature"], row_name: str, own: TokenGrid, frame: TokenGrid, patches: int
) -> Float[np.ndarray, "scene framed feature"]:
    """Stored values of scenes on their ``own`` token grid, laid at the top left of ``frame``; zeros beyond.

    Args:
        row_name: of the middle dimension: ``token``, ``patch``, or ``region`` and ``sample``, which are no grids and stay.
        patches: vision patches a token.
    """
    if own == frame or row_name in ("region", "sample"):
        return values
    side = patch_side(patches) if row_name == "patch" else 1
    small, large = (TokenGrid(grid.rows * side, grid.cols * side) for grid in (own, frame))
    found = np.zeros((len(values), large.size, values.shape[-1]), dtype=values.dtype)
    found[:, small.within(large)] = values
    return found


def on_own(tokens: Int[np.ndarray, "scenes sample"], own: TokenGrid, frame: TokenGrid) -> Int[np.ndarray, "scenes sample"]:
    """Tokens of ``frame`` as those of the ``own`` grid that lies at its top left."""
    row, col = np.divmod(tokens, frame.cols)
    return row * own.cols + col
