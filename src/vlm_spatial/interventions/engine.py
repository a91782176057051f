"""Many interventions on a model at once: next-token logits of every patched run, each computation done once.

What a plain run of every intervention would do again and again is done once: the vision encoder for each image, the language
model for each untouched run. A patched run starts after the first patched block, computes only the positions its patches can
reach (see :mod:`vlm_spatial.interventions.plan`), and only the last one in the last block. Runs of many pairs, sites
and token sets share batches; a batch grows as it passes the blocks at which its runs enter.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.check import check
from vlm_spatial.interventions.clean_runs import States, Vision, resumed, run_language, run_vision
from vlm_spatial.interventions.memory import Memory
from vlm_spatial.interventions.patch import (
    CLEAN,
    Intervention,
    PairRuns,
    Patch,
    Run,
    boundary,
    edits_of,
    in_language,
    parts_of,
    patched,
    patches_of,
)
from vlm_spatial.interventions.plan import Attention, Row, batches, is_clean, is_copy, is_idle, near_layers, plan
from vlm_spatial.interventions.shared_prompts import answers
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, PositionIds
from vlm_spatial.models.decoder import Decoder, Layout
from vlm_spatial.models.inputs import image_key
from vlm_spatial.models.on_device import on_device
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import Edit, Prepared, Site, SiteValues
from vlm_spatial.progress import progress
from vlm_spatial.tokens import TokenGrid

Connectors = dict[int, Float[Tensor, "cells 1 features"]]
"""The connector's values of patched runs, by the intervention's number."""


@dataclass(frozen=True)
class _Asked:
    """One intervention on one pair."""

    pair: int
    patches: tuple[Patch, ...]
    edits: tuple[BlockEdit, ...]


@dataclass(frozen=True)
class _Job:
    """Pairs of one layout that are computed together, with all their interventions, by number."""

    pairs: list[int]
    numbers: list[int]


class PatchEngine:
    """Runs interventions exactly as the plain full forward pass with hooks does, only faster.

    Equal to :func:`vlm_spatial.interventions.reference.run_plain` within 1e-5 of the largest logit in float32.

    Args:
        adapter: the model.
        memory_gb: limit, in GiB, for the tensors that are alive at once beside the weights.
    """

    def __init__(self, adapter: Adapter, memory_gb: float = 4.0) -> None:
        self.adapter = adapter
        self.memory = Memory(memory_gb)
        self._decoders: dict[Layout, Decoder] = {}

    @torch.inference_mode()
    def clean(self, pairs: Sequence[PairRuns]) -> Float[Tensor, "pairs vocabulary"]:
        """Last-position logits of every pair's clean run, float32 on the CPU.

        Raises:
            UserError: for pairs that do not fit, before anything runs.
        """
        check(self.adapter, pairs, [])
        logits = torch.empty(len(pairs), self.adapter.vocabulary)
        for members in self._portions(pairs):
            logits[members] = answers(self.adapter, self.decoder, [pairs[pair].clean for pair in members], self.memory)
        return logits

    @torch.inference_mode()
    def run(self, pairs: Sequence[PairRuns], interventions: Sequence[Intervention]) -> Float[Tensor, "runs vocabulary"]:
        """Last-position logits of every patched run, float32 on the CPU, in the order of ``interventions``.

        Args:
            interventions: each a patch or an edit inside language blocks, or several of one pair that are made in one run.

        Raises:
            UserError: for pairs, patches or edits that do not fit, before anything runs.
        """
        check(self.adapter, pairs, interventions)
        asked = [_Asked(parts_of(each)[0].pair, patches_of(each), edits_of(each)) for each in interventions]
        logits = torch.empty(len(asked), self.adapter.vocabulary)
        jobs = (_Chunk(self, layout, pairs, asked, job) for layout, job in self._jobs(pairs, asked) if job.numbers)
        for _ in progress((number for job in jobs for number in job.fill(logits)), "patched runs", len(asked), delay_s=2):
            pass
        return logits

    def decoder(self, layout: Layout, run: Run) -> Decoder:
        """The language model for prompts of a layout, or for their first positions, such as those of ``run``."""
        if layout not in self._decoders:
            self._decoders[layout] = Decoder.of(self.adapter, layout, run.image, run.prompt)
        return self._decoders[layout]

    def layout(self, run: Run) -> Layout:
        """The layout of a run's prompt."""
        return Layout.of(self.adapter, run.image, run.prompt)

    def _portions(self, pairs: Sequence[PairRuns]) -> Iterable[list[int]]:
        """Pairs whose clean runs have their image at the same place, in portions of as many images as fit into memory."""
        alike: dict[tuple[tuple[int, ...], TokenGrid], list[int]] = defaultdict(list)
        longest = 0
        for index, pair in enumerate(pairs):
            layout = self.layout(pair.clean)
            alike[layout.positions, layout.grid].append(index)
            longest = max(longest, layout.length)
        for (_, grid), members in alike.items():
            size = self.memory.pairs(self.adapter, longest, grid, 1, 0)
            images: set[Hashable] = set()
            portion: list[int] = []
            for index in members:
                run = pairs[index].clean
                image = (image_key(run.image), run.edits_key)
                if image not in images and len(images) == size:
                    yield portion
                    images, portion = set(), []
                images.add(image)
                portion.append(index)
            yield portion

    def _jobs(self, pairs: Sequence[PairRuns], asked: "Sequence[_Asked]") -> Iterable[tuple[Layout, _Job]]:
        """Pairs by layout, in portions whose untouched states fit into memory."""
        by_pair: dict[int, list[int]] = defaultdict(list)
        for number, one in enumerate(asked):
            by_pair[one.pair].append(number)
        by_layout: dict[Layout, list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            by_layout[self.layout(pair.clean)].append(index)
        vision_sites = len({patch.site for one in asked for patch in one.patches if patch.site.startswith("vision.")})
        runs = 1 + max((len(pair.sources) for pair in pairs), default=0) if asked else 1
        for layout, members in by_layout.items():
            size = self.memory.pairs(self.adapter, layout.length, layout.grid, runs, vision_sites)
            for begin in range(0, len(members), size):
                part = members[begin : begin + size]
                yield layout, _Job(part, [number for pair in part for number in by_pair[pair]])


class _Chunk:
    """The interventions on some pairs of one layout."""

    def __init__(self, engine: PatchEngine, layout: Layout, pairs: Sequence[PairRuns], asked: Sequence[_Asked], job: _Job) -> None:
        self.adapter, self.memory, self.layout = engine.adapter, engine.memory, layout
        self.pairs, self.job = pairs, job
        self.decoder = engine.decoder(layout, pairs[job.pairs[0]].clean)
        self.last_site = f"language.{self.decoder.depth - 1}"
        self._pair_of = {number: asked[number].pair for number in job.numbers}
        # By number: what matters of each intervention.
        self.edits = {number: self.decoder.effective(asked[number].edits) for number in job.numbers}
        self.asked = {number: self._simplified(asked[number].patches, alone=not self.edits[number]) for number in job.numbers}
        self._moved_decoders: dict[Hashable, Decoder] = {}
        used = [patch for patches in self.asked.values() for patch in patches]
        # By number and by the block before which they are made.
        self.in_language: dict[int, dict[int, list[Patch]]] = defaultdict(dict)
        for number, patches in self.asked.items():
            for patch in patches:
                if in_language(patch.site):
                    self.in_language[number].setdefault(boundary(patch.site), []).append(patch)
        # Clean runs of interventions without any effect are answered, too.
        runs = [self.pairs[asked[number].pair].clean for number in job.numbers] + [self._source(patch) for patch in used]
        sites = sorted({patch.site for patch in used if patch.site.startswith("vision.")})
        self.vision: Vision = run_vision(self.adapter, runs, sites, self.memory)
        # Sources may ask something else: their states are kept by layout.
        by_layout: dict[Layout, list[Run]] = defaultdict(list)
        self.layout_of: dict[int, Layout] = {}
        for run in runs:
            if id(run) not in self.layout_of:
                self.layout_of[id(run)] = engine.layout(run)
            by_layout[self.layout_of[id(run)]].append(run)
        keep_last = any(patch.site == self.last_site for patch in used)
        self.states: dict[Layout, States] = {
            of: run_language(self.adapter, engine.decoder(of, alike[0]), alike, self.vision, self.memory, keep=True, keep_last=keep_last)
            for of, alike in by_layout.items()
        }
        self.attention = Attention(self.adapter.reach, self.adapter.late_entries)

    def fill(self, logits: Float[Tensor, "runs vocabulary"]) -> Iterable[int]:
        """Put the logits of this portion's interventions into their rows; gives the number of each that is done."""
        rows = []
        in_vision: dict[int, int] = {}
        for number, patches in self.asked.items():
            layers = [int(patch.site.split(".")[1]) for patch in patches if patch.site.startswith("vision.")]
            if not patches and not self.edits[number]:
                clean = self._clean(number)
                logits[number] = self._states(clean).logits[self._row(clean)]
                yield number
            elif layers:
                in_vision[number] = min(layers)
            else:
                rows.append(self._plan(number))
        for batch in self._batches(rows):
            yield from self._fill(logits, batch, {})
        # As many as fill a batch of the language model go on together, wherever in the vision encoder they come from.
        most = self.memory.rows(self.adapter, self.layout.length - self.layout.first, self.layout.length)
        connectors: Connectors = {}
        parts = near_layers(in_vision, len(self.adapter.vision_blocks), self.memory.images(self.adapter, self.layout.grid))
        for layer, part in parts:
            connectors |= self._resumed(layer, part)
            if len(connectors) >= most:
                yield from self._fill_resumed(logits, connectors)
                connectors = {}
        yield from self._fill_resumed(logits, connectors)

    def _fill_resumed(self, logits: Float[Tensor, "runs vocabulary"], connectors: Connectors) -> Iterable[int]:
        for batch in self._batches([self._plan(number) for number in connectors]):
            yield from self._fill(logits, batch, connectors)

    def _fill(self, logits: Float[Tensor, "runs vocabulary"], batch: Sequence[Row], resumed_connectors: Connectors) -> list[int]:
        numbers = [row.number for row in batch]
        logits[numbers] = self._answers(batch, resumed_connectors)
        return numbers

    def _plan(self, number: int) -> Row:
        patches = self.asked[number]
        same_prompt = all(self._source(patch).prompt == self._clean(number).prompt for patch in patches[:1])
        edits = [(edit.first, self.decoder.changed_at(edit)) for edit in self.edits[number]]
        return plan(number, patches, self.layout, self.attention, same_prompt, edits)

    def _batches(self, rows: Sequence[Row]) -> Iterable[list[Row]]:
        alike: dict[Hashable, list[Row]] = defaultdict(list)
        for row in rows:
            alike[self._moved_key(row.number)].append(row)
        for some in alike.values():
            yield from batches(some, self.layout, lambda positions: self.memory.rows(self.adapter, positions, self.layout.length))

    def _moved(self, number: int) -> tuple[PositionIds, ...]:
        return tuple(edit for edit in self.edits[number] if isinstance(edit, PositionIds))

    def _moved_key(self, number: int) -> Hashable:
        """Edits that share a batch must agree in the position ids, which decide what the blocks are given."""
        return tuple(edit.key for edit in self._moved(number))

    def _decoder(self, number: int) -> Decoder:
        """The language model with the position ids of an intervention."""
        key = self._moved_key(number)
        if not key:
            return self.decoder
        if key not in self._moved_decoders:
            self._moved_decoders[key] = self.decoder.moved(self._moved(number))
        return self._moved_decoders[key]

    def _answers(self, batch: Sequence[Row], resumed_connectors: Connectors) -> Float[Tensor, "batch vocabulary"]:
        """Run a batch, sorted by entry, to the end; rows join it at their entry block, and are patched as they pass."""
        start = min(row.start for row in batch)
        bases = np.array([self._row(self._base(row)) for row in batch])
        # What enters later than block 0 is needed of every row; otherwise only rows whose connector is patched have any.
        late = self.adapter.late_entries > 0
        connectors = [self._connector(row.number, resumed_connectors, late) for row in batch]
        of_rows = torch.stack([connector for connector in connectors if connector is not None]) if late else None
        whole_last = any(patch.site == self.last_site for row in batch for patch in self.asked[row.number])
        states, decoder = self.states[self.layout], self._decoder(batch[0].number)
        edits = [self.edits[row.number] for row in batch]
        bases_on: dict[torch.device, Tensor] = {}
        active: Tensor | None = None
        for layer in range(batch[0].entry, self.decoder.depth + 1):
            joining = [states.hidden[layer][self._row(self._clean(row.number)), start:] for row in batch if row.entry == layer]
            if joining:
                new = torch.stack(joining)
                active = new if active is None else torch.cat([active, new.to(active.device)])
            assert active is not None
            for place, row in enumerate(batch[: len(active)]):
                if layer == 0 or layer in self.in_language[row.number]:
                    self._patch(row, layer, active[place], start, connectors[place])
            if layer == self.decoder.depth:
                return self.adapter.head(active[:, -1]).cpu()
            entering = decoder.entering(layer, active, None if of_rows is None else of_rows[: len(active)], start)
            keys, values = states.keys_values[layer]
            if keys.device not in bases_on:
                bases_on[keys.device] = on_device(bases, keys.device)
            used = bases_on[keys.device][: len(active)]
            prefix = (keys[used, :, :start], values[used, :, :start]) if start else None
            if layer == self.decoder.depth - 1 and not whole_last:
                return decoder.answer(entering, start, prefix, edits[: len(active)])[0].cpu()
            active, _ = decoder.block(layer, entering, start, prefix, edits[: len(active)])
        raise AssertionError("a model without language blocks")

    def _patch(self, row: Row, layer: int, hidden: Float[Tensor, "positions features"], start: int, connector: Tensor | None) -> None:
        """Change a row's values before block ``layer``, at the positions from ``start`` on, in place."""
        if layer == 0 and connector is not None:
            first = int(np.searchsorted(self.layout.cells_at, start))
            cells = on_device(self.layout.cells_at[first:] - start, hidden.device)
            hidden[cells] = connector[first:, 0, : self.adapter.width].to(hidden)
        for patch in self.in_language[row.number].get(layer, []):
            source = self._source(patch)
            layout = self.layout_of[id(source)]
            held = self._states(source).hidden[layer][self._row(source)]
            to_places = patch.to_places(self.layout.length, self.layout.cells_at) - start
            # Positions before the start follow the source.
            reached = to_places >= 0
            from_places = on_device(patch.from_places(layout.length, layout.cells_at)[reached], held.device)
            places_here = on_device(to_places[reached], hidden.device)
            new = held[from_places].to(hidden)
            if patch.transform is not None:
                new = patch.transform(hidden[places_here].unsqueeze(1), new.unsqueeze(1)).squeeze(1).to(new)
            hidden[places_here] = new

    def _connector(self, number: int, resumed_connectors: Connectors, always: bool) -> Float[Tensor, "cells 1 features"] | None:
        """The connector's values of a patched run; None where they are the clean run's and not asked for ``always``."""
        clean = self._clean(number)
        patches = [patch for patch in self.asked[number] if patch.site == "connector"]
        if number in resumed_connectors:
            values = resumed_connectors[number]
            values = values if clean.connector is None else clean.connector(values[None])[0]
        elif patches or always:
            values = self.vision.connector(clean)[0]
        else:
            return None
        for patch in patches:
            values = patched(patch, values, self.vision.connector(self._source(patch))[0])
        return values

    def _resumed(self, layer: int, numbers: Sequence[int]) -> Connectors:
        """The connector's values of runs that are patched at vision block ``layer`` and perhaps behind it, before the runs' own edits."""
        rows = torch.stack([self.vision.at(self._clean(number), f"vision.{layer}") for number in numbers])
        by_site: dict[Site, dict[int, list[Patch]]] = defaultdict(lambda: defaultdict(list))
        for row, number in enumerate(numbers):
            for patch in self.asked[number]:
                if patch.site.startswith("vision."):
                    by_site[patch.site][row].append(patch)
        edits = {site: self._vision_edit(of_rows) for site, of_rows in by_site.items()}
        first = edits.pop(f"vision.{layer}")
        with Hooks(self.adapter, edits) as hooks:
            runs = [self._clean(number) for number in numbers]
            made = hooks.around(
                lambda: resumed(self.adapter, layer, first(rows), self.vision, runs), Prepared.layout(len(rows), self.layout.grid), edits
            )
        return dict(zip(numbers, made, strict=True))

    def _vision_edit(self, by_row: dict[int, list[Patch]]) -> Edit:
        def edit(values: SiteValues) -> SiteValues:
            edited = values.clone()
            for row, patches in by_row.items():
                for patch in patches:
                    edited[row] = patched(patch, edited[row], self.vision.at(self._source(patch), patch.site))
            return edited

        return edit

    def _simplified(self, patches: Sequence[Patch], alone: bool) -> tuple[Patch, ...]:
        """Without patches that no answer depends on; a copy of a whole image in the vision encoder is one of the whole connector, where
        the cells are all that the connector sees, and nothing edits it.

        Args:
            alone: whether the run has no other edits.
        """
        depth = len(self.adapter.language_blocks)
        kept = tuple(patch for patch in patches if not is_idle(patch, self.layout, depth))
        if alone and is_clean(kept):
            return ()
        if len(kept) != 1 or not self.adapter.whole_state or self._source(kept[0]).connector or self.pairs[kept[0].pair].clean.connector:
            return kept
        patch = kept[0]
        if patch.site.startswith("vision.") and is_copy(patch) and patch.size == self.layout.cells:
            return (Patch(patch.pair, "connector", patch.to_cells, patch.source),)
        return kept

    def _base(self, row: Row) -> Run:
        return self._source(self.asked[row.number][0]) if row.follows_source else self._clean(row.number)

    def _clean(self, number: int) -> Run:
        return self.pairs[self._pair_of[number]].clean

    def _source(self, patch: Patch) -> Run:
        pair = self.pairs[patch.pair]
        return pair.clean if patch.source == CLEAN else pair.sources[patch.source]

    def _states(self, run: Run) -> States:
        return self.states[self.layout_of[id(run)]]

    def _row(self, run: Run) -> int:
        return self._states(run).row[id(run)]
