"""What a training that was killed needs to go on as if nothing had happened: safetensors and JSON beside the output."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm_spatial.files import written_then_renamed


@dataclass(frozen=True)
class State:
    """Training after ``step`` steps: every tensor that changes, and the curve up to there."""

    step: int
    tensors: dict[str, Tensor]
    curve: list[dict[str, Any]]


class Savepoint:
    """One file, replaced at every save.

    Args:
        path: where; hidden beside the output, and removed when training is done.
        identity: everything that the training depends on, plain builtins. A state of another identity is not used.
    """

    def __init__(self, path: Path, identity: Any) -> None:
        self._path = path
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def save(self, state: State) -> None:
        """Replace the saved state, whole or not at all."""
        metadata = {"identity": self._identity, "step": str(state.step), "curve": json.dumps(state.curve)}
        with written_then_renamed(self._path) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}, temporary, metadata=metadata)

    def load(self) -> State | None:
        """The saved state, or None if there is none of this identity. Floats come back exactly."""
        if not self._path.is_file():
            return None
        try:
            with safe_open(self._path, framework="pt") as stored:
                metadata = stored.metadata()
                if metadata["identity"] != self._identity:
                    return None
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
        except SafetensorError:
            # Not ours to repair: training from the start gives the same organism.
            return None
        return State(int(metadata["step"]), tensors, json.loads(metadata["curve"]))

    def remove(self) -> None:
        """Forget the saved state."""
        self._path.unlink(missing_ok=True)
