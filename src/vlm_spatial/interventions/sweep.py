"""Running many patches over many pairs, and writing down each pair's outcome."""

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.config.pool import PoolSettings
from vlm_spatial.interventions import labels
from vlm_spatial.interventions.answers import mass, outcome, wrote
from vlm_spatial.interventions.labels import INTENDED
from vlm_spatial.interventions.memory import pairs_at_once
from vlm_spatial.interventions.pairs_on_grid import Case, EditOf
from vlm_spatial.interventions.patch import PairRuns, Patch
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.finite import require_finite
from vlm_spatial.models.values import Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import TokenSet

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "experiment": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "condition": pl.String,
    "site": pl.String,
    "layer": pl.Int32,
    "token_set": pl.String,
    "source": pl.String,
    "match": pl.String,
    "included": pl.Boolean,
    "clean_predicted": pl.String,
    "counterfactual_predicted": pl.String,
    "predicted": pl.String,
    "outcome": pl.String,
    "log_odds_clean": pl.Float64,
    "log_odds": pl.Float64,
    "log_odds_source": pl.Float64,
    "content_log_odds_clean": pl.Float64,
    "content_log_odds": pl.Float64,
    "content_log_odds_source": pl.Float64,
    "candidates": pl.List(pl.String),
    "log_probabilities_clean": pl.List(pl.Float32),
    "log_probabilities": pl.List(pl.Float32),
    "candidate_mass": pl.Float64,
    "whole_words": pl.Boolean,
    "tokens": pl.Int32,
    "object_tokens": pl.Int32,
    "strip_tokens": pl.Int32,
}
"""Columns of interchange, conflict and ablation_sweep tables; see docs/formats.md."""


