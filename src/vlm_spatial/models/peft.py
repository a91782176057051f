"""LoRA adapters in PEFT's format, merged into a loaded model: ``W + scale · B A`` for every matrix that they name."""

import hashlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.weights import check_header, tensors_identity, weights_identity

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# What would change the formula, and the value at which it does not.
_PLAIN: dict[str, Any] = {"use_dora": False, "fan_in_fan_out": False, "lora_bias": False, "alpha_pattern": {}, "rank_pattern": {}}
# Names that earlier releases of transformers gave to the modules of today's.
_RENAMED = (
    ("", ""),
    (r"^model\.layers\.", "model.language_model.layers."),
    (r"^visual\.", "model.visual."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^language_model\.lm_head", "lm_head"),
)


def check_peft(folder: Path) -> dict[str, Any]:
    """The settings of a LoRA adapter that can be merged.

    Raises:
        UserError: if it is none, of another kind, or not whole.
    """
    if not (folder / CONFIG).is_file() or not (folder / TENSORS).is_file():
        raise UserError(f"{folder}: no PEFT adapter, it needs {CONFIG} and {TENSORS}")
    config = read_json(folder / CONFIG, "download or save the adapter again")
    if not isinstance(config, dict) or str(config.get("peft_type")).upper() != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(f"{folder / CONFIG}: peft_type {kind}; only LORA can be merged here: merge it with PEFT, and save the whole model")
    for key, plain in _PLAIN.items():
        if config.get(key, plain) not in (plain, None):
            raise UserError(f"{folder / CONFIG}: {key} {config[key]} is not supported; merge it with PEFT, and save the whole model")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{folder / CONFIG}: needs r and lora_alpha, found {rank} and {alpha}")
    check_header(folder / TENSORS)
    return config


def identity_with_peft(folder: Path, peft: str | None) -> str:
    """Identity of a checkpoint's weights, and of the adapter that is merged into them: its tensors and their scale."""
    weights = weights_identity(folder)
    if peft is None:
        return weights
    adapter = Path(peft)
    added = f"{weights} + {tensors_identity([adapter / TENSORS])} x {_scale(check_peft(adapter))!r}"
    return hashlib.sha256(added.encode()).hexdigest()


def merge_peft(model: "nn.Module", folder: Path) -> None:
    """Add a LoRA adapter to the weights of ``model``, in float32 and then in the model's own type.

    Raises:
        UserError: if it names a module that the model does not have, or of another shape, or holds other tensors.
    """
    from safetensors.torch import load_file

    scale = _scale(check_peft(folder))
    tensors = load_file(folder / TENSORS)
    modules = dict(model.named_modules())
    for name in sorted(tensors):
        if name.endswith(".lora_B.weight"):
            continue
        if not name.endswith(".lora_A.weight"):
            raise UserError(f"{folder / TENSORS}: holds {name}, which is no LoRA matrix; merge it with PEFT, and save the whole model")
        own = name.removesuffix(".lora_A.weight").removeprefix("base_model.model.")
        weight = _weight(modules, own, folder)
        up, down = tensors.get(name.replace("lora_A", "lora_B")), tensors[name]
        if (
            up is None
            or up.ndim != 2
            or down.ndim != 2
            or (up.shape[0], down.shape[1]) != tuple(weight.shape)
            or up.shape[1] != down.shape[0]
        ):
            raise UserError(f"{folder / TENSORS}: {own} does not fit the model's weight {list(weight.shape)}; is it of another base model?")
        step = scale * (up.float() @ down.float())
        weight.data.copy_((weight.data.float() + step.to(weight.device)).to(weight.dtype))


def _scale(config: dict[str, Any]) -> float:
    rank, alpha = config["r"], float(config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _weight(modules: dict[str, "nn.Module"], name: str, folder: Path) -> "Tensor":
    for old, new in _RENAMED:
        module = modules.get(re.sub(old, new, name) if old else name)
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 2:
            return weight
    raise UserError(f"{folder / TENSORS}: is for a module {name}, which the model does not have; is it of another base model?")
