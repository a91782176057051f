"""Muon for the weight matrices, AdamW for the rest, one schedule for both.

AdamW alone stalls at chance on these tasks; with Muon the same models learn in minutes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MATRIX_RATE = 5e-3
OTHER_RATE = 3e-3
WARM_UP_STEPS = 30
LARGEST_GRADIENT = 1.0


class Optimiser:
    """Both optimisers and the schedule as one. Frozen parameters are left alone.

    Args:
        decay_from: share of the steps after which the rate falls linearly to zero.
    """

    def __init__(self, model: nn.Module, steps: int, decay_from: float) -> None:
        self._steps, self._decay_from = steps, decay_from
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = {name for name, p in self._parameters.items() if p.ndim == 2 and not _is_embedding(name)}
        self._groups: dict[str, list[str]] = {
            "matrix": [name for name in self._parameters if name in matrices],
            "other": [name for name in self._parameters if name not in matrices],
        }
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "matrix": torch.optim.Muon(
                [self._parameters[name] for name in self._groups["matrix"]],
                lr=MATRIX_RATE,
                weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            ),
            "other": torch.optim.AdamW([self._parameters[name] for name in self._groups["other"]], lr=OTHER_RATE, weight_decay=0.0),
        }

    def step(self, step: int) -> None:
        """Apply the gradients, clipped, at the rate of ``step`` (from 0), and clear them."""
        nn.utils.clip_grad_norm_(self._parameters.values(), LARGEST_GRADIENT)
        for name, optimiser in self._optimisers.items():
            optimiser.param_groups[0]["lr"] = (MATRIX_RATE if name == "matrix" else OTHER_RATE) * rate(step, self._steps, self._decay_from)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything the optimisers remember, by ``parameter/quantity``."""
        return {
            f"{name}/{key}": torch.as_tensor(value).clone()
            for group, optimiser in self._optimisers.items()
            for name in self._groups[group]
            for key, value in optimiser.state[self._parameters[name]].items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for group, optimiser in self._optimisers.items():
            for name in self._groups[group]:
                parameter = self._parameters[name]
                own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
                # Counts of steps stay on the CPU, as the optimiser makes them.
                optimiser.state[parameter] = {key: value.to(parameter.device) if value.ndim else value for key, value in own.items()}


def rate(step: int, steps: int, decay_from: float) -> float:
    """Learning rate of ``step`` (from 0) as a share of its maximum: warm-up, level, linear decay."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, (steps - step) / (steps * (1 - decay_from)))


def _is_embedding(name: str) -> bool:
    return "embed" in name
