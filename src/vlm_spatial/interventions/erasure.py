"""Linear erasure of the slot from visual tokens (LEACE, Belrose et al. 2023, through the library concept-erasure).

What is erased, and why. A token's slot is the strip it lies in. Fitting on object tokens alone would leave the layout in the background,
where the paper finds it; fitting on all tokens with one label would leave it in the objects, which are few: zero covariance over all
tokens allows opposite covariances within objects and within background. So the concept has two parts, the slot among object tokens and
the slot among background tokens, each centred within its own kind. After erasure no linear classifier beats a constant on either kind.
That a token belongs to an object at all is not part of the concept and stays, as does everything about its content.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from concept_erasure import LeaceEraser, LeaceFitter
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.values import SiteValues
from vlm_spatial.tokens import SceneTokens

# Directions whose whitened covariance with the slot is below this are rounding, not signal.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Erasure:
    """An affine map that removes the slot, as ``x − (x − mean) Rᵀ Lᵀ`` in float32."""

    left: Float[Tensor, "features rank"]
    right: Float[Tensor, "rank features"]
    mean: Float[Tensor, " features"]

    def __call__(self, values: SiteValues) -> SiteValues:
        """Erase at every visual token of a site with one patch a cell."""
        x = values.float()
        left, right, mean = (part.to(x.device) for part in (self.left, self.right, self.mean))
        return (x - ((x - mean) @ right.mT) @ left.mT).to(values)

    def at(self, cells: Bool[np.ndarray, " cells"]) -> "PartialErasure":
        """The same at some cells only."""
        return PartialErasure(self, torch.as_tensor(cells))


@dataclass(frozen=True)
class PartialErasure:
    """An erasure of the tokens of some cells; the others keep their values."""

    erasure: Erasure
    cells: Bool[Tensor, " cells"]

    def __call__(self, values: SiteValues) -> SiteValues:
        edited = values.clone()
        cells = self.cells.to(values.device)
        edited[:, cells] = self.erasure(values[:, cells])
        return edited


def fit_erasure(values: Iterable[Float[np.ndarray, "cells features"]], scenes: Sequence[SceneTokens], *, background: bool) -> Erasure:
    """Fit on scenes one at a time; the covariances are kept in float64.

    Args:
        values: what each scene's cells hold, in the order of ``scenes``.
        scenes: the token sets of each.
        background: erase the slot from background tokens too; else from object tokens only, and fit on them alone.

    Raises:
        UserError: if there are no scenes.
    """
    if not scenes:
        raise UserError("erasure: no training scene to fit on; set scenes.train above 0")
    # Scenes may have grids of their own: their cells are counted together, one scene after another.
    ends = np.cumsum([tokens.grid.size for tokens in scenes])
    kinds = [np.concatenate([tokens.objects for tokens in scenes], axis=1)]
    if background:
        kinds.append(np.concatenate([tokens.strips & ~tokens.objects.any(axis=0) for tokens in scenes], axis=1))
    labels = np.split(np.concatenate([_centred(members) for members in kinds], axis=-1), ends[:-1])
    fitter: LeaceFitter | None = None
    for x, z, tokens in zip(values, labels, scenes, strict=True):
        chosen = tokens.inside if background else tokens.objects.any(axis=0)
        if fitter is None:
            # The library's trace constraint would mix in another projection and give up the guarantee.
            fitter = LeaceFitter(x.shape[1], z.shape[1], affine=True, constrain_cov_trace=False, dtype=torch.float64, svd_tol=_TOLERANCE)
        fitter.update(torch.as_tensor(x[chosen], dtype=torch.float64), torch.as_tensor(z[chosen]))
    assert fitter is not None
    eraser: LeaceEraser = fitter.eraser
    assert eraser.bias is not None
    return Erasure(eraser.proj_left.float(), eraser.proj_right.float(), eraser.bias.float())


@dataclass(frozen=True)
class Erased:
    """Removes the slot. With ``other``, rows of a random subspace, it moves as far inside that one instead: the control."""

    erasure: Erasure
    other: Float[np.ndarray, "rank features"] | None = None

    def __call__(self, values: Tensor, _source: Tensor) -> Tensor:
        erased = self.erasure(values)
        if self.other is None:
            return erased
        rows = torch.as_tensor(self.other, dtype=values.dtype, device=values.device)
        inside = (values - self.erasure.mean.to(values)) @ rows.mT @ rows
        length = (erased - values).norm(dim=-1, keepdim=True)
        return values - inside / inside.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny) * length


def fit_erasure_of_rows(values: Float[np.ndarray, "rows features"], slots: Int[np.ndarray, " rows"]) -> Erasure:
    """Fit on rows of one kind, such as the residuals at names, by the slot of each; there may be fewer of them than features.

    Directions that no row has stay. The covariance is shrunk, so that rows which were not seen are not thrown far; of few rows some of
    the slot is then left.
    """
    mean = values.mean(axis=0)
    _, lengths, directions = np.linalg.svd(values - mean, full_matrices=False)
    basis = torch.as_tensor(directions[lengths > _TOLERANCE * lengths[0]], dtype=torch.float64)
    x = torch.as_tensor(values - mean, dtype=torch.float64) @ basis.mT
    known = np.unique(slots)
    # The last slot's column follows from the others.
    z = torch.as_tensor((slots[:, None] == known[:-1]).astype(float))
    eraser = LeaceFitter.fit(x, z, affine=True, constrain_cov_trace=False, svd_tol=_TOLERANCE).eraser
    return Erasure((basis.mT @ eraser.proj_left).float(), (eraser.proj_right @ basis).float(), torch.as_tensor(mean).float())


def _centred(members: Bool[np.ndarray, "slots cells"]) -> Float[np.ndarray, "cells concepts"]:
    """One-hot slot of the cells of one kind with mean 0 over that kind, 0 at all others; the last slot's column follows from the others.

    Divided by the square root of the kind's share of cells, so that the rarer kind does not drown.
    """
    inside = np.asarray(members.any(axis=0))
    shares = members.sum(axis=1) / max(int(inside.sum()), 1)
    centred = members - shares[:, None] * inside
    return centred[:-1].T / np.sqrt(max(float(inside.mean()), 1e-12))
