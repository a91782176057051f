"""What pairs and patches must satisfy; everything is refused before anything runs, naming the pair and the rule."""

from collections.abc import Sequence

import numpy as np
import torch

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.tokens import TokenGrid


def check(adapter: Adapter, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> None:
    """Refuse pairs whose runs differ in token grid or prompt, and patches that do not fit their pair or the model.

    Raises:
        UserError: naming the pair and the rule.
    """
    grids = [_check_pair(adapter, pair) for pair in pairs]
    fitting: set[tuple[object, ...]] = set()
    for index, patch in enumerate(patches):
        if not 0 <= patch.pair < len(pairs):
            raise UserError(f"patch {index}: pair number {patch.pair}; there are {len(pairs)} pairs")
        name = f"pair {pairs[patch.pair].pair_id}, patch at {patch.site}"
        _check_patch(adapter, name, pairs[patch.pair], patch, grids[patch.pair])
        # One transform serves many patches of equal size; trying it once for each size is enough.
        key = (id(patch.transform), patch.site, len(patch.to_cells))
        if patch.transform is not None and key not in fitting:
            _check_transform(adapter, name, patch)
            fitting.add(key)


def _check_pair(adapter: Adapter, pair: PairRuns) -> TokenGrid:
    grid = adapter.grid(*pair.clean.image.size)
    for source, run in pair.sources.items():
        if source == CLEAN:
            raise UserError(f"pair {pair.pair_id}: no source may be called {CLEAN!r}, the name of the clean run itself")
        if run.prompt != pair.clean.prompt:
            raise UserError(f"pair {pair.pair_id}: the prompts of the clean run and of {source!r} differ; they must be the same")
        found = adapter.grid(*run.image.size)
        if found != grid:
            raise UserError(
                f"pair {pair.pair_id}: the clean image has {grid.rows}×{grid.cols} visual tokens, that of {source!r} "
                f"{found.rows}×{found.cols}; both images must give the same token grid"
            )
    return grid


def _check_patch(adapter: Adapter, name: str, pair: PairRuns, patch: Patch, grid: TokenGrid) -> None:
    if patch.site not in adapter.sites:
        raise UserError(f"{name}: the model has no such site; it has {adapter.sites[0]} … {adapter.sites[-1]} and connector")
    if patch.source != CLEAN and patch.source not in pair.sources:
        raise UserError(f"{name}: no source {patch.source!r}; this pair has {', '.join([CLEAN, *pair.sources])}")
    if len(patch.to_cells) == 0:
        raise UserError(f"{name}: the token set is empty; leave such a patch out")
    if patch.from_cells is not None and len(patch.from_cells) != len(patch.to_cells):
        raise UserError(f"{name}: {len(patch.from_cells)} cells to copy from and {len(patch.to_cells)} to write to; they must be as many")
    if len(np.unique(patch.to_cells)) != len(patch.to_cells):
        raise UserError(f"{name}: a cell is written twice; name each cell once")
    for cells in (patch.to_cells, patch.from_cells):
        if cells is not None and not (np.issubdtype(cells.dtype, np.integer) and cells.min() >= 0 and cells.max() < grid.size):
            raise UserError(f"{name}: cells must be whole numbers from 0 to {grid.size - 1}, found {cells.min()} to {cells.max()}")


def _check_transform(adapter: Adapter, name: str, patch: Patch) -> None:
    assert patch.transform is not None
    shape = (len(patch.to_cells), *adapter.site_shape(patch.site))
    blank = torch.zeros(shape, dtype=adapter.dtype, device=adapter.device)
    try:
        found = tuple(patch.transform(blank, blank.clone()).shape)
    except RuntimeError as error:
        raise UserError(f"{name}: its transform cannot take values of shape {shape} ({str(error).splitlines()[0]})") from error
    if found != shape:
        raise UserError(f"{name}: its transform makes values of shape {found}; the site holds {shape} (cells, patches, features)")
