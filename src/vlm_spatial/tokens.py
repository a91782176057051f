"""Pixel boxes to token sets: the exact rules for object, strip, rim, background and all.

Everything here is geometry on a grid of visual tokens; one token is one pixel cell, row-major.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_spatial.errors import UserError

Axis = Literal["horizontal", "vertical"]
AXES: tuple[Axis, ...] = ("horizontal", "vertical")
SLOTS = 3
"""Objects of a whole scene along its axis."""
TokenSet = Literal["object", "strip", "rim", "background", "all"]
TOKEN_SETS: tuple[TokenSet, ...] = ("object", "strip", "rim", "background", "all")
Box = tuple[float, float, float, float]
"""Pixels ``(left, top, right, bottom)``, right and bottom exclusive."""

# Sizes and boxes are scaled to the unit square first; this absorbs the rounding of that division.
_TIE = 1e-9


@dataclass(frozen=True)
class TokenGrid:
    """``rows × cols`` visual tokens, row-major: token ``t`` is cell ``(t // cols, t % cols)``."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise UserError(f"token grid {self.rows}×{self.cols}: both sides must be at least 1")

    @property
    def size(self) -> int:
        return self.rows * self.cols

    def within(self, frame: "TokenGrid") -> Int[np.ndarray, " tokens"]:
        """Where this grid's cells lie on a larger one, at its top left.

        Raises:
            UserError: if it is not as large.
        """
        if self.rows > frame.rows or self.cols > frame.cols:
            raise UserError(f"token grid {self.rows}×{self.cols}: does not fit on one of {frame.rows}×{frame.cols}")
        row, col = np.divmod(np.arange(self.size), self.cols)
        return row * frame.cols + col

    def centres(self, axis: Axis) -> Float[np.ndarray, " tokens"]:
        """Position of every cell's centre along ``axis``, as a share of the image's side."""
        row, col = np.divmod(np.arange(self.size), self.cols)
        return (col + 0.5) / self.cols if axis == "horizontal" else (row + 0.5) / self.rows


def coverage(box: Box, grid: TokenGrid, width: float, height: float) -> Float[np.ndarray, " tokens"]:
    """Share of every cell's area that ``box`` covers, in [0, 1].

    Raises:
        UserError: if the box is empty or not inside the ``width × height`` image.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(f"box {tuple(box)}: must be non-empty and inside the {width}×{height} image")
    across = _overlap(left / width, right / width, grid.cols)
    down = _overlap(top / height, bottom / height, grid.rows)
    return np.outer(down, across).ravel()


def _overlap(start: float, stop: float, cells: int) -> Float[np.ndarray, " cells"]:
    edges = np.arange(cells + 1)
    return np.clip(np.minimum(stop * cells, edges[1:]) - np.maximum(start * cells, edges[:-1]), 0.0, 1.0)


def object_tokens(box: Box, grid: TokenGrid, width: float, height: float) -> Bool[np.ndarray, " tokens"]:
    """Cells at least half covered by ``box``; if there is none, the (first) cell it overlaps most."""
    covered = coverage(box, grid, width, height)
    half = covered >= 0.5 - _TIE
    if half.any():
        return half
    largest = np.zeros(grid.size, dtype=bool)
    largest[int(np.argmax(covered >= covered.max() - _TIE))] = True
    return largest


def strip_labels(
    boxes: Sequence[Box], grid: TokenGrid, width: float, height: float, axis: Axis, bands: Sequence[float] | None = None
) -> Int[np.ndarray, " tokens"]:
    """Slot of every cell: the band its centre lies in. A centre exactly on a band's edge belongs to the later slot.

    Args:
        boxes: in slot order.
        bands: pixels along the axis where the bands meet; by default the midpoints between neighbouring objects' centres.

    Raises:
        UserError: if the boxes' centres do not increase along ``axis``.
    """
    low, side = (0, width) if axis == "horizontal" else (1, height)
    centres = np.array([(box[low] + box[low + 2]) / 2 / side for box in boxes])
    if not (np.diff(centres) > 0).all():
        raise UserError(f"boxes {[tuple(b) for b in boxes]}: centres must increase along the {axis} axis, in slot order")
    edges = (centres[1:] + centres[:-1]) / 2 if bands is None else np.array(bands) / side
    return np.searchsorted(edges - _TIE, grid.centres(axis), side="right")


@dataclass(frozen=True)
class SceneTokens:
    """The token sets of one scene on one grid.

    Attributes:
        objects: ``[slots, tokens]``, the object set of each slot.
        strips: ``[slots, tokens]``, the strip of each slot; the strips partition what is not padding.
        padding: cells that belong to no token set, as no part of the picture lies on most of them; None where there are none.
        slots: the slot of each row of ``objects`` and ``strips``; counted through by default. Two objects may stand in slots 0 and 2.
    """

    grid: TokenGrid
    objects: Bool[np.ndarray, "slots tokens"]
    strips: Bool[np.ndarray, "slots tokens"]
    padding: Bool[np.ndarray, " tokens"] | None = None
    slots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.slots:
            object.__setattr__(self, "slots", tuple(range(len(self.objects))))

    @property
    def inside(self) -> Bool[np.ndarray, " tokens"]:
        """Cells of the picture: all but padding."""
        return np.ones(self.grid.size, dtype=bool) if self.padding is None else ~self.padding

    @property
    def strip_of_cell(self) -> Int[np.ndarray, " tokens"]:
        """Slot of the strip that each cell lies in; -1 for padding."""
        return np.where(self.inside, np.array(self.slots)[self.strips.argmax(axis=0)], -1)

    @property
    def object_of_cell(self) -> Int[np.ndarray, " tokens"]:
        """Slot of the object on each cell, of two the first one's; -1 where there is none."""
        return np.where(self.objects.any(axis=0), np.array(self.slots)[self.objects.argmax(axis=0)], -1)

    def rows(self, slots: Sequence[int]) -> list[int]:
        """The rows of ``objects`` and ``strips`` that are of these slots."""
        return [self.slots.index(slot) for slot in slots]

    def framed(self, frame: TokenGrid) -> "SceneTokens":
        """The same sets on a larger grid, as a store of scenes of several grids has it: at the top left; what is added is padding."""
        if frame == self.grid:
            return self
        cells = self.grid.within(frame)

        def laid(masks: Bool[np.ndarray, "*slots tokens"]) -> Bool[np.ndarray, "*slots tokens"]:
            found = np.zeros((*masks.shape[:-1], frame.size), dtype=bool)
            found[..., cells] = masks
            return found

        return SceneTokens(frame, laid(self.objects), laid(self.strips), ~laid(self.inside), self.slots)

    def mask(self, token_set: TokenSet, slots: Sequence[int]) -> Bool[np.ndarray, " tokens"]:
        """Union of ``token_set`` over ``slots``. ``background`` (no object at all) and ``all`` ignore ``slots``."""
        chosen = self.rows(slots) if token_set in ("object", "strip", "rim") else []
        match token_set:
            case "object":
                return _union(self.objects[chosen])
            case "strip":
                return _union(self.strips[chosen])
            case "rim":
                return _union(self.strips[chosen]) & ~_union(self.objects[chosen])
            case "background":
                return ~_union(self.objects) & self.inside
            case "all":
                return self.inside
        raise UserError(f"token set {token_set!r}: allowed are {', '.join(TOKEN_SETS)}")


def scene_tokens(
    boxes: Sequence[Box],
    grid: TokenGrid,
    width: float,
    height: float,
    axis: Axis,
    picture: Box | None = None,
    bands: Sequence[float] | None = None,
    slots: Sequence[int] = (),
) -> SceneTokens:
    """Token sets of a scene whose objects' pixel boxes are ``boxes``, in slot order.

    Args:
        picture: where the picture lies, if it does not fill the image. Cells less than half covered by it and by no object are padding.
        bands: see :func:`strip_labels`.
        slots: of the objects; counted through by default.
    """
    labels = strip_labels(boxes, grid, width, height, axis, bands)
    objects = np.stack([object_tokens(box, grid, width, height) for box in boxes])
    inside = picture_tokens(objects, grid, width, height, picture)
    strips = np.stack([(labels == place) & inside for place in range(len(boxes))])
    return SceneTokens(grid, objects, strips, None if inside.all() else ~inside, tuple(slots))


def picture_tokens(
    objects: Bool[np.ndarray, "objects tokens"], grid: TokenGrid, width: float, height: float, picture: Box | None
) -> Bool[np.ndarray, " tokens"]:
    """Cells that are no padding: at least half covered by ``picture``, or an object's; all where the picture fills the image."""
    if picture is None:
        return np.ones(grid.size, dtype=bool)
    return (coverage(picture, grid, width, height) >= 0.5 - _TIE) | _union(objects)


def matched_blocks(
    tokens: SceneTokens, first: int, second: int, token_set: Literal["object", "strip"]
) -> tuple[Int[np.ndarray, " block"], Int[np.ndarray, " block"]]:
    """Two equally long lists of cells, of slots ``first`` and ``second``, that lie alike around their objects.

    Cell ``k`` of both lists has the same offset from the first (top-left) object cell of its slot; offsets that
    only one of the two slots has are left out. Used to exchange the blocks of two slots.

    Raises:
        UserError: if the two objects do not cover the same offsets, so that an exchange would mix object and rim.
    """
    masks = tokens.objects if token_set == "object" else tokens.strips
    by_offset = []
    object_offsets = []
    for row in tokens.rows((first, second)):
        origin = _cells(tokens.objects[row], tokens.grid).min(axis=0)
        cells = _cells(masks[row], tokens.grid)
        by_offset.append({tuple(cell - origin): int(cell[0] * tokens.grid.cols + cell[1]) for cell in cells})
        object_offsets.append({tuple(cell - origin) for cell in _cells(tokens.objects[row], tokens.grid)})
    if object_offsets[0] != object_offsets[1]:
        raise UserError(f"slots {first} and {second}: their objects cover different cells, so no exchange is defined")
    shared = sorted(by_offset[0].keys() & by_offset[1].keys())
    # Two strips may share no offset at all: an empty block is still one of indices.
    return np.array([by_offset[0][o] for o in shared], dtype=int), np.array([by_offset[1][o] for o in shared], dtype=int)


def _union(masks: Bool[np.ndarray, "slots tokens"]) -> Bool[np.ndarray, " tokens"]:
    return np.logical_or.reduce(masks, axis=0)


def _cells(mask: Bool[np.ndarray, " tokens"], grid: TokenGrid) -> Int[np.ndarray, "cells 2"]:
    return np.stack(np.divmod(np.flatnonzero(mask), grid.cols), axis=1)
