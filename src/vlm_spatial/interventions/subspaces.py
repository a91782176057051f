"""Random subspaces, controls of those that mean something."""

import numpy as np
from jaxtyping import Float


def random_basis(rank: int, features: int, generator: np.random.Generator) -> Float[np.ndarray, "rank features"]:
    """Orthonormal rows of a uniformly random subspace."""
    found: np.ndarray = np.linalg.qr(generator.standard_normal((features, rank)))[0].T
    return found
