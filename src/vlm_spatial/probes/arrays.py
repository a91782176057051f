"""What numpy on the CPU and torch on a GPU do differently; all else is written once, in the names that both have.

On one core torch takes 1.4 to 2.7 times as long as numpy (64 to 3,584 features), so the CPU has numpy. Torch is imported only where a
tensor is met or asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from vlm_spatial.errors import UserError

Array = Any
"""A numpy array, or a tensor on a device."""

# Of fewer features a fit takes the host as long as it takes a GPU to be started and told.
_WIDE = 512
# Rows handled at once fit a core's cache, so that scores and gradient read the features from memory only once.
_BLOCK_BYTES = 1 << 21


def device_for(asked: str, model: str, features: int) -> str:
    """``cpu`` or ``cuda``: where probes are fitted.

    Args:
        asked: the setting ``probes.device``.
        model: the model's own setting ``device``.
        features: of the widest site.

    Raises:
        UserError: if CUDA is asked for and there is none.
    """
    if asked == "cpu" or (asked == "auto" and (model == "cpu" or features < _WIDE)):
        return "cpu"
    from vlm_spatial.models.on_device import device_named, set_up_cuda

    set_up_cuda()
    return device_named(asked, "probes.device").type


def placed(x: Float[np.ndarray, "rows features"], device: str) -> Float[Array, "rows features"]:
    """``x`` itself for ``cpu``, or a tensor on the device."""
    if device == "cpu":
        return x
    import torch

    return torch.asarray(x, device=device)


@contextmanager
def enough_memory(device: str) -> Iterator[None]:
    """Turns a GPU's lack of memory into one line that names the settings which help.

    Raises:
        UserError: when it happens.
    """
    if device == "cpu":
        yield
        return
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the object tokens of one site's training scenes do not fit into the GPU's memory; set probes.device to cpu, or store fewer "
            "activations.tokens"
        ) from error


def namespace(x: Array) -> Any:
    """The module whose arrays ``x`` is one of: numpy or torch."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def block_rows(x: Float[Array, "rows features"]) -> int:
    """How many rows to handle at once."""
    return max(256, _BLOCK_BYTES // (4 * max(1, x.shape[1]))) if isinstance(x, np.ndarray) else max(1, len(x))


def cholesky_solver(
    metric: Float[Array, "features features"],
) -> Callable[[Float[Array, "vectors features"]], Float[Array, "vectors features"]]:
    """A function that solves ``metric · y = x`` for each row of what it is given; all in single precision. ``metric`` may be overwritten.

    Raises:
        LinAlgError: of numpy or of torch, if ``metric`` is not positive definite.
    """
    if isinstance(metric, np.ndarray):
        factor = cho_factor(metric, overwrite_a=True, check_finite=False)
        return lambda x: cho_solve(factor, x.T, check_finite=False).T
    import torch

    lower = torch.linalg.cholesky(metric)
    # Substitution is a chain of tiny steps, which a GPU is slow at; two products are not, and stay positive definite.
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower), device=lower.device), upper=False)
    return lambda x: (x @ inverse.mT) @ inverse


def solve(a: Float[Array, "*batch n n"], b: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Solutions of small systems."""
    if isinstance(a, np.ndarray):
        found: Float[np.ndarray, "*batch n"] = np.linalg.solve(a, b[..., None])[..., 0]
        return found
    import torch

    # Without the check of its result, for which the host would wait.
    return torch.linalg.solve_ex(a, b)[0]


def on_host(x: Array) -> np.ndarray:
    """The same as a numpy array."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu())
