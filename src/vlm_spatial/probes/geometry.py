"""How subspaces lie to each other: angles between slot subspaces, and their overlap with what encodes content."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import subspace_angles

from vlm_spatial.probes.probe import orthonormal_rows

Basis = Float[np.ndarray, "rank features"]


@dataclass(frozen=True)
class Overlap:
    """Principal angles in degrees, smallest first; the mean squared cosine, and what random subspaces of these ranks would give."""

    angles: list[float]
    overlap: float
    chance: float


def compare(first: Basis, second: Basis) -> Overlap:
    """Principal angles between two subspaces of the same space, given by orthonormal rows."""
    angles = np.sort(subspace_angles(first.T, second.T))
    # A random direction has rank/features of its squared length in a fixed subspace.
    chance = max(len(first), len(second)) / first.shape[1]
    return Overlap(np.degrees(angles).tolist(), float((np.cos(angles) ** 2).mean()), chance)


def content_subspace(
    x: Float[np.ndarray, "rows features"], words: Int[np.ndarray, " rows"], slots: Int[np.ndarray, " rows"], rank: int
) -> Basis | None:
    """Orthonormal basis of the ``rank`` main directions in which the mean activations of the answer words differ.

    Means are taken over what is left of the tokens without their slot's mean, since a word that stands more often in one
    slot would carry that slot's code into the content. Only as many directions as the slot subspace has are kept, so
    that their overlap is between equals. None with fewer than two words.
    """
    present = np.unique(words)
    if len(present) < 2:
        return None
    slot_means = {slot: x[slots == slot].mean(axis=0, dtype=np.float64) for slot in np.unique(slots)}
    means = []
    for word in present:
        of_slot = slots[words == word]
        expected = sum((of_slot == slot).mean() * mean for slot, mean in slot_means.items())
        means.append(x[words == word].mean(axis=0, dtype=np.float64) - expected)
    return orthonormal_rows(np.stack(means))[:rank]
