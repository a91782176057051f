"""What an intervention is: which run, which site, which cells or prompt positions, which values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.models.block_edits import BlockEdit
from vlm_spatial.models.inputs import Prompt
from vlm_spatial.models.on_device import on_device
from vlm_spatial.models.values import EMBEDDING, Edit, Site

CLEAN = "clean"

Transform = Callable[[Float[Tensor, "cells patches features"], Float[Tensor, "cells patches features"]], Tensor]
"""``(values at to_cells, source values at from_cells) -> values written at to_cells``. At prompt positions: cells = positions, 1 patch."""

Indices = Int[np.ndarray, " indices"]


@dataclass(frozen=True)
class Run:
    """One image and its prompt, with the edits of an ablation, made before any patch.

    Attributes:
        connector: edits what enters the language model.
        language: edits visual tokens behind language blocks, by site; runs that are patched have none.
    """

    image: Image.Image
    prompt: Prompt
    connector: Edit | None = None
    language: Mapping[Site, Edit] = field(default_factory=dict)

    @property
    def edits_key(self) -> tuple[int, int]:
        """Equal for runs whose edits are the same objects."""
        return id(self.connector), id(self.language) if self.language else 0

    @property
    def shown(self) -> tuple[Image.Image, Prompt, dict[Site, Edit]]:
        """What a plain run of it shows, asks and edits."""
        return self.image, self.prompt, ({} if self.connector is None else {"connector": self.connector}) | dict(self.language)


@dataclass(frozen=True)
class PairRuns:
    """A clean run and the named runs that values may be taken from, such as ``counterfactual`` and ``unrelated``.

    All images give one token grid; prompts may differ.
    """

    pair_id: str
    clean: Run
    sources: dict[str, Run] = field(default_factory=dict)


@dataclass(frozen=True)
class Patch:
    """Replace values at ``site`` in the clean run of pair number ``pair``: those of some cells, or of some prompt positions.

    Attributes:
        to_cells: row-major cells to write to, at any site but ``embedding``.
        source: key of the pair's sources, or ``clean`` for the clean run itself.
        from_cells: the source's cells, as many as ``to_cells``; the same cells if None.
        transform: how the values that are there and the source's make the new ones; the source's as they are if None.
        to_positions: instead of cells, positions in the prompt's tokens, at ``embedding`` or a language site. Negative ones count
            from the end: -1 is where the answer is read.
        from_positions: the source's positions, as many; the same numbers if None, in the source's own prompt.
    """

    pair: int
    site: Site
    to_cells: Indices | None = None
    source: str = "counterfactual"
    from_cells: Indices | None = None
    transform: Transform | None = None
    to_positions: Indices | None = None
    from_positions: Indices | None = None

    def __post_init__(self) -> None:
        # Torch takes small unsigned integers for masks, so all whole numbers become one type.
        for name in ("to_cells", "from_cells", "to_positions", "from_positions"):
            given = getattr(self, name)
            if given is not None:
                array = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
                object.__setattr__(self, name, array.astype(np.int64) if np.issubdtype(array.dtype, np.integer) else array)

    @property
    def of_text(self) -> bool:
        """Whether prompt positions are written, not cells."""
        return self.to_positions is not None

    @property
    def size(self) -> int:
        """Number of cells or positions written."""
        written = self.to_positions if self.to_cells is None else self.to_cells
        return 0 if written is None else len(written)

    def to_places(self, length: int, cells: Indices) -> Indices:
        """Positions written, in a prompt of ``length`` tokens whose cells stand at ``cells``."""
        return _places(self.to_positions, self.to_cells, length, cells)

    def from_places(self, length: int, cells: Indices) -> Indices:
        """Positions read, in the source's prompt of ``length`` tokens whose cells stand at ``cells``."""
        positions = self.to_positions if self.from_positions is None else self.from_positions
        return _places(positions, self.to_cells if self.from_cells is None else self.from_cells, length, cells)


@dataclass(frozen=True)
class InBlocks:
    """An edit inside the language blocks, made in the clean run of pair number ``pair``."""

    pair: int
    edit: BlockEdit


Intervention = Patch | InBlocks | Sequence[Patch | InBlocks]
"""One run: a patch or an edit, or several of one pair, done in the order of computation and, at one place, in the order given."""


def parts_of(intervention: Intervention) -> tuple[Patch | InBlocks, ...]:
    """The patches and edits of one run."""
    return (intervention,) if isinstance(intervention, Patch | InBlocks) else tuple(intervention)


def patches_of(intervention: Intervention) -> tuple[Patch, ...]:
    """The patches of one run."""
    return tuple(part for part in parts_of(intervention) if isinstance(part, Patch))


def edits_of(intervention: Intervention) -> tuple[BlockEdit, ...]:
    """The edits inside language blocks of one run."""
    return tuple(part.edit for part in parts_of(intervention) if isinstance(part, InBlocks))


def boundary(site: Site) -> int:
    """The first language block whose input a site's values are part of."""
    return int(site.split(".")[1]) + 1 if site.startswith("language.") else 0


def in_language(site: Site) -> bool:
    """Whether prompt positions can be addressed at the site."""
    return site == EMBEDDING or site.startswith("language.")


def _places(positions: Indices | None, chosen: Indices | None, length: int, cells: Indices) -> Indices:
    if positions is not None:
        return np.where(positions < 0, positions + length, positions)
    assert chosen is not None
    return cells[chosen]


def patched(patch: Patch, values: Float[Tensor, "cells patches features"], source: Float[Tensor, "cells patches features"]) -> Tensor:
    """A copy of a vision site's or the connector's values with a patch made."""
    assert patch.to_cells is not None
    to_cells = on_device(patch.to_cells, values.device)
    new = source[to_cells if patch.from_cells is None else on_device(patch.from_cells, values.device)].to(values)
    if patch.transform is not None:
        new = patch.transform(values[to_cells], new).to(values)
    edited = values.clone()
    edited[to_cells] = new
    return edited
