"""Quantised checkpoints: run where transformers can run them on that device, and refused in one line elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError, first_line

_INSTEAD = "or use the checkpoint in float32, bfloat16 or float16"


def check_quantisation(folder: Path, quantisation: Mapping[str, Any], device: str) -> None:
    """Ask transformers whether it can run these weights.

    Args:
        quantisation: ``quantization_config`` of ``config.json``.
        device: ``cpu``, ``cuda`` or ``auto``. What only a GPU can run passes under ``auto`` on a machine without one, such as the login
            node of a cluster; it is asked for again where the model is loaded.

    Raises:
        UserError: for a method that transformers does not know, a package that is missing, or a device that cannot run it. Also for 8 bits
            of bitsandbytes: their values depend on the batch.
    """
    # Heavy, and most checkpoints are not quantised.
    import torch
    from transformers.quantizers import AutoHfQuantizer

    method, config = quantisation["quant_method"], folder / "config.json"
    if quantisation.get("load_in_8bit"):
        raise UserError(
            f"{config}: the checkpoint is quantised ({method} with 8 bits), which rounds what enters a layer together with the rest of the "
            f"batch, so that a value depends on what is computed beside it; quantise with 4 bits, {_INSTEAD}"
        )
    where = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(device, device)
    try:
        quantiser = AutoHfQuantizer.from_config(dict(quantisation))
        quantiser.validate_environment(dtype=torch.float32, device_map={"": where}, weights_only=True)
    except ImportError as error:
        raise UserError(f"{config}: the checkpoint is quantised ({method}): {first_line(error)}; install it, {_INSTEAD}") from error
    except Exception as error:  # each method says in its own way what it cannot do
        if device == "auto" and where == "cpu" and "GPU" in str(error).upper():
            return
        raise UserError(
            f"{config}: the checkpoint is quantised ({method}), which transformers cannot run on device {where!r} "
            f"({first_line(error)}); try another device, {_INSTEAD}"
        ) from error
