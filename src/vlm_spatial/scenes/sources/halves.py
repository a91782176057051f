"""What'sUp's photos as published: two of them squeezed to a square, cut in the middle and joined, with boxes made by hand.

The boxes are the same for all photos of a reference object. Two sets are published: one that probes were trained on, by reference, and one
whose tokens were exchanged, by model and reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vlm_spatial.tokens import Box

Span = tuple[int, int]
"""First cell, and the cell behind the last one."""
HalvesOf = Literal["qwen2-vl", "gemma-3", "pixtral"]
# Of the canvas's side.
_PARTS = 64


@dataclass(frozen=True)
class Exchanged:
    """Cells of one reference's pictures that are exchanged.

    Attributes:
        rows: of both outer objects.
        left, right: their columns.
        strips: first column of the second and of the third strip.
    """

    rows: Span
    left: Span
    right: Span
    strips: Span


@dataclass(frozen=True)
class Labelled:
    """Where the objects of one reference's pictures stand, in 64ths of the side: rows of the outer ones and of the middle one, columns."""

    outer: Span
    left: Span
    right: Span
    tall: Span
    middle: Span


@dataclass(frozen=True)
class Halves:
    """A square canvas of whole visual tokens.

    Attributes:
        grid: cells along a side.
        cell: pixels along a side of a cell.
        exchanged: by reference; empty where none are published.
    """

    grid: int
    cell: int
    exchanged: Mapping[str, Exchanged] = field(default_factory=dict)

    @property
    def canvas(self) -> int:
        """Pixels along a side."""
        return self.grid * self.cell

    def labelled(self, reference: str) -> tuple[Box, Box, Box]:
        """Boxes in slot order that a probe is trained on, in pixels."""
        where = LABELLED[reference]
        outer, tall = self._cells(where.outer), self._cells(where.tall)
        return self._box(outer, where.left), self._box(tall, where.middle), self._box(outer, where.right)

    def blocks(self, reference: str) -> tuple[Box, Box, Box] | None:
        """Boxes in slot order whose tokens are exchanged, in pixels; the middle one as labelled. None where none are published."""
        where = self.exchanged.get(reference)
        if where is None:
            return None
        return self._of(where.rows, where.left), self.labelled(reference)[1], self._of(where.rows, where.right)

    def bands(self, reference: str) -> tuple[float, float] | None:
        """Pixels where the exchanged strips meet; None where none are published."""
        where = self.exchanged.get(reference)
        return None if where is None else (float(where.strips[0] * self.cell), float(where.strips[1] * self.cell))

    def _box(self, rows: Span, columns: Span) -> Box:
        return self._of(rows, self._cells(columns))

    def _of(self, rows: Span, columns: Span) -> Box:
        left, top, right, bottom = (float(edge * self.cell) for edge in (columns[0], rows[0], columns[1], rows[1]))
        return left, top, right, bottom

    def _cells(self, parts: Span) -> Span:
        """From 64ths: the lower bound is rounded down, the upper one to the nearest."""
        return floor(parts[0] * self.grid / _PARTS), round(parts[1] * self.grid / _PARTS)


LABELLED: dict[str, Labelled] = {
    "chair": Labelled((48, 60), (12, 24), (40, 52), (16, 60), (24, 40)),
    "table": Labelled((40, 60), (8, 16), (48, 56), (20, 60), (16, 48)),
    "armchair": Labelled((52, 60), (8, 20), (44, 56), (24, 60), (20, 44)),
}
HALVES: dict[HalvesOf, Halves] = {
    "qwen2-vl": Halves(
        12,
        28,
        {
            "chair": Exchanged((8, 11), (1, 4), (8, 11), (4, 8)),
            "table": Exchanged((6, 11), (0, 3), (9, 12), (3, 9)),
            "armchair": Exchanged((9, 11), (1, 4), (8, 11), (4, 8)),
        },
    ),
    "gemma-3": Halves(
        16,
        56,
        {
            "chair": Exchanged((12, 15), (3, 6), (10, 13), (6, 10)),
            # Their third strip is four columns wide, and the first one six.
            "table": Exchanged((10, 15), (2, 4), (12, 14), (6, 12)),
            "armchair": Exchanged((13, 15), (2, 5), (11, 14), (5, 11)),
        },
    ),
    "pixtral": Halves(32, 16),
}
"""Published geometries, by model."""
