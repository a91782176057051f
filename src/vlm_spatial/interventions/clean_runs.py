"""What untouched runs compute, kept for patched runs to start from."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.decoder import Decoder, KeysValues
from vlm_spatial.interventions.memory import Memory
from vlm_spatial.interventions.patch import Run
from vlm_spatial.models.adapter import Adapter, Site, SiteValues
from vlm_spatial.models.inputs import image_key


@dataclass(frozen=True)
class Vision:
    """The vision encoder's values of some runs: the connector's, and those of the vision sites asked for."""

    # By identity: contents are compared once, when this is made.
    values: dict[int, dict[Site, SiteValues]]

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
    size = memory.images(adapter, adapter.grid(*runs[0].image.size)) if runs else 1
    for begin in range(0, len(distinct), size):
        part = distinct[begin : begin + size]
        prepared = adapter.prepare([alike[0].image for alike in part], [alike[0].prompt for alike in part])
        captured = adapter.run_vision(prepared, capture=[*sites, "connector"])
        for row, alike in enumerate(part):
            own = {site: captured[site][row : row + 1] for site in captured}
            values.update({id(run): own for run in alike})
    return Vision(values)


@dataclass(frozen=True)
class States:
    """Language-model states of untouched runs of one layout.

    Attributes:
        row: number of each run below, by the run's identity; runs that compute the same share one.
        hidden: input of every block, each ``[runs, positions, features]``; empty if not kept.
        keys_values: of every block but the last one's queries; empty if not kept.
        logits: ``[runs, vocabulary]``, float32 on the CPU.
    """

    row: dict[int, int]
    hidden: list[Float[Tensor, "runs positions features"]]
    keys_values: list[KeysValues]
    logits: Float[Tensor, "runs vocabulary"]


def run_language(adapter: Adapter, decoder: Decoder, runs: Sequence[Run], vision: Vision, memory: Memory, keep: bool) -> States:
    """Run the language model once for every distinct run, from the connector's values on. Keep ``runs`` alive."""
    distinct: list[Run] = []
    number: dict[Hashable, int] = {}
    row: dict[int, int] = {}
    for run in runs:
        key = (id(vision.values[id(run)]), run.prompt, id(run.connector))
        if key not in number:
            number[key] = len(distinct)
            distinct.append(run)
        row[id(run)] = number[key]
    embedded = torch.cat([_embedded(adapter, run, vision) for run in distinct])
    size = memory.rows(adapter, decoder.layout.length, decoder.layout.length)
    hidden: list[list[Tensor]] = [[] for _ in range(decoder.depth)]
    keys_values: list[list[KeysValues]] = [[] for _ in range(decoder.depth)]
    logits = []
    for states in embedded.split(size):
        for layer in range(decoder.depth):
            if keep:
                hidden[layer].append(states)
            if layer == decoder.depth - 1:
                answer, made = decoder.answer(states)
                logits.append(answer.cpu())
            else:
                states, made = decoder.block(layer, states)
            if keep:
                keys_values[layer].append(made)
    return States(
        row=row,
        hidden=[torch.cat(parts) for parts in hidden if parts],
        keys_values=[(torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])) for parts in keys_values if parts],
        logits=torch.cat(logits),
    )


def _embedded(adapter: Adapter, run: Run, vision: Vision) -> Float[Tensor, "1 positions features"]:
    rows = adapter.cache.rows([run.image], [run.prompt])
    positions = rows.visual.nonzero()[:, 1][None]
    return adapter.embed(rows.ids.to(adapter.device), positions.to(adapter.device), vision.connector(run))