class Engine(Protocol):
    """What a sweep asks of :class:`vlm_spatial.interventions.engine.PatchEngine`."""

    adapter: Adapter

    def clean(self, pairs: Sequence[PairRuns]) -> Float[Tensor, "pairs vocabulary"]:
        """Last-position logits of each pair's clean run."""

    def run(self, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Float[Tensor, "patches vocabulary"]:
        """Last-position logits of each patched clean run."""


@dataclass(frozen=True)
class Exchange:
    """One patch of one pair, with what the table says about it; ``from_cells`` None means the same cells.

    Attributes:
        match: the rule by which a crosswise exchange pairs cells.
        to_positions: instead of cells, positions in the prompt, counted from its end (-1 is the last).
    """

    site: Site
    token_set: str
    source: str
    to_cells: Int[np.ndarray, " cells"]
    from_cells: Int[np.ndarray, " cells"] | None = None
    match: str | None = None
    to_positions: Int[np.ndarray, " positions"] | None = None

    def patch(self, pair: int, behind: int = 0) -> Patch:
        """The patch of pair number ``pair``, in a run with ``behind`` tokens of the answer behind the prompt."""
        if self.to_positions is not None:
            return Patch(pair, self.site, source=self.source, to_positions=self.to_positions - behind)
        return Patch(pair, self.site, self.to_cells, self.source, self.from_cells)


@dataclass(frozen=True)
class Condition:
    """What is done to every run before any patch: a name, and the edit of each scene's connector output."""

    name: str = labels.INTACT
    edit: EditOf | None = None


INTACT = Condition()
ExchangesOf = Callable[[Case], list[Exchange]]
"""What an experiment exchanges in a pair."""


def run_sweep(
    engine: Engine,
    dataset: Dataset,
    cases: Sequence[Case],
    plan: ExchangesOf,
    condition: Condition = INTACT,
    description: str = "patches",
    pool: PoolSettings = PoolSettings(),  # noqa: B008 - it is never changed
) -> pl.DataFrame:
    """Run every exchange that ``plan`` makes of every case: one row each, in that order (columns: ``SCHEMA``).

    A pair is ``included`` if the model, under the same condition but without a patch, answers both of its scenes right.

    Args:
        pool: what counts as right, and how many such pairs are wanted; where they are counted, the others are not patched.
    """
    chosen = Chosen(pool)
    planned = [(case, plan(case)) for case in cases]
    most = max((len(exchanges) * len(case.reader.beginnings) for case, exchanges in planned), default=1)
    size = pairs_at_once(engine.adapter.vocabulary, most)
    groups = [planned[start : start + size] for start in range(0, len(planned), size)]
    rows: list[dict[str, object]] = []

    def read(group: Sequence[tuple[Case, list[Exchange]]]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, (scene for case, _ in group for scene in case.shown))

    for group, images in progress(prefetch(groups, read), description, len(groups)):
        rows += _rows(engine, images, group, condition, chosen)
    if pool.first and len(cases):
        print(f"{description}: {sum(chosen.kept.values())} of {len(cases)} pairs kept", file=sys.stderr, flush=True)
    return pl.DataFrame(rows, schema=SCHEMA)


class Chosen:
    """Decides, pair by pair, which ones are right and which are patched."""

    def __init__(self, pool: PoolSettings) -> None:
        self.pool = pool
        self.kept: Counter[tuple[str, int]] = Counter()

    def right(self, case: Case, answer: str, rows: Tensor, decode: Callable[[list[int]], str]) -> bool:
        """Whether an unpatched run's answer is ``answer``."""
        if self.pool.right_by == "top1_word":
            return wrote(case.reader, rows.argmax(dim=-1).tolist(), decode)[1] == answer
        return case.reader.best(case.reader.log_probabilities(rows)) == answer

    def patched(self, case: Case, right: bool) -> bool:
        """Whether the pair is patched; to be asked once of each pair, in order."""
        of = (case.axis, case.slots[0])
        if not self.pool.first:
            return True
        if not right or self.kept[of] >= self.pool.first:
            return False
        self.kept[of] += 1
        return True


def _rows(
    engine: Engine, images: Mapping[str, Image.Image], group: Sequence[tuple[Case, list[Exchange]]], condition: Condition, chosen: Chosen
) -> Iterator[dict[str, object]]:
    of_case = [case.runs(images, condition.edit) for case, _ in group]
    # A pair is run once for each beginning of its answers; nearly always there is one, the empty one.
    runs = [run for several in of_case for run in several]
    others = [PairRuns(run.pair_id, run.sources.get("counterfactual", run.clean)) for run in runs]
    clean, counterfactual = (_finite(engine, engine.clean(some), some, "unpatched runs") for some in (runs, others))
    first = [0, *itertools.accumulate(map(len, of_case))]

    def decode(tokens: list[int]) -> str:
        return str(engine.adapter.processor.tokenizer.decode(tokens))

    unpatched = []
    for number, (case, exchanges) in enumerate(group):
        both = [logits[first[number] : first[number + 1]] for logits in (clean, counterfactual)]
        answers = (case.clean_answer, case.counterfactual_answer)
        included = all(chosen.right(case, answer, rows, decode) for answer, rows in zip(answers, both, strict=True))
        scores = tuple(map(case.reader.log_probabilities, both))
        unpatched.append((included, scores[0], scores[1], exchanges if chosen.patched(case, included) else []))
    patches = [
        exchange.patch(pair, len(beginning))
        for number, (case, _) in enumerate(group)
        for exchange in unpatched[number][3]
        for pair, beginning in zip(range(first[number], first[number + 1]), case.reader.beginnings, strict=True)
    ]
    patched = iter(_finite(engine, engine.run(runs, patches), [runs[patch.pair] for patch in patches], "patched runs"))
    for (case, _), (included, before, there, exchanges) in zip(group, unpatched, strict=True):
        intended = case.hypotheses[INTENDED[case.experiment]]
        stay = case.hypotheses["stay"]
        # Two of the experiments have a third hypothesis.
        content = case.hypotheses.get("content", case.hypotheses.get("attribute"))
        clean_predicted = case.reader.best(before)
        counterfactual_predicted = case.reader.best(there)
        for exchange in exchanges:
            after = _read(case, patched)
            predicted = case.reader.best(after)
            yield {
                "pair_id": case.pair_id,
                "experiment": case.experiment,
                "axis": case.axis,
                "template": case.template,
                "condition": condition.name,
                "site": exchange.site,
                "layer": int(exchange.site.split(".")[1]) if "." in exchange.site else None,
                "token_set": exchange.token_set,
                "source": exchange.source,
                "match": exchange.match,
                "included": included,
                "clean_predicted": clean_predicted,
                "counterfactual_predicted": counterfactual_predicted,
                "predicted": predicted,
                "outcome": outcome(predicted, case.hypotheses),
                "log_odds_clean": case.reader.log_odds(before, intended, stay),
                "log_odds": case.reader.log_odds(after, intended, stay),
                "log_odds_source": case.reader.log_odds(there, intended, stay),
                "content_log_odds_clean": None if content is None else case.reader.log_odds(before, content, stay),
                "content_log_odds": None if content is None else case.reader.log_odds(after, content, stay),
                "content_log_odds_source": None if content is None else case.reader.log_odds(there, content, stay),
                "candidates": list(case.reader.candidates),
                "log_probabilities_clean": before.tolist(),
                "log_probabilities": after.tolist(),
                "candidate_mass": mass(after),
                "whole_words": case.reader.whole_words,
                "tokens": len(exchange.to_cells if exchange.to_positions is None else exchange.to_positions),
                "object_tokens": _covered(case, "object", exchange),
                "strip_tokens": _covered(case, "strip", exchange),
            }


def _finite(engine: Engine, logits: Float[Tensor, "runs vocabulary"], pairs: Sequence[PairRuns], what: str) -> Tensor:
    if len(pairs):
        require_finite(engine.adapter, logits, lambda row: pairs[row].clean.shown, what)
    return logits


def _read(case: Case, rows: Iterator[Tensor]) -> Float[np.ndarray, " candidates"]:
    """Log-probabilities of the candidates from the next rows of logits."""
    return case.reader.log_probabilities(torch.stack(list(itertools.islice(rows, len(case.reader.beginnings)))))


def _covered(case: Case, token_set: TokenSet, exchange: Exchange) -> int:
    """How many of the exchanged cells are object or strip cells of the two slots, in either scene of the pair."""
    members = case.tokens.mask(token_set, case.slots) | case.counterfactual_tokens.mask(token_set, case.slots)
    return int(members[exchange.to_cells].sum())
