"""The device that a setting names, how it computes, and small arrays put on it.

Nothing here waits for what the device still computes.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from vlm_spatial.errors import UserError


def device_named(name: str, key: str = "device") -> torch.device:
    """The device that a setting asks for: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.

    Args:
        key: the setting's name, for messages.

    Raises:
        UserError: for another name, and for ``cuda`` where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"{key} {name!r}: allowed are auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} 'cuda': this machine has none that torch can use; set {key} to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_up_cuda() -> None:
    """What this process computes on CUDA devices: float32 in full, and no attention by cuDNN.

    TF32, which convolutions use by default, moves logits by up to 0.05. cuDNN plans attention anew for each shape, and ours have many: with
    it, the first patch sweep of a 7B model took 11 s on an H200, without it 3.4 s, and later ones 0.6 s either way.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def on_device(array: Shaped[np.ndarray, "*shape"] | Tensor, device: torch.device) -> Tensor:
    """A copy of ``array`` on ``device``.

    From pageable memory, a copy to a GPU would first wait for all that was begun there.
    """
    tensor: Any = torch.as_tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
