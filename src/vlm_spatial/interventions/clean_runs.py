"""What untouched runs compute, kept for patched runs to start from."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.memory import Memory
from vlm_spatial.interventions.patch import Run
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import KeysValues
from vlm_spatial.models.decoder import Decoder, Layout
from vlm_spatial.models.inputs import image_key
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import Site, SiteValues


@dataclass(frozen=True)
class Vision:
    """The vision encoder's values of some runs: the connector's, and those of the vision sites asked for."""

    # By identity: contents are compared once, when this is made.
    values: dict[int, dict[Site, SiteValues]]
    rests: dict[int, dict[Site, Tensor | None]]

    def rest(self, run: Run, site: Site) -> Tensor | None:
        """What else a vision site holds, batch 1."""
        return self.rests[id(run)][site]

    def at(self, run: Run, site: Site) -> Float[Tensor, "cells patches features"]:
        """Values of a vision site, or the connector's before the run's own edit."""
        return self.values[id(run)][site][0]

    def connector(self, run: Run) -> SiteValues:
        """What enters the language model, batch 1: after the run's own edit."""
        values = self.values[id(run)]["connector"]
        return values if run.connector is None else run.connector(values)


def run_vision(adapter: Adapter, runs: Sequence[Run], sites: Sequence[Site], memory: Memory) -> Vision:
    """Run the vision encoder once for every distinct image; all images must have one token grid. Keep ``runs`` alive."""
    by_image: dict[Hashable, list[Run]] = defaultdict(list)
    for run in {id(run): run for run in runs}.values():
        by_image[image_key(run.image)].append(run)
    distinct = list(by_image.values())
    values: dict[int, dict[Site, SiteValues]] = {}
    rests: dict[int, dict[Site, Tensor | None]] = {}
    wanted = [*sites, "connector"]
    size = memory.images(adapter, adapter.grid(*runs[0].image.size)) if runs else 1
    for begin in range(0, len(distinct), size):
        part = distinct[begin : begin + size]
        prepared = adapter.prepare([alike[0].image for alike in part], [alike[0].prompt for alike in part])
        with Hooks(adapter, wanted) as hooks:
            found = hooks.encode(prepared, capture=wanted)
        for row, alike in enumerate(part):
            own = {site: of_site[row : row + 1] for site, of_site in found.values.items()}
            own_rests = {site: None if of_site is None else of_site[row : row + 1] for site, of_site in found.rests.items()}
            values.update({id(run): own for run in alike})
            rests.update({id(run): own_rests for run in alike})
    return Vision(values, rests)


def resumed(adapter: Adapter, layer: int, values: SiteValues, vision: Vision, runs: Sequence[Run]) -> SiteValues:
    """The connector's values when each row's values at vision block ``layer`` are ``values``, and all else is as in ``runs``.

    A function to be called inside inference mode; the runs' own edits are not made.
    """
    grid = adapter.grid(*runs[0].image.size)
    rests = [vision.rest(run, f"vision.{layer}") for run in runs]
    rest = torch.cat([one for one in rests if one is not None]) if any(one is not None for one in rests) else None
    return adapter.resume_vision(layer, values, grid, rest, torch.cat([vision.values[id(run)]["connector"] for run in runs]))


@dataclass(frozen=True)
class States:
    """Language-model states of untouched runs of one layout.

    Attributes:
        row: number of each run below, by the run's identity; runs that compute the same share one.
        hidden: what every block gets, but for what enters late (DeepStack), each ``[runs, positions, features]``; empty if not kept.
            One more if the last block's output is kept, too.
        keys_values: of every block but the last one's queries; empty if not kept.
        logits: ``[runs, vocabulary]``, float32 on the CPU.
    """

    row: dict[int, int]
    hidden: list[Float[Tensor, "runs positions features"]]
    keys_values: list[KeysValues]
    logits: Float[Tensor, "runs vocabulary"]


def run_language(
    adapter: Adapter, decoder: Decoder, runs: Sequence[Run], vision: Vision, memory: Memory, keep: bool, keep_last: bool = False
) -> States:
    """Run the language model once for every distinct run, from the connector's values on. Keep ``runs`` alive."""
    distinct: list[Run] = []
    number: dict[Hashable, int] = {}
    row: dict[int, int] = {}
    for run in runs:
        key = (id(vision.values[id(run)]), run.prompt, run.edits_key)
        if key not in number:
            number[key] = len(distinct)
            distinct.append(run)
        row[id(run)] = number[key]
    embedded = torch.cat([embedded_run(adapter, run, vision) for run in distinct])
    connectors = torch.cat([vision.connector(run) for run in distinct]) if adapter.late_entries else None
    size = memory.rows(adapter, decoder.layout.length, decoder.layout.length)
    hidden: list[list[Tensor]] = [[] for _ in range(decoder.depth + keep_last)]
    keys_values: list[list[KeysValues]] = [[] for _ in range(decoder.depth)]
    logits = []
    for begin in range(0, len(distinct), size):
        states = embedded[begin : begin + size]
        for layer in range(decoder.depth):
            if keep:
                hidden[layer].append(states)
            states = decoder.entering(layer, states, None if connectors is None else connectors[begin : begin + size])
            if layer == decoder.depth - 1 and not keep_last:
                answer, made = decoder.answer(states)
                logits.append(answer.cpu())
            else:
                states, made = decoder.block(layer, states)
                edit_cells(states, distinct[begin : begin + size], layer, decoder.layout)
            if keep:
                keys_values[layer].append(made)
        if keep_last:
            hidden[-1].append(states)
            logits.append(adapter.head(states[:, -1]).cpu())
    return States(
        row=row,
        hidden=[torch.cat(parts) for parts in hidden if parts],
        keys_values=[(torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])) for parts in keys_values if parts],
        logits=torch.cat(logits),
    )


def edit_cells(hidden: Float[Tensor, "runs positions features"], runs: Sequence[Run], layer: int, layout: Layout) -> None:
    """Make the runs' own edits behind a language block, in place."""
    for row, run in enumerate(runs):
        edit = run.language.get(f"language.{layer}")
        if edit is not None:
            cells = torch.as_tensor(layout.positions, device=hidden.device)
            hidden[row, cells] = edit(hidden[row : row + 1, cells].unsqueeze(2)).squeeze(2)[0].to(hidden)


def embedded_run(adapter: Adapter, run: Run, vision: Vision) -> Float[Tensor, "1 positions features"]:
    """What enters the first language block."""
    ids, positions = adapter.tokens(run.image, run.prompt)
    return adapter.embed(ids.to(adapter.device), positions.to(adapter.device), vision.connector(run))
