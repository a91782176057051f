"""Small arrays on a model's device, without waiting for what it still computes."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def on_device(array: Shaped[np.ndarray, "*shape"] | Tensor, device: torch.device) -> Tensor:
    """A copy of ``array`` on ``device``.

    From pageable memory, a copy to a GPU would first wait for all that was begun there.
    """
    tensor: Any = torch.as_tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
