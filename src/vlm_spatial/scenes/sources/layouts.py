"""``layout: blocks``: objects that fill whole visual tokens at three fixed places, as published for three models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from vlm_spatial.config.settings import Count, PositiveCount, Settings

if TYPE_CHECKING:
    from vlm_spatial.tokens import Axis, Box

_SLOTS = 3
JITTERED = "jittered"


class Blocks(Settings):
    """A square canvas of whole visual tokens (cells). The row of three blocks is centred, rounded towards the left (top) border."""

    grid: PositiveCount = Field(description="cells along a side of the canvas, which must be the model's")
    cell: PositiveCount = Field(description="pixels along a side of a cell")
    side: PositiveCount = Field(description="cells along a side of an object")
    gap: Count = Field(description="cells between two objects")
    strips: tuple[Count, Count] | None = Field(
        None, description="first columns (rows, on the vertical axis) of the second and third strip; by default midpoints between objects"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.used > self.grid:
            raise ValueError(f"grid: three objects and two gaps take {self.used} cells, found {self.grid}")
        if self.strips is not None:
            first, second, third = self.starts
            low, high = self.strips
            if not (first + self.side <= low <= second and second + self.side <= high <= third):
                allowed = f"{first + self.side} to {second} and {second + self.side} to {third}"
                raise ValueError(f"strips: must part the objects, so allowed are {allowed}, found {low} and {high}")
        return self

    @property
    def used(self) -> int:
        """Cells that three objects and two gaps take."""
        return _SLOTS * self.side + (_SLOTS - 1) * self.gap

    @property
    def canvas(self) -> int:
        """Pixels along a side of the canvas."""
        return self.grid * self.cell

    @property
    def starts(self) -> tuple[int, int, int]:
        """First cell of each object along the axis."""
        first, step = (self.grid - self.used) // 2, self.side + self.gap
        return first, first + step, first + 2 * step

    @property
    def across(self) -> int:
        """First cell of every object across the axis."""
        return (self.grid - self.side) // 2

    def boxes(self, axis: Axis, starts: tuple[int, int, int] | None = None) -> tuple[Box, Box, Box]:
        """Pixel box of each object.

        Args:
            starts: first cell of each object along the axis; by default the three fixed places.
        """
        first, second, third = (self._box(start, axis) for start in starts or self.starts)
        return first, second, third

    def _box(self, start: int, axis: Axis) -> Box:
        along = (start * self.cell, (start + self.side) * self.cell)
        across = (self.across * self.cell, (self.across + self.side) * self.cell)
        (left, right), (top, bottom) = (along, across) if axis == "horizontal" else (across, along)
        return float(left), float(top), float(right), float(bottom)

    @property
    def bands(self) -> tuple[float, float] | None:
        """Pixels along the axis where one strip ends and the next begins; None for midpoints."""
        return None if self.strips is None else (float(self.strips[0] * self.cell), float(self.strips[1] * self.cell))


LAYOUTS: dict[str, Blocks] = {
    "qwen2-vl": Blocks(grid=12, cell=28, side=2, gap=2, strips=(4, 8)),
    # 15 of 16 cells are used: the row touches the left (top) border, as published.
    "gemma-3": Blocks(grid=16, cell=56, side=3, gap=3, strips=(5, 11)),
    "pixtral": Blocks(grid=15, cell=16, side=2, gap=2, strips=(5, 10)),
}
"""Published geometries, by model."""


def _named(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in (JITTERED, *LAYOUTS):
        raise ValueError(f"must be {JITTERED}, {', '.join(LAYOUTS)}, or a section with grid, cell, side and gap")
    return LAYOUTS.get(value)


Layout = Annotated[Blocks | None, BeforeValidator(_named)]
"""None: objects of several sizes, that stray from their slots' centres."""
