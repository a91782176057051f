"""geometry.parquet: subspaces compared across sites, axes and training scenes, and strip indices."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from vlm_spatial.probes.geometry import Basis, compare, content_subspace
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.strips import strip_index
from vlm_spatial.statistics import mean_of_shares
from vlm_spatial.tokens import Axis, TokenGrid

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("measure", "axis", "subspace", "site", "other"), pl.String),
    "angles": pl.List(pl.Float64),
    **dict.fromkeys(("estimate", "low", "high", "chance"), pl.Float64),
    "n": pl.Int64,
}
SUBSPACES = ("logistic", "means")


class GeometryTable:
    """Collects one site after another, then compares."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, str, str, str], Basis] = {}
        self._content: dict[tuple[str, str], Basis] = {}
        self._rows: list[dict[str, Any]] = []

    def slot_subspace(self, axis: Axis, site: str, trained_on: str, probe: Probe) -> None:
        """Keep the subspaces of a fitted probe."""
        for name, basis in zip(SUBSPACES, (probe.subspace(), probe.mean_subspace()), strict=True):
            if len(basis):
                self._bases[axis, site, trained_on, name] = basis

    def content(
        self, axis: Axis, site: str, x: Float[np.ndarray, "rows features"], words: Int[np.ndarray, " rows"], slots: Int[np.ndarray, " rows"]
    ) -> None:
        """Keep the content subspace of a site, from the main training split's object tokens."""
        basis = content_subspace(x, words, slots, rank=len(np.unique(slots)) - 1)
        if basis is not None and len(basis):
            self._content[axis, site] = basis

    def other_dataset(self, axis: Axis, site: str, name: str, here: Probe, there: Probe) -> None:
        """Compare a probe's subspaces with those of the same site's probe trained on another dataset."""
        for subspace, ours, theirs in (
            ("logistic", here.subspace(), there.subspace()),
            ("means", here.mean_subspace(), there.mean_subspace()),
        ):
            if len(ours) and len(theirs):
                self._rows.append(_row("between_datasets", axis, subspace, site, name, ours, theirs))

    def strip_index(
        self,
        axis: Axis,
        site: str,
        scored_on: str,
        maps: Float[np.ndarray, "scenes tokens slots"],
        grid: TokenGrid,
        inside: Bool[np.ndarray, "scenes tokens"] | None = None,
    ) -> None:
        """Mean strip index of the main probe's maps of some scenes, those without variance left out; only cells ``inside`` count."""
        values = strip_index(maps.astype(np.float64), grid, axis, inside)
        values = values[np.isfinite(values)]
        # Bands that run the other way are the lowest there is.
        lines = grid.cols if axis == "horizontal" else grid.rows
        lowest = min([-(lines - 1) / max(grid.size - lines, 1), *values])
        interval = mean_of_shares(values, lowest)
        known = interval.n > 0
        self._rows.append(
            {
                "measure": "strip_index",
                "axis": axis,
                "site": site,
                "other": scored_on,
                "estimate": interval.estimate if known else None,
                "low": interval.low if known else None,
                "high": interval.high if known else None,
                "chance": 0.0,
                "n": interval.n,
            }
        )

    def frame(self) -> pl.DataFrame:
        """All comparisons: ``between_sites``, ``between_axes``, ``between_training``, ``content`` and ``strip_index``."""
        compared = []
        for (axis, site, trained_on, name), basis in self._bases.items():
            if trained_on != "main":
                continue
            for (other_axis, other, other_training, other_name), against in self._bases.items():
                if name != other_name:
                    continue
                if axis == other_axis and other_training == "main" and site < other and _same_space(site, other, basis, against):
                    compared.append(_row("between_sites", axis, name, site, other, basis, against))
                if (site, other_axis, other_training) == (other, "vertical", "main") and axis == "horizontal":
                    compared.append(_row("between_axes", axis, name, site, other_axis, basis, against))
                if (axis, site, other_training) == (other_axis, other, "decorrelated"):
                    compared.append(_row("between_training", axis, name, site, other_training, basis, against))
            if (axis, site) in self._content:
                compared.append(_row("content", axis, name, site, "content", basis, self._content[axis, site]))
        return pl.DataFrame([*compared, *self._rows], schema=SCHEMA)


def _same_space(site: str, other: str, first: Basis, second: Basis) -> bool:
    """Vision blocks share one residual stream; the connector and the language blocks share another."""
    return site.startswith("vision.") == other.startswith("vision.") and first.shape[1] == second.shape[1]


def _row(measure: str, axis: str, name: str, site: str, other: str, first: Basis, second: Basis) -> dict[str, Any]:
    found = compare(first, second)
    return {
        "measure": measure,
        "axis": axis,
        "subspace": name,
        "site": site,
        "other": other,
        "angles": found.angles,
        "estimate": found.overlap,
        "chance": found.chance,
    }
