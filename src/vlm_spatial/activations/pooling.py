"""Means over patches and over token sets, defined to the last bit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from vlm_spatial.errors import UserError
from vlm_spatial.tokens import SLOTS, Axis, Box, TokenGrid, object_tokens, picture_tokens, scene_tokens

Array = TypeVar("Array", bound=Any)

PER_SLOT = ("object", "strip", "rim")


@dataclass(frozen=True)
class Region:
    """A token set of one slot, or (``slot`` -1) of the whole scene."""

    token_set: str
    slot: int


REGIONS: tuple[Region, ...] = (
    *(Region(token_set, slot) for token_set in PER_SLOT for slot in range(SLOTS)),
    Region("background", -1),
    Region("all", -1),
)


def cell_mean(patches: Array) -> Array:
    """Mean over the next to last dimension, added one patch after another: ``[..., patches, features] -> [..., features]``.

    Takes float32 numpy arrays and torch tensors alike. The fixed order makes the sum the same bit for bit on every
    device and in every library, which a library's own ``mean`` does not promise.
    """
    total = patches[..., 0, :]
    for patch in range(1, patches.shape[-2]):
        total = total + patches[..., patch, :]
    return total / patches.shape[-2]


def rounded(values: Float[np.ndarray, "..."], dtype: str) -> Float[np.ndarray, "..."]:
    """Finite float32 values rounded (to nearest, ties to even) to ``dtype``, still as float32.

    Raises:
        UserError: for a dtype that no model here computes in.
    """
    match dtype:
        case "float32":
            return values
        case "float16":
            return values.astype(np.float16).astype(np.float32)
        case "bfloat16":
            # bfloat16 is float32's upper half.
            bits = np.ascontiguousarray(values).view(np.uint32)
            return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    raise UserError(f"dtype {dtype!r}: allowed are float32, bfloat16, float16")


def patch_side(patches: int) -> int:
    """Patches along one side of a cell.

    Raises:
        UserError: if a cell is not square.
    """
    side = round(patches**0.5)
    if side * side != patches:
        raise UserError(f"{patches} vision patches a token: only square cells have patch coordinates; set activations.pooling to cell")
    return side


def patch_order(grid: TokenGrid, patches: int) -> Int[np.ndarray, " patch"]:
    """For every patch of the fine grid, row by row: its place in the flattened ``(cell, patch of the cell)`` order."""
    side = patch_side(patches)
    order = np.arange(grid.size * patches).reshape(grid.rows, grid.cols, side, side)
    return order.transpose(0, 2, 1, 3).ravel()


def region_weights(
    boxes: Sequence[Box],
    slots: Sequence[int],
    axis: Axis,
    grid: TokenGrid,
    width: float,
    height: float,
    picture: Box | None = None,
    bands: Sequence[float] | None = None,
) -> Float[np.ndarray, "region token"]:
    """Which tokens each region holds, as 0 and 1; a region that the scene does not have is all 0.

    One object alone has no bands, hence no strip or rim. Of objects whose boxes are not known, nothing but ``all`` is.
    """
    weights = np.zeros((len(REGIONS), grid.size), dtype=np.float32)
    whole = scene_tokens(boxes, grid, width, height, axis, picture, bands, slots) if len(boxes) > 1 else None
    occupied = np.zeros(grid.size, dtype=bool)
    for box, slot in zip(boxes, slots if boxes else (), strict=True):
        mask = object_tokens(box, grid, width, height)
        occupied |= mask
        weights[REGIONS.index(Region("object", slot))] = mask
        if whole is not None:
            for token_set in ("strip", "rim"):
                weights[REGIONS.index(Region(token_set, slot))] = whole.mask(token_set, [slot])
    inside = picture_tokens(occupied[None], grid, width, height, picture)
    if boxes or not slots:
        weights[REGIONS.index(Region("background", -1))] = ~occupied & inside
    weights[REGIONS.index(Region("all", -1))] = inside
    return weights
