"""What pairs and patches must satisfy; everything is refused before anything runs, naming the pair and the rule."""

from collections.abc import Sequence

import numpy as np
import torch

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.patch import CLEAN, Intervention, PairRuns, Patch, Run, edits_of, in_language, parts_of, patches_of
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, HeadOutput, Knockout, PositionIds, Rescaled, head_count, head_width, places
from vlm_spatial.models.values import EMBEDDING
from vlm_spatial.tokens import TokenGrid


def check(adapter: Adapter, pairs: Sequence[PairRuns], interventions: Sequence[Intervention]) -> None:
    """Refuse pairs whose runs differ in token grid, and patches that do not fit their pair or the model.

    Raises:
        UserError: naming the pair and the rule.
    """
    grids = [_check_pair(adapter, pair) for pair in pairs]
    fitting: set[tuple[object, ...]] = set()
    for pair in pairs if interventions else []:
        if any(run.language for run in (pair.clean, *pair.sources.values())):
            raise UserError(
                f"pair {pair.pair_id}: runs with edits behind language blocks cannot be patched; leave the edits or the patches out"
            )
    for index, intervention in enumerate(interventions):
        parts = parts_of(intervention)
        if len({part.pair for part in parts}) != 1:
            raise UserError(f"intervention {index}: needs patches of one pair, found {len(parts)} of pairs {[part.pair for part in parts]}")
        if not 0 <= parts[0].pair < len(pairs):
            raise UserError(f"patch {index}: pair number {parts[0].pair}; there are {len(pairs)} pairs")
        for edit in edits_of(intervention):
            check_edit(adapter, f"pair {pairs[parts[0].pair].pair_id}", edit, _length(adapter, pairs[parts[0].pair].clean))
        for patch in patches_of(intervention):
            name = f"pair {pairs[patch.pair].pair_id}, patch at {patch.site}"
            _check_patch(adapter, name, pairs[patch.pair], patch, grids[patch.pair])
            # One transform serves many patches of equal size; trying it once for each size is enough.
            key = (id(patch.transform), patch.site, patch.size)
            if patch.transform is not None and key not in fitting:
                _check_transform(adapter, name, patch)
                fitting.add(key)


def check_edit(adapter: Adapter, name: str, edit: BlockEdit, length: int) -> None:
    """Refuse an edit inside language blocks that the model or a prompt of ``length`` tokens cannot have.

    Raises:
        UserError: naming what is wrong, and what is allowed.
    """
    name, depth = f"{name}, {_EDITS[type(edit)]}", len(adapter.language_blocks)
    if not 0 <= edit.first <= edit.last < depth:
        raise UserError(f"{name}: language blocks {edit.first} to {edit.last}; this model has 0 to {depth - 1}")
    kind = getattr(adapter.model.config, "_attn_implementation", None) or adapter.identity.attention
    if isinstance(edit, Knockout) and kind.startswith(("flash", "flex")):
        raise UserError(f"{name}: needs a mask, which attention {kind!r} cannot take; load the model with attention 'sdpa' or 'eager'")
    if isinstance(edit, PositionIds):
        expected = (*adapter.position_axes, 1, length)
        if tuple(edit.ids.shape) != expected:
            raise UserError(f"{name}: ids of shape {tuple(edit.ids.shape)}; this prompt has {expected}")
        return
    heads = (edit.heads or ()) if isinstance(edit, HeadOutput | Knockout) else ()
    for head in heads:
        if not 0 <= head < head_count(adapter):
            raise UserError(f"{name}: head {head}; this model has 0 to {head_count(adapter) - 1}")
    _check_indices(name, "position", edit.queries, None, length, length)
    if isinstance(edit, HeadOutput):
        expected = (len(edit.queries), len(edit.heads), head_width(adapter))
        if tuple(edit.values.shape) != expected:
            raise UserError(f"{name}: values of shape {tuple(edit.values.shape)}; needed are {expected} (positions, heads, head width)")
    else:
        _check_indices(name, "position", edit.keys, None, length, length)
        if isinstance(edit, Rescaled) and np.intersect1d(places(edit.queries, length), places(edit.keys, length)).size:
            raise UserError(f"{name}: a position is among those that see and those that are seen; a position always sees itself as it is")


