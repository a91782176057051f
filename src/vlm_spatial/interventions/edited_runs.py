"""What experiments with edits inside the language model share: pairs, windows of layers, logits that are finite, scores of candidates."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader, mass
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.patch import InBlocks, PairRuns
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit
from vlm_spatial.models.finite import require_finite
from vlm_spatial.models.values import Site

SCORED: dict[str, pl.DataType | type[pl.DataType]] = {
    "candidates": pl.List(pl.String),
    "log_probabilities_clean": pl.List(pl.Float32),
    "log_probabilities": pl.List(pl.Float32),
    "candidate_mass_clean": pl.Float64,
    "candidate_mass": pl.Float64,
    "whole_words": pl.Boolean,
}
"""Columns that say what the candidates' probabilities are, in the clean run and in the edited one."""


def scored(reader: AnswerReader, before: np.ndarray, after: np.ndarray) -> dict[str, object]:
    """The columns of ``SCORED``, from the candidates' log-probabilities."""
    return {
        "candidates": list(reader.candidates),
        "log_probabilities_clean": before.tolist(),
        "log_probabilities": after.tolist(),
        "candidate_mass_clean": mass(before),
        "candidate_mass": mass(after),
        "whole_words": reader.whole_words,
    }


def chosen_cases(cases: Sequence[Case], limit: int) -> list[Case]:
    """The first ``limit`` pairs of each axis."""
    seen: dict[str, int] = {}
    kept = []
    for case in cases:
        seen[case.axis] = seen.get(case.axis, 0) + 1
        if seen[case.axis] <= limit:
            kept.append(case)
    return kept


def windows(depth: int, width: int | None = None, every: int | None = None) -> list[tuple[int, int]]:
    """First and last layer of windows around centres from the first layer to the last, cut at the ends.

    Args:
        width: layers in a window; 9 of 28 or more, else a quarter of them.
        every: distance of the centres; 2 of 28 layers or more, else 1.
    """
    width = width or (9 if depth >= 28 else -(-depth // 4))
    every = every or (2 if depth >= 28 else 1)
    starts = [centre - (width - 1) // 2 for centre in range(0, depth, every)]
    return list(dict.fromkeys((max(0, start), min(depth - 1, start + width - 1)) for start in starts))


def untouched(engine: PatchEngine, runs: Sequence[PairRuns], always: Sequence[Sequence[BlockEdit]]) -> Tensor:
    """Logits of runs with what is always closed, and nothing else."""
    if not any(always):
        return finite(engine, engine.clean(runs), runs, "unpatched runs")
    logits = engine.run(runs, [tuple(InBlocks(pair, edit) for edit in edits) for pair, edits in enumerate(always)])
    return finite(engine, logits, runs, "unpatched runs")


def finite(engine: PatchEngine, logits: Tensor, pairs: Sequence[PairRuns], what: str) -> Tensor:
    """The logits; refused if one is not finite.

    Raises:
        UserError: naming the run.
    """
    if len(pairs):
        require_finite(engine.adapter, logits, lambda row: pairs[row].clean.shown, what)
    return logits


def read_next(case: Case, rows: Iterator[Tensor]) -> np.ndarray:
    """Log-probabilities of the candidates from the next rows of logits."""
    return case.reader.log_probabilities(torch.stack(list(itertools.islice(rows, len(case.reader.beginnings)))))


def language_sites(adapter: Adapter, patterns: Sequence[str], key: str) -> tuple[Site, ...]:
    """The language layers that ``patterns`` name, in the order of computation.

    Args:
        key: of the configuration that holds them.

    Raises:
        UserError: for a pattern that matches nothing, or a site of visual tokens only.
    """
    sites = adapter.matching_sites(patterns)
    for site in sites:
        if not site.startswith("language."):
            raise UserError(f"{key}: {site} holds visual tokens only; allowed are language layers, such as language.*")
    return sites
