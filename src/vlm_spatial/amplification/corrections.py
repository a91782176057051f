"""What is added to the visual tokens: the two forms of amplification, and the controls they are held against.

All of them work on the last dimension alone, so they fit any layout of tokens. Orthonormal bases have shape
``[rank, features]``; the part of ``h`` inside one is ``h B' B``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.probes.saved import Probes

Basis = Float[np.ndarray, "rank features"]


def joint_basis(bases: Sequence[Basis]) -> Basis:
    """Orthonormal basis of the span of several subspaces (of the axes' probes, say)."""
    stacked = np.concatenate(bases)
    _, singular, rows = np.linalg.svd(stacked, full_matrices=False)
    return rows[singular > singular.max() * 1e-6]


def probe_basis(probes: Probes, site: str, weights: str, features: int, *, shuffled: bool = False) -> Basis:
    """The slot subspace that needs no knowledge of the axis: the span over the axes' probes at ``site``.

    Args:
        weights: identity of the weights that it is going to be used with.
        features: width of the site in that model.
        shuffled: of the probes for shuffled labels instead, a control.

    Raises:
        UserError: if the probes belong to other weights or are of another width, or there is none at ``site``.
    """
    trained_on = probes.metadata["identity"]["weights"]
    if trained_on != weights:
        raise UserError(f"{probes.source}: trained on weights {trained_on}, the model has {weights}; make the probes again")
    there = [probe for (_, where), probe in sorted(probes.items()) if where == site]
    if not there:
        known = ", ".join(sorted({where for _, where in probes})) or "none"
        raise UserError(f"{probes.source}: no probe for {site}; there are {known} (see activations.sites)")
    for probe in there:
        if probe.weight.shape[1] != features:
            raise UserError(f"{probes.source}: the probe of {site} has {probe.weight.shape[1]} features, the model has {features} there")
    return joint_basis([probe.shuffled_subspace() if shuffled else probe.subspace() for probe in there])


def probe_centre(probes: Probes, site: str) -> Float[np.ndarray, " features"]:
    """The mean object token at ``site``, training scenes: over the axes' probes."""
    return np.mean([probe.mean for (_, where), probe in sorted(probes.items()) if where == site], axis=0)


@dataclass(frozen=True)
class Projection:
    """``h + (alpha - 1) P (h - centre)``: needs no label, no box and no axis. ``alpha = 1`` changes nothing.

    Without a centre the part of the mean token that lies inside the subspace, which tells no slots apart, is scaled along.
    """

    basis: Basis
    alpha: float
    centre: Float[np.ndarray, " features"] | None = None

    def __call__(self, values: Float[Tensor, "*any features"]) -> Float[Tensor, "*any features"]:
        if self.alpha == 1.0:
            return values
        return values + (self.alpha - 1.0) * _inside(values, self.basis, self.centre)


@dataclass(frozen=True)
class NormMatched:
    """A control: each token moves as far as :class:`Projection` would move it, but inside another subspace.

    With ``complement`` the move is inside the orthogonal complement of ``basis`` itself.
    """

    reference: Basis
    basis: Basis
    alpha: float
    complement: bool = False
    centre: Float[np.ndarray, " features"] | None = None

    def __call__(self, values: Float[Tensor, "*any features"]) -> Float[Tensor, "*any features"]:
        if self.alpha == 1.0:
            return values
        length = _inside(values, self.reference, self.centre).norm(dim=-1, keepdim=True)
        move = _inside(values, self.basis, self.centre)
        if self.complement:
            move = (values if self.centre is None else values - _like(self.centre, values)) - move
        # A token with nothing inside the subspace has no direction to move along and stays.
        move = move / move.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        return values + (self.alpha - 1.0) * length * move


@dataclass(frozen=True)
class Oracle:
    """``h + alpha d(slot of the cell's strip)``: the paper's setting; it needs the boxes. ``alpha = 0`` changes nothing.

    Attributes:
        directions: ``[slots, features]``, what one natural unit of each slot's signal is.
        slots: ``[cells]``, the slot whose strip each cell lies in; cells of padding have -1, and stay as they are.
    """

    directions: Float[np.ndarray, "slots features"]
    slots: Int[np.ndarray, " cells"]
    alpha: float

    def __call__(self, values: Float[Tensor, "cells patches features"]) -> Float[Tensor, "cells patches features"]:
        if self.alpha == 0.0:
            return values
        of_cells = np.where(self.slots[:, None] >= 0, self.directions[self.slots], 0.0)
        step = torch.as_tensor(of_cells, dtype=values.dtype, device=values.device)
        return values + self.alpha * step[:, None, :]


def slot_directions(class_mean: Float[np.ndarray, "slots features"], basis: Basis) -> Float[np.ndarray, "slots features"]:
    """Each slot's mean offset from the mean of the slots, kept inside ``basis``: one unit of the natural slot signal."""
    offset = class_mean - class_mean.mean(axis=0)
    return offset @ basis.T @ basis


def turned(directions: Float[np.ndarray, "slots features"], basis: Basis, other: Basis) -> Float[np.ndarray, "slots features"]:
    """Directions inside ``basis``, turned into another subspace of equal rank; their lengths and the angles between them stay."""
    return directions @ basis.T @ other


def _inside(
    values: Float[Tensor, "*any features"], basis: Basis, centre: Float[np.ndarray, " features"] | None = None
) -> Float[Tensor, "*any features"]:
    rows = _like(basis, values)
    inside = values @ rows.T
    return (inside if centre is None else inside - _like(basis @ centre, values)) @ rows


def _like(numbers: np.ndarray, values: Tensor) -> Tensor:
    return torch.as_tensor(numbers, dtype=values.dtype, device=values.device)
