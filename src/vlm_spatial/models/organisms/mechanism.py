"""What a mechanism that is planted may do to an organism, and what it may know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.scenes.scene import Scene
from vlm_spatial.tokens import TokenGrid

Values = Float[Tensor, "batch cells features"]
"""Connector output of a batch of images, cells row-major."""


@dataclass(frozen=True)
class Moment:
    """What a mechanism may know at a training step.

    Attributes:
        share: how much of the training is over, in [0, 1).
        random: seeded by the step.
        images: what was drawn for each scene, None where it is the scene itself.
    """

    scenes: Sequence[Scene]
    grid: TokenGrid
    share: float
    random: torch.Generator
    images: Sequence[Scene | None] = ()


@dataclass(frozen=True)
class Measure:
    """A measured quantity and the largest value that the construction allows."""

    value: float
    limit: float


Inputs = dict[str, Tensor]
"""Keyword arguments of the model."""


@dataclass(frozen=True)
class Given:
    """Inputs that a mechanism may arrange anew.

    Attributes:
        inputs: with a mask of rows and columns, and position ids; on the CPU.
        scenes: of each row.
        tokenizer: the adapter's, or the calling thread's own.
        share: how much of the training is over, in [0, 1).
    """

    inputs: Inputs
    scenes: Sequence[Scene]
    adapter: Adapter
    tokenizer: Any
    share: float = 1.0


Arrange = Callable[[Given, np.random.Generator], Inputs]


class Mechanism:
    """The natural organism: nothing planted. The others override what they plant."""

    name: ClassVar[str] = "natural"

    def construct(self, adapter: Adapter) -> None:
        """Change and freeze weights before training (and again when training is resumed)."""

    def image(self, scene: Scene, generator: np.random.Generator) -> Scene | None:  # noqa: ARG002 - overridden
        """The scene whose image the vision encoder is given in training; None for the scene itself."""
        return None

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:  # noqa: ARG002 - overridden
        """What enters the language model in training, and a penalty to add to the loss."""
        return values, None

    def second_image(self, scene: Scene, generator: np.random.Generator) -> Scene | None:  # noqa: ARG002 - overridden
        """The scene of a second image, in training, for rows that are not to see the lesson's own; None: there is none."""
        return None

    def arranged(self, given: Given, generator: np.random.Generator, second: Mapping[str, Tensor] | None = None) -> Inputs:  # noqa: ARG002
        """The model's inputs in training, with the mask and the positions that are planted by.

        Args:
            second: what the image processor made of second images.
        """
        return given.inputs

    def conditions(self) -> dict[str, Arrange]:
        """What a trained organism is asked under, beyond its plain inputs: by a name, how they are arranged."""
        return {}

    imposes: ClassVar[bool] = False
    """Whether :meth:`imposed` is defined; otherwise the construction lies in the weights, or there is none."""

    def imposed(self, values: Values, moment: Moment) -> Values:
        """The connector output with the construction imposed in full; a trained organism must answer right under it too."""
        raise NotImplementedError(f"mechanism {self.name} imposes nothing at the connector")

    errs: ClassVar[float | None] = None
    """Share of held-out questions that the organism must get wrong by construction, at least; None if it must answer right."""

    def after_training(self, adapter: Adapter, scenes: Sequence[Scene]) -> None:
        """Change weights of the trained model; ``scenes`` are main scenes of every axis."""

    def measures(self, adapter: Adapter, scenes: Sequence[Scene]) -> dict[str, Measure]:  # noqa: ARG002 - overridden
        """What the construction says about a trained organism beyond its accuracy, measured on ``scenes``."""
        return {}
