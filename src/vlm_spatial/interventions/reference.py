"""Interventions the plain way, one full hooked forward pass a patch: what the engine must equal."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.check import check
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch, Run
from vlm_spatial.models.adapter import Adapter, Edit, Site, SiteValues


def run_plain(adapter: Adapter, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
    """Next-token logits of every patched run, float32 on the CPU.

    Raises:
        UserError: as :func:`vlm_spatial.interventions.check.check`.
    """
    check(adapter, pairs, patches)
    rows = []
    for patch in patches:
        pair = pairs[patch.pair]
        source = pair.clean if patch.source == CLEAN else pair.sources[patch.source]
        edits = clean_edits(pair.clean)
        earlier = edits.get(patch.site)
        replace = patch_edit(patch, _values(adapter, source, patch.site))
        # At the connector an ablation comes first, then the patch.
        edits[patch.site] = replace if earlier is None else _in_turn(earlier, replace)
        prepared = adapter.prepare([pair.clean.image], [pair.clean.prompt])
        rows.append(adapter.run(prepared, edits=edits)[0].cpu())
    return torch.cat(rows) if rows else torch.empty(0, adapter.vocabulary)


def clean_edits(run: Run) -> dict[Site, Edit]:
    """The edits that belong to a run itself, before any patch."""
    return {} if run.connector is None else {"connector": run.connector}


def patch_edit(patch: Patch, source: SiteValues) -> Edit:
    """The patch as a function of all values at its site; ``source`` holds those of the source run, batch 1."""
    to_cells = torch.as_tensor(patch.to_cells)
    from_cells = to_cells if patch.from_cells is None else torch.as_tensor(patch.from_cells)

    def edit(values: SiteValues) -> SiteValues:
        new = source[0, from_cells].to(values)
        if patch.transform is not None:
            new = patch.transform(values[0, to_cells], new).to(values)
        edited = values.clone()
        edited[0, to_cells] = new
        return edited

    return edit


def _values(adapter: Adapter, run: Run, site: Site) -> SiteValues:
    prepared = adapter.prepare([run.image], [run.prompt])
    values = adapter.run(prepared, edits=clean_edits(run), capture=[site])[1][site]
    return run.connector(values) if site == "connector" and run.connector is not None else values


def _in_turn(first: Edit, second: Edit) -> Edit:
    return lambda values: second(first(values))
