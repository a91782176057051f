"""Many interventions on a model at once: next-token logits of every patched run, each computation done once.

What a plain run of every patch would do again and again is done once: the vision encoder for each image, the language
model for each untouched run. A patched run starts after the patched block, computes only the positions the patch can
reach (see :mod:`vlm_spatial.interventions.plan`), and only the last one in the last block. Runs of many pairs, sites
and token sets share batches; a batch grows as it passes the blocks at which its runs enter.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.check import check
from vlm_spatial.interventions.clean_runs import States, Vision, run_language, run_vision
from vlm_spatial.interventions.decoder import Decoder, Layout
from vlm_spatial.interventions.memory import Memory
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch, Run
from vlm_spatial.interventions.plan import Row, batches, changes_nothing, is_copy, plan
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.progress import progress

Entry = Callable[[Row, int], Float[Tensor, "positions features"]]
"""A row's first input, from a position on."""


@dataclass(frozen=True)
class _Job:
    """Pairs of one layout that are computed together, with all their patches, by number."""

    pairs: list[int]
    patches: list[int]


class PatchEngine:
    """Runs patches exactly as the plain full forward pass with hooks does, only faster.

    Equal to :func:`vlm_spatial.interventions.reference.run_plain` within 1e-5 of the largest logit in float32.

    Args:
        adapter: the model.
        memory_gb: limit, in GiB, for the tensors that are alive at once beside the weights.
    """

    def __init__(self, adapter: Adapter, memory_gb: float = 4.0) -> None:
        self.adapter = adapter
        self._memory = Memory(memory_gb)
        self._decoders: dict[Layout, Decoder] = {}

    @torch.inference_mode()
    def clean(self, pairs: Sequence[PairRuns]) -> Float[Tensor, "pairs vocabulary"]:
        """Last-position logits of every pair's clean run, float32 on the CPU.

        Raises:
            UserError: for pairs that do not fit, before anything runs.
        """
        check(self.adapter, pairs, [])
        logits = torch.empty(len(pairs), self.adapter.vocabulary)
        for layout, job in self._jobs(pairs, []):
            runs = [pairs[pair].clean for pair in job.pairs]
            vision = run_vision(self.adapter, runs, [], self._memory)
            states = run_language(self.adapter, self._decoder(layout, runs[0]), runs, vision, self._memory, keep=False)
            for pair, run in zip(job.pairs, runs, strict=True):
                logits[pair] = states.logits[states.row[id(run)]]
        return logits

    @torch.inference_mode()
    def run(self, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
        """Last-position logits of every patched run, float32 on the CPU, in the order of ``patches``.

        Raises:
            UserError: for pairs or patches that do not fit, before anything runs.
        """
        check(self.adapter, pairs, patches)
        logits = torch.empty(len(patches), self.adapter.vocabulary)
        jobs = [(layout, job) for layout, job in self._jobs(pairs, patches) if job.patches]
        for layout, job in progress(jobs, "patched runs") if len(jobs) > 8 else jobs:
            _Chunk(self.adapter, self._memory, self._decoder(layout, pairs[job.pairs[0]].clean), pairs, patches, job).fill(logits)
        return logits

    def _decoder(self, layout: Layout, run: Run) -> Decoder:
        if layout not in self._decoders:
            self._decoders[layout] = Decoder(self.adapter, layout, self.adapter.prepare([run.image], [run.prompt]))
        return self._decoders[layout]

    def _jobs(self, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Iterable[tuple[Layout, _Job]]:
        """Pairs by layout, in portions whose untouched states fit into memory."""
        by_pair: dict[int, list[int]] = defaultdict(list)
        for number, patch in enumerate(patches):
            by_pair[patch.pair].append(number)
        by_layout: dict[Layout, list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            visual = self.adapter.cache.rows([pair.clean.image], [pair.clean.prompt]).visual[0]
            by_layout[Layout.of(visual, self.adapter.grid(*pair.clean.image.size))].append(index)
        vision_sites = len({patch.site for patch in patches if patch.site.startswith("vision.")})
        runs = 1 + max((len(pair.sources) for pair in pairs), default=0) if patches else 1
        for layout, members in by_layout.items():
            grid = self.adapter.grid(*pairs[members[0]].clean.image.size)
            size = self._memory.pairs(self.adapter, layout.length, grid, runs, vision_sites)
            for begin in range(0, len(members), size):
                part = members[begin : begin + size]
                yield layout, _Job(part, [number for pair in part for number in by_pair[pair]])


class _Chunk:
    """The patches of some pairs of one layout."""

    def __init__(
        self, adapter: Adapter, memory: Memory, decoder: Decoder, pairs: Sequence[PairRuns], patches: Sequence[Patch], job: _Job
    ) -> None:
        self.adapter, self.memory, self.decoder = adapter, memory, decoder
        self.pairs, self.patches, self.job = pairs, patches, job
        used = {number: patches[number] for number in job.patches}
        runs = [run for patch in used.values() for run in (self._clean(patch), self._source(patch))]
        sites = sorted({patch.site for patch in used.values() if patch.site.startswith("vision.")})
        self.vision: Vision = run_vision(adapter, runs, sites, memory)
        self.states: States = run_language(adapter, decoder, runs, self.vision, memory, keep=True)

    def fill(self, logits: Float[Tensor, "patches vocabulary"]) -> None:
        """Put the logits of this portion's patches into their rows."""
        rows, in_vision = [], []
        for number in self.job.patches:
            patch = self._simplified(self.patches[number])
            if changes_nothing(patch, self.decoder.depth):
                logits[number] = self.states.logits[self._row(self._clean(patch))]
            elif patch.site.startswith("vision."):
                in_vision.append(number)
            else:
                rows.append(plan(number, patch, self.decoder.layout, self.adapter.causal_image))
        for batch in self._batches(rows):
            logits[[row.patch for row in batch]] = self._answers(batch, self._language_entry)
        self._fill_vision(in_vision, logits)

    def _fill_vision(self, numbers: Sequence[int], logits: Float[Tensor, "patches vocabulary"]) -> None:
        by_layer: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            by_layer[int(self.patches[number].site.split(".")[1])].append(number)
        first = self.decoder.layout.first
        for layer, members in sorted(by_layer.items()):
            grid = self.adapter.grid(*self._clean(self.patches[members[0]]).image.size)
            size = self.memory.images(self.adapter, grid)
            for begin in range(0, len(members), size):
                part = members[begin : begin + size]
                patched = torch.stack([self._patched_vision(self.patches[number]) for number in part])
                connector = self.adapter.resume_vision(layer, patched, grid)
                entering = {number: self._edited(number, connector[row]) for row, number in enumerate(part)}
                entry = partial(self._vision_entry, entering)
                # A change anywhere in the vision encoder reaches every visual token.
                rows = [Row(number, 0, first, follows_source=False) for number in part]
                for batch in self._batches(rows):
                    logits[[row.patch for row in batch]] = self._answers(batch, entry)

    def _batches(self, rows: Sequence[Row]) -> Iterable[list[Row]]:
        layout = self.decoder.layout
        return batches(rows, layout, lambda positions: self.memory.rows(self.adapter, positions, layout.length))

    def _answers(self, batch: Sequence[Row], entry: Entry) -> Float[Tensor, "batch vocabulary"]:
        """Run a batch, sorted by entry, to the end; rows join it at their entry block."""
        start = min(row.start for row in batch)
        bases = torch.tensor([self._row(self._base(row)) for row in batch])
        active: Tensor | None = None
        for layer in range(batch[0].entry, self.decoder.depth):
            joining = [entry(row, start) for row in batch if row.entry == layer]
            if joining:
                new = torch.stack(joining)
                active = new if active is None else torch.cat([active, new.to(active.device)])
            assert active is not None
            keys, values = self.states.keys_values[layer]
            used = bases[: len(active)].to(keys.device)
            prefix = (keys[used, :, :start], values[used, :, :start]) if start else None
            if layer == self.decoder.depth - 1:
                return self.decoder.answer(active, start, prefix)[0].cpu()
            active, _ = self.decoder.block(layer, active, start, prefix)
        raise AssertionError("a model without language blocks")

    def _language_entry(self, row: Row, start: int) -> Float[Tensor, "positions features"]:
        """The input of the row's entry block, from ``start`` on."""
        patch = self.patches[row.patch]
        hidden = self.states.hidden[row.entry]
        first = self.decoder.layout.first
        clean = hidden[self._row(self._clean(patch))]
        to_places = torch.as_tensor(patch.to_cells, device=hidden.device) + first
        from_places = to_places if patch.from_cells is None else torch.as_tensor(patch.from_cells, device=hidden.device) + first
        new = hidden[self._row(self._source(patch)), from_places]
        if patch.transform is not None:
            new = patch.transform(clean[to_places].unsqueeze(1), new.unsqueeze(1)).to(new).squeeze(1)
        entering = clean[start:].clone()
        reached = to_places >= start
        entering[to_places[reached] - start] = new[reached]
        return entering

    def _vision_entry(self, connectors: dict[int, Tensor], row: Row, start: int) -> Float[Tensor, "positions features"]:
        layout = self.decoder.layout
        entering = self.states.hidden[0][self._row(self._clean(self.patches[row.patch]))].clone()
        entering[layout.first : layout.first + layout.cells] = connectors[row.patch].to(entering)
        return entering[start:]

    def _patched_vision(self, patch: Patch) -> Float[Tensor, "cells patches features"]:
        clean = self.vision.at(self._clean(patch), patch.site)
        source = self.vision.at(self._source(patch), patch.site)
        to_cells = torch.as_tensor(patch.to_cells, device=clean.device)
        new = source[to_cells if patch.from_cells is None else torch.as_tensor(patch.from_cells, device=clean.device)]
        if patch.transform is not None:
            new = patch.transform(clean[to_cells], new).to(new)
        patched = clean.clone()
        patched[to_cells] = new
        return patched

    def _edited(self, number: int, connector: Float[Tensor, "cells 1 features"]) -> Float[Tensor, "cells features"]:
        """What enters the language model after the clean run's own edit."""
        edit = self._clean(self.patches[number]).connector
        return (connector if edit is None else edit(connector[None])[0]).squeeze(1)

    def _simplified(self, patch: Patch) -> Patch:
        """A copy of a whole image in the vision encoder is a copy of the whole connector, where nothing edits that."""
        whole = patch.site.startswith("vision.") and is_copy(patch) and len(patch.to_cells) == self.decoder.layout.cells
        if whole and self._clean(patch).connector is None and self._source(patch).connector is None:
            return Patch(patch.pair, "connector", patch.to_cells, patch.source)
        return patch

    def _base(self, row: Row) -> Run:
        patch = self.patches[row.patch]
        return self._source(patch) if row.follows_source else self._clean(patch)

    def _clean(self, patch: Patch) -> Run:
        return self.pairs[patch.pair].clean

    def _source(self, patch: Patch) -> Run:
        pair = self.pairs[patch.pair]
        return pair.clean if patch.source == CLEAN else pair.sources[patch.source]

    def _row(self, run: Run) -> int:
        return self.states.row[id(run)]