_EDITS = {Knockout: "attention knockout", Rescaled: "attention scaling", HeadOutput: "head output", PositionIds: "position ids"}


def _check_pair(adapter: Adapter, pair: PairRuns) -> TokenGrid:
    grid = adapter.grid(*pair.clean.image.size)
    for source, run in pair.sources.items():
        if source == CLEAN:
            raise UserError(f"pair {pair.pair_id}: no source may be called {CLEAN!r}, the name of the clean run itself")
        found = adapter.grid(*run.image.size)
        if found != grid:
            raise UserError(
                f"pair {pair.pair_id}: the clean image has {grid.rows}×{grid.cols} visual tokens, that of {source!r} "
                f"{found.rows}×{found.cols}; both images must give the same token grid"
            )
    return grid


def _check_patch(adapter: Adapter, name: str, pair: PairRuns, patch: Patch, grid: TokenGrid) -> None:
    if patch.site not in (*adapter.sites, EMBEDDING):
        raise UserError(f"{name}: the model has no such site; it has {adapter.sites[0]} … {adapter.sites[-1]} and connector")
    if patch.source != CLEAN and patch.source not in pair.sources:
        raise UserError(f"{name}: no source {patch.source!r}; this pair has {', '.join([CLEAN, *pair.sources])}")
    if (patch.to_cells is None) == (patch.to_positions is None):
        raise UserError(f"{name}: give either to_cells or to_positions")
    if patch.of_text:
        if not in_language(patch.site):
            raise UserError(f"{name}: prompt positions exist at {', '.join(adapter.text_sites)} only; give to_cells here")
        if patch.from_cells is not None:
            raise UserError(f"{name}: to_positions goes with from_positions, not from_cells")
        source = pair.clean if patch.source == CLEAN else pair.sources[patch.source]
        _check_indices(name, "position", patch.to_positions, patch.from_positions, _length(adapter, pair.clean), _length(adapter, source))
    else:
        if patch.site == EMBEDDING:
            raise UserError(f"{name}: cells enter at connector; give to_positions here, or the site connector")
        if patch.from_positions is not None:
            raise UserError(f"{name}: to_cells goes with from_cells, not from_positions")
        _check_indices(name, "cell", patch.to_cells, patch.from_cells, grid.size, grid.size)


def _check_indices(name: str, what: str, to: np.ndarray | None, taken: np.ndarray | None, size: int, source_size: int) -> None:
    """Whole numbers in range, as many to read as to write; each is written once. Positions may count from the end."""
    assert to is not None
    for indices in (to,) if taken is None else (to, taken):
        if indices.dtype == bool:
            raise UserError(f"{name}: {what}s must be whole numbers, found a mask; give np.flatnonzero(mask)")
        if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
            raise UserError(f"{name}: {what}s must be whole numbers in one list, found {indices.dtype} of shape {indices.shape}")
    if len(to) == 0:
        raise UserError(f"{name}: the token set is empty; leave such a patch out")
    if taken is not None and len(taken) != len(to):
        raise UserError(f"{name}: {len(taken)} {what}s to copy from and {len(to)} to write to; they must be as many")
    for indices, limit in ((to, size), (to if taken is None else taken, source_size)):
        lowest = -limit if what == "position" else 0
        if not (indices.min() >= lowest and indices.max() < limit):
            raise UserError(f"{name}: {what}s must be whole numbers from {lowest} to {limit - 1}, found {indices.min()} to {indices.max()}")
    if len(np.unique(np.where(to < 0, to + size, to))) != len(to):
        raise UserError(f"{name}: a {what} is written twice; name each {what} once")


def _length(adapter: Adapter, run: Run) -> int:
    return adapter.tokens(run.image, run.prompt)[0].shape[1]


def _check_transform(adapter: Adapter, name: str, patch: Patch) -> None:
    assert patch.transform is not None
    shape = (patch.size, *adapter.site_shape(patch.site))
    blank = torch.zeros(shape, dtype=adapter.dtype, device=adapter.device)
    try:
        found = tuple(patch.transform(blank, blank.clone()).shape)
    except RuntimeError as error:
        raise UserError(f"{name}: its transform cannot take values of shape {shape} ({str(error).splitlines()[0]})") from error
    if found != shape:
        raise UserError(f"{name}: its transform makes values of shape {found}; the site holds {shape} (cells, patches, features)")
