"""What an intervention is: which run, which site, which cells, which values."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.models.adapter import Edit, Site
from vlm_spatial.models.inputs import Prompt

CLEAN = "clean"

Transform = Callable[[Float[Tensor, "cells patches features"], Float[Tensor, "cells patches features"]], Tensor]
"""``(clean values at to_cells, source values at from_cells) -> values written at to_cells``."""


@dataclass(frozen=True)
class Run:
    """One image and its prompt; ``connector`` edits what enters the language model (an ablation), before any patch."""

    image: Image.Image
    prompt: Prompt
    connector: Edit | None = None

    @property
    def shown(self) -> tuple[Image.Image, Prompt, dict[Site, Edit]]:
        """What a plain run of it shows, asks and edits."""
        return self.image, self.prompt, {} if self.connector is None else {"connector": self.connector}


@dataclass(frozen=True)
class PairRuns:
    """A clean run and the named runs that values may be taken from, such as ``counterfactual`` and ``unrelated``."""

    pair_id: str
    clean: Run
    sources: dict[str, Run] = field(default_factory=dict)


@dataclass(frozen=True)
class Patch:
    """Replace the values of ``to_cells`` at ``site`` in the clean run of pair number ``pair``.

    Attributes:
        source: key of the pair's sources, or ``clean`` for the clean run itself.
        from_cells: the source's cells, as many as ``to_cells``; the same cells if None.
        transform: how clean and source values make the new ones; the source's values as they are if None.
    """

    pair: int
    site: Site
    to_cells: Int[np.ndarray, " cells"]
    source: str = "counterfactual"
    from_cells: Int[np.ndarray, " cells"] | None = None
    transform: Transform | None = None
