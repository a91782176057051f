"""A correction that works outside this workflow: a small file, and a hook on a stock transformers model."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from vlm_spatial.amplification.corrections import Basis, Projection
from vlm_spatial.errors import UserError
from vlm_spatial.files import written_then_renamed
from vlm_spatial.models.families import ARCHITECTURES, family_of

_FORMATS = ("vlm_spatial.correction.1", "vlm_spatial.correction.2")


@dataclass(frozen=True)
class Correction:
    """The label-free amplification of one model: ``h + (alpha - 1) P (h - centre)`` on the output of one module.

    Attributes:
        basis: ``[rank, features]``, orthonormal.
        module: dotted name of the module inside the transformers model.
        weights: identity of the weights it was made for.
        centre: ``[features]``, the mean token; None in files of format 1, which had none.
    """

    basis: Basis
    alpha: float
    module: str
    site: str
    architecture: str
    weights: str
    centre: Float[np.ndarray, " features"] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise UserError(f"alpha: {self.alpha} is not a number to scale by; give a finite one, 1 changes nothing")

    def save(self, path: Path) -> None:
        """Write a safetensors file with the basis and, as metadata, everything else."""
        about = {
            "alpha": repr(self.alpha),
            "module": self.module,
            "site": self.site,
            "architecture": self.architecture,
            "weights": self.weights,
            "format": _FORMATS[-1],
        }
        arrays = {"basis": self.basis} | ({} if self.centre is None else {"centre": self.centre})
        with written_then_renamed(Path(path)) as temporary:
            save_file({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}, temporary, metadata=about)

    @classmethod
    def load(cls, path: str | Path) -> "Correction":
        """Read a correction.

        Raises:
            UserError: if the file is missing, damaged, not a correction, or of an architecture that is not supported.
        """
        try:
            with safe_open(path, framework="numpy") as stored:
                about = stored.metadata() or {}
                basis, centre = (stored.get_tensor(name) if name in stored.keys() else None for name in ("basis", "centre"))  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read as safetensors ({error}); make it again with 'vlm-spatial amplify'") from error
        if about.get("format") not in _FORMATS or basis is None:
            raise UserError(f"{path}: is not a correction written by 'vlm-spatial amplify'")
        # Said before a model runs: which part of a module's output is changed is known of supported ones only.
        if (architecture := about["architecture"]) not in ARCHITECTURES:
            raise UserError(f"{path}: is of architecture {architecture}, which is not supported; supported are {', '.join(ARCHITECTURES)}")
        return cls(basis, float(about["alpha"]), about["module"], about["site"], architecture, about["weights"], centre)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """While the block runs, ``model`` (a stock transformers model) is corrected, ``generate()`` included.

        Raises:
            UserError: if the model is of another architecture or width.
        """
        architecture = type(model).__name__
        if architecture != self.architecture:
            raise UserError(f"correction for {self.architecture} cannot be applied to {architecture}")
        # Before transformers' own hooks, which some models collect their vision features with.
        handle = model.get_submodule(self.module).register_forward_hook(self._hook(model), prepend=True)
        try:
            yield
        finally:
            handle.remove()

    def _hook(self, model: nn.Module) -> Callable[..., Any]:
        vision = getattr(getattr(model, "config", None), "vision_config", None)
        family = family_of(self.architecture, getattr(vision, "model_type", None))
        return lambda _module, _inputs, output: family.changed(self.site, output, self._change)

    def _change(self, values: Tensor) -> Tensor:
        if values.shape[-1] != self.basis.shape[1]:
            raise UserError(f"correction of width {self.basis.shape[1]} at {self.module}, whose output has width {values.shape[-1]}")
        return Projection(self.basis, self.alpha, self.centre)(values)

    def describe(self) -> str:
        """One line for people."""
        about = {"site": self.site, "rank": self.basis.shape[0], "width": self.basis.shape[1], "alpha": self.alpha}
        return f"{self.architecture} {json.dumps(about)}"
