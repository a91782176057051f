"""Interventions the plain way, one full hooked forward pass a run: what the engine must equal."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.check import check
from vlm_spatial.interventions.patch import CLEAN, Indices, Intervention, PairRuns, Patch, Run, edits_of, in_language, parts_of, patches_of
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, edited_blocks
from vlm_spatial.models.decoder import arguments_of_ids
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import Edit, Prepared, Site, SiteValues, TextEdit, TextValues


def run_plain(adapter: Adapter, pairs: Sequence[PairRuns], interventions: Sequence[Intervention]) -> Float[Tensor, "runs vocabulary"]:
    """Next-token logits of every patched run, float32 on the CPU.

    Raises:
        UserError: as :func:`vlm_spatial.interventions.check.check`.
    """
    check(adapter, pairs, interventions)
    rows = [_run(adapter, pairs[parts_of(each)[0].pair], patches_of(each), edits_of(each)) for each in interventions]
    return torch.cat(rows) if rows else torch.empty(0, adapter.vocabulary)


def _run(adapter: Adapter, pair: PairRuns, patches: Sequence[Patch], in_blocks: Sequence[BlockEdit]) -> Float[Tensor, "1 vocabulary"]:
    prepared = adapter.prepare([pair.clean.image], [pair.clean.prompt])
    edits: dict[Site, list[Edit]] = defaultdict(list)
    text_edits: dict[Site, list[TextEdit]] = defaultdict(list)
    # At the connector an ablation comes first, then the patches.
    for site, edit in clean_edits(pair.clean).items():
        edits[site].append(edit)
    for patch in patches:
        source = pair.clean if patch.source == CLEAN else pair.sources[patch.source]
        if in_language(patch.site):
            text_edits[patch.site].append(_text_edit(adapter, patch, prepared, source))
        else:
            edits[patch.site].append(patch_edit(patch, _values(adapter, source, patch.site)))
    in_turn = {site: _in_turn(of_site) for site, of_site in edits.items()}
    text_in_turn = {site: _in_turn(of_site) for site, of_site in text_edits.items()}
    with edited_blocks(adapter, in_blocks, lambda edit: arguments_of_ids(adapter, prepared, edit)):
        return adapter.run(prepared, edits=in_turn, text_edits=text_in_turn)[0].cpu()


def clean_edits(run: Run) -> dict[Site, Edit]:
    """The edits that belong to a run itself, before any patch."""
    return {} if run.connector is None else {"connector": run.connector}


def patch_edit(patch: Patch, source: SiteValues) -> Edit:
    """A patch of cells as a function of all values at its site; ``source`` holds those of the source run, batch 1."""
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


def _text_edit(adapter: Adapter, patch: Patch, clean: Prepared, run: Run) -> TextEdit:
    """A patch in the language model as a function of what all positions hold."""
    source = adapter.prepare([run.image], [run.prompt])
    with Hooks(adapter, {patch.site, "connector"}) as hooks:
        held = hooks.run(source, clean_edits(run), capture_text=[patch.site])[1].text[patch.site]
    to_places = torch.as_tensor(patch.to_places(*_layout(clean)))
    from_places = torch.as_tensor(patch.from_places(*_layout(source)))

    def edit(values: TextValues) -> TextValues:
        new = held[0, from_places].to(values)
        if patch.transform is not None:
            new = patch.transform(values[0, to_places].unsqueeze(1), new.unsqueeze(1)).squeeze(1).to(values)
        edited = values.clone()
        edited[0, to_places] = new
        return edited

    return edit


def _layout(prepared: Prepared) -> tuple[int, Indices]:
    return prepared.inputs["input_ids"].shape[1], prepared.visual_positions[0].cpu().numpy()


def _values(adapter: Adapter, run: Run, site: Site) -> SiteValues:
    prepared = adapter.prepare([run.image], [run.prompt])
    values = adapter.run(prepared, edits=clean_edits(run), capture=[site])[1][site]
    return run.connector(values) if site == "connector" and run.connector is not None else values


def _in_turn(functions: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def every(values: Tensor) -> Tensor:
        for function in functions:
            values = function(values)
        return values

    return every
