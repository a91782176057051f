"""Values and position ids of visual tokens exchanged apart: is a token's place its rotary index, or its turn in the causal order?

Two slots' tokens of one picture are exchanged: their values, their position ids, or both. With ids alone, the answer moves if place is the
rotary index. With both, every value keeps its index and only the causal order differs: the answer moves if place is the turn.
Further edits move ids along one axis of the picture, shift them, give all cells the same, or shuffle tokens with and without their ids.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from vlm_spatial.config.positions import PositionsSettings, Shuffle
from vlm_spatial.interventions.answers import outcome
from vlm_spatial.interventions.edited_runs import SCORED, finite, read_next, scored
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.memory import pairs_at_once
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.patch import CLEAN, InBlocks, PairRuns, Patch
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import PositionIds
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import matched_blocks

Ids = Literal["kept", "exchanged", "rows", "columns", "shuffled", "shifted", "all_shifted", "collapsed"]
Cells = Int[np.ndarray, " cells"]

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "token_set": pl.String,
    "values": pl.String,
    "ids": pl.String,
    "shuffle": pl.String,
    "layer_from": pl.Int32,
    "layer_to": pl.Int32,
    "all_layers": pl.Boolean,
    "included": pl.Boolean,
    "predicted": pl.String,
    "outcome": pl.String,
    "right_before": pl.Boolean,
    "right_after": pl.Boolean,
    "margin_clean": pl.Float64,
    "margin": pl.Float64,
    **SCORED,
    "tokens": pl.Int32,
}
"""Columns of positions.parquet; see docs/formats.md."""

# Axes of position ids of a picture: time, rows, columns.
_AXES = {"rows": 1, "columns": 2}


@dataclass(frozen=True)
class Move:
    """What stands elsewhere in one run.

    Attributes:
        token_set: ``object`` or ``strip`` (the blocks of the pair's two slots), ``random`` (background cells), ``all``.
        values, ids: whether the tokens' values and their position ids are moved, and how.
        shuffle: within what; ``none`` for exchanges.
        to, taken: cells, and those whose value or ids each gets.
        first, last: the language layers that see other ids; ``last`` is included.
    """

    token_set: str
    values: Literal["kept", "exchanged", "shuffled"]
    ids: Ids
    shuffle: Shuffle | Literal["none"]
    to: Cells
    taken: Cells
    first: int
    last: int


def moves(case: Case, adapter: Adapter, settings: PositionsSettings, spans: Sequence[tuple[int, int]], seed: int) -> list[Move]:
    """Everything that is moved in a pair."""
    every = (0, len(adapter.language_blocks) - 1)
    generator = np.random.default_rng([seed, *case.pair_id.encode()])
    cells = np.arange(case.tokens.grid.size)
    made = [Move("all", "kept", "kept", "none", cells, cells, *every)]
    blocks: dict[str, tuple[Cells, Cells]] = {name: matched_blocks(case.tokens, *case.slots, name) for name in settings.token_sets}
    for name, (first, second) in {**blocks, "random": _random_blocks(case, generator)}.items():
        if not len(first):
            continue
        to, taken = np.concatenate([first, second]), np.concatenate([second, first])
        made.append(Move(name, "exchanged", "kept", "none", to, taken, *every))
        made.append(Move(name, "exchanged", "exchanged", "none", to, taken, *every))
        made += [Move(name, "kept", "exchanged", "none", to, taken, *span) for span in dict.fromkeys([every, *spans])]
        if adapter.position_axes:
            made += [Move(name, "kept", ids, "none", to, taken, *every) for ids in ("rows", "columns")]  # type: ignore[arg-type]
    made += [Move("all", "kept", ids, "none", cells, cells, *every) for ids in ("shifted", "all_shifted", "collapsed")]  # type: ignore[arg-type]
    for shuffle in settings.shuffles:
        to, taken = shuffled(case, shuffle, generator)
        made += [Move("all", "shuffled", ids, shuffle, to, taken, *every) for ids in ("kept", "shuffled")]  # type: ignore[arg-type]
    return made


def _random_blocks(case: Case, generator: np.random.Generator) -> tuple[Cells, Cells]:
    """Two lists of background cells, as long as the two objects."""
    background = np.flatnonzero(case.tokens.mask("background", case.slots))
    half = min(len(matched_blocks(case.tokens, *case.slots, "object")[0]), len(background) // 2)
    first, second = np.split(generator.choice(background, size=2 * half, replace=False), 2)
    return first, second


def shuffled(case: Case, shuffle: Shuffle, generator: np.random.Generator) -> tuple[Cells, Cells]:
    masks = {"object": case.tokens.objects, "strip": case.tokens.strips, "all": np.ones((1, case.tokens.grid.size), dtype=bool)}[shuffle]
    # Boxes of photographs overlap: what two objects share is shuffled with the first.
    earlier = np.cumsum(masks, axis=0) > masks
    groups = [np.flatnonzero(mask) for mask in masks & ~earlier]
    return np.concatenate(groups), np.concatenate([generator.permutation(group) for group in groups])


def ids_after(ids: Int[Tensor, "*axes 1 positions"], move: Move, cells_at: Int[np.ndarray, " cells"], shift: int) -> Tensor:
    """Position ids of a prompt whose cells stand at ``cells_at``, after a move."""
    moved = ids.clone()
    to, taken = torch.as_tensor(cells_at[move.to]), torch.as_tensor(cells_at[move.taken])
    match move.ids:
        case "exchanged" | "shuffled":
            moved[..., to] = ids[..., taken]
        case "rows" | "columns":
            moved[_AXES[move.ids], ..., to] = ids[_AXES[move.ids], ..., taken]
        case "shifted":
            moved[..., to] += shift
        case "all_shifted":
            moved += shift
        case "collapsed":
            moved[..., to] = ids[..., to].double().mean(dim=-1, keepdim=True).round().to(ids.dtype)
    return moved


def run_positions(
    engine: PatchEngine, dataset: Dataset, cases: Sequence[Case], plans: Sequence[Sequence[Move]], shift: int
) -> pl.DataFrame:
    """One row a pair and move (columns: ``SCHEMA``). A pair is ``included`` if the untouched model answers right."""
    most = max((len(plan) * len(case.reader.beginnings) for case, plan in zip(cases, plans, strict=True)), default=1)
    size = pairs_at_once(engine.adapter.vocabulary, most)
    paired = list(zip(cases, plans, strict=True))
    groups = [paired[start : start + size] for start in range(0, len(paired), size)]
    rows: list[dict[str, object]] = []

    def read(group: Sequence[tuple[Case, Sequence[Move]]]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, (scene for case, _ in group for scene in case.shown))

    for group, images in progress(prefetch(groups, read), "position ids", len(groups)):
        rows += _rows(engine, images, group, shift)
    return pl.DataFrame(rows, schema=SCHEMA)


def _rows(
    engine: PatchEngine, images: Mapping[str, Image.Image], group: Sequence[tuple[Case, Sequence[Move]]], shift: int
) -> Iterator[dict[str, object]]:
    of_case = [case.runs(images) for case, _ in group]
    runs = [run for several in of_case for run in several]
    first = [0, *itertools.accumulate(map(len, of_case))]
    clean = iter(finite(engine, engine.clean(runs), runs, "unpatched runs"))
    edited = [
        _edits(engine, first[number] + beginning, run, move, shift)
        for number, (_, plan) in enumerate(group)
        for move in plan
        for beginning, run in enumerate(of_case[number])
    ]
    logits = iter(finite(engine, engine.run(runs, edited), [runs[edits[0].pair] for edits in edited], "position ids"))
    for case, plan in group:
        before = read_next(case, clean)
        for move in plan:
            yield _row(case, move, before, read_next(case, logits), len(engine.adapter.language_blocks))


def _edits(engine: PatchEngine, pair: int, run: PairRuns, move: Move, shift: int) -> tuple[Patch | InBlocks, ...]:
    layout = engine.layout(run.clean)
    ids = ids_after(engine.decoder(layout, run.clean).position_ids, move, layout.cells_at, shift)
    # Also where ids stay, so that every row has an edit; their own ids change nothing.
    parts: list[Patch | InBlocks] = [InBlocks(pair, PositionIds(ids, move.first, move.last))]
    if move.values != "kept":
        parts.insert(0, Patch(pair, "connector", move.to, CLEAN, move.taken))
    return tuple(parts)


def _row(case: Case, move: Move, before: np.ndarray, after: np.ndarray, depth: int) -> dict[str, object]:
    reader, right, moved = case.reader, case.clean_answer, case.hypotheses["move"]
    predicted = reader.best(after)
    return {
        "pair_id": case.pair_id,
        "axis": case.axis,
        "template": case.template,
        "token_set": move.token_set,
        "values": move.values,
        "ids": move.ids,
        "shuffle": move.shuffle,
        "layer_from": move.first,
        "layer_to": move.last,
        "all_layers": (move.first, move.last) == (0, depth - 1),
        "included": reader.best(before) == right,
        "predicted": predicted,
        "outcome": outcome(predicted, case.hypotheses),
        "right_before": reader.best(before) == right,
        "right_after": predicted == right,
        "margin_clean": reader.log_odds(before, moved, right),
        "margin": reader.log_odds(after, moved, right),
        **scored(reader, before, after),
        "tokens": len(move.to),
    }
