"""Attention knockout: which tokens must the question's tokens, and the answer's, attend to?

A route is closed in a window of language layers, in all heads: its queries no longer attend to its keys. What is lost shows whether the
answer came that way. Controls close as many random keys, half of the keys, or keep the attention weights and remove what they carry.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from PIL import Image

from vlm_spatial.config.routes import RouteName
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import outcome
from vlm_spatial.interventions.edited_runs import SCORED, finite, read_next, scored, untouched
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.memory import pairs_at_once
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.patch import InBlocks, PairRuns
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.interventions.route_names import ROUTES, Piece
from vlm_spatial.interventions.token_groups import cell_groups, text_groups
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, Knockout, Positions, Rescaled
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

Keys = Literal["all", "half", "random"]
"""Which keys are closed: those of the route, a random half of them, or as many random cells from outside."""
Form = Literal["renormalised", "value_zero"]

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "experiment": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "condition": pl.String,
    "route": pl.String,
    "query_group": pl.String,
    "key_group": pl.String,
    "keys": pl.String,
    "form": pl.String,
    "layer_from": pl.Int32,
    "layer_to": pl.Int32,
    "all_layers": pl.Boolean,
    "included": pl.Boolean,
    "predicted": pl.String,
    "outcome": pl.String,
    "right_before": pl.Boolean,
    "right_after": pl.Boolean,
    "relative_probability": pl.Float64,
    "margin_clean": pl.Float64,
    "margin_source": pl.Float64,
    "margin": pl.Float64,
    **SCORED,
    "positions": pl.Int32,
}
"""Columns of routes.parquet; see docs/formats.md."""


@dataclass(frozen=True)
class Closing:
    """One route closed in one way.

    Attributes:
        first, last: the window of language layers; ``last`` is included.
    """

    route: RouteName
    keys: Keys
    form: Form
    first: int
    last: int


def closings(routes: Sequence[RouteName], spans: Sequence[tuple[int, int]], depth: int, *, controls: bool) -> list[Closing]:
    """Every route in every window and in all layers at once, and the controls."""
    every = (0, depth - 1)
    made = []
    for route in routes:
        kinds: list[Keys] = ["all"]
        if controls:
            kinds += ["random"] if ROUTES[route].has_random else ["half"]
        made += [Closing(route, keys, "renormalised", *span) for span in dict.fromkeys([*spans, every]) for keys in kinds]
        if controls:
            made.append(Closing(route, "all", "value_zero", *every))
    return made


def positions_of(adapter: Adapter, run: PairRuns, case: Case) -> dict[str, Positions]:
    """Every token group that the prompt of a run has.

    Raises:
        UserError: if a group of the text has no token.
    """
    image, prompt = run.clean.image, run.clean.prompt
    return text_groups(adapter, image, prompt) | cell_groups(adapter, image, prompt, case)


def edits_of_closing(closing: Closing, groups: Mapping[str, Positions], seed: Sequence[int]) -> list[BlockEdit]:
    """The edits that close a route; none where the prompt lacks one of its groups."""
    return [
        edit for piece in ROUTES[closing.route].pieces if piece.keys in groups for edit in _edits_of_piece(closing, piece, groups, seed)
    ]


def _edits_of_piece(closing: Closing, piece: Piece, groups: Mapping[str, Positions], seed: Sequence[int]) -> list[BlockEdit]:
    queries, keys = groups[piece.queries], groups[piece.keys]
    generator = np.random.default_rng([*seed, *piece.keys.encode()])
    match closing.keys:
        case "half":
            keys = np.sort(generator.choice(keys, max(1, len(keys) // 2), replace=False))
        case "random":
            cells = np.union1d(groups["background"], groups["objects"])
            outside = np.setdiff1d(cells, keys)
            keys = np.sort(generator.choice(outside, min(len(keys), len(outside)), replace=False))
    if closing.form == "value_zero":
        return [Rescaled(queries, keys, closing.first, closing.last, of_values=0.0)]
    return [Knockout(queries, keys, closing.first, closing.last)]


def standing_edits(standing: Sequence[RouteName], groups: Mapping[str, Positions], depth: int) -> list[BlockEdit]:
    """What is closed in every run, the untouched ones too."""
    return [edit for route in standing for edit in edits_of_closing(Closing(route, "all", "renormalised", 0, depth - 1), groups, [0])]


def run_routes(
    engine: PatchEngine, dataset: Dataset, cases: Sequence[Case], plan: Sequence[Closing], standing: Sequence[RouteName], seed: int
) -> pl.DataFrame:
    """One row a pair and closing (columns: ``SCHEMA``); pairs whose prompt lacks a route's group have no row of it.

    A pair is ``included`` if the model answers both of its scenes right, with what is ``standing`` closed.
    """
    most = max((len(plan) * len(case.reader.beginnings) for case in cases), default=1)
    size = pairs_at_once(engine.adapter.vocabulary, most)
    starts = range(0, len(cases), size)
    groups = [[(start + offset, case) for offset, case in enumerate(cases[start : start + size])] for start in starts]
    rows: list[dict[str, object]] = []

    def read(group: Sequence[tuple[int, Case]]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, (scene for _, case in group for scene in case.shown))

    for group, images in progress(prefetch(groups, read), "attention knockout", len(groups)):
        rows += _rows(engine, images, group, plan, standing, seed)
    return pl.DataFrame(rows, schema=SCHEMA)


def _rows(
    engine: PatchEngine,
    images: Mapping[str, Image.Image],
    group: Sequence[tuple[int, Case]],
    plan: Sequence[Closing],
    standing: Sequence[RouteName],
    seed: int,
) -> Iterator[dict[str, object]]:
    adapter, depth = engine.adapter, len(engine.adapter.language_blocks)
    of_case = [case.runs(images) for _, case in group]
    runs = [run for several in of_case for run in several]
    first = [0, *itertools.accumulate(map(len, of_case))]
    places = [[positions_of(adapter, run, case) for run in several] for (_, case), several in zip(group, of_case, strict=True)]
    always = [[standing_edits(standing, each, depth) for each in several] for several in places]
    flat = [edits for several in always for edits in several]
    clean = iter(untouched(engine, runs, flat))
    source = iter(untouched(engine, [PairRuns(run.pair_id, run.sources["counterfactual"]) for run in runs], flat))
    asked: list[tuple[int, Closing, int]] = []
    edited: list[tuple[InBlocks, ...]] = []
    for number, (index, _) in enumerate(group):
        for which, closing in enumerate(plan):
            edits = [edits_of_closing(closing, each, [seed, index]) for each in places[number]]
            if not all(edits):
                continue
            closed = sum(len(edit.keys) for edit in edits[0] if isinstance(edit, Knockout | Rescaled))
            asked.append((number, plan[which], closed))
            edited += [
                tuple(InBlocks(first[number] + run, edit) for edit in (*always[number][run], *of_run)) for run, of_run in enumerate(edits)
            ]
    logits = iter(finite(engine, engine.run(runs, edited), [runs[edits[0].pair] for edits in edited], "attention knockout"))
    # By pair: its two untouched runs.
    before = [read_next(case, clean) for _, case in group]
    there = [read_next(case, source) for _, case in group]
    for number, closing, closed in asked:
        case = group[number][1]
        after = read_next(case, logits)
        yield {
            **knocked(case, before[number], there[number], after),
            "condition": "+".join(standing) or "intact",
            "experiment": "knockout",
            "route": closing.route,
            "query_group": "+".join(dict.fromkeys(piece.queries for piece in ROUTES[closing.route].pieces)),
            "key_group": "+".join(dict.fromkeys(piece.keys for piece in ROUTES[closing.route].pieces)),
            "keys": closing.keys,
            "form": closing.form,
            "layer_from": closing.first,
            "layer_to": closing.last,
            "all_layers": (closing.first, closing.last) == (0, depth - 1),
            "positions": closed,
        }


def knocked(case: Case, before: np.ndarray, there: np.ndarray, after: np.ndarray) -> dict[str, object]:
    """What a row says of one edited run, from the candidates' log-probabilities of the clean run, the source's and its own."""
    reader, right, other = case.reader, case.clean_answer, case.counterfactual_answer
    at = reader.candidates.index(right)
    predicted = reader.best(after)
    return {
        "pair_id": case.pair_id,
        "axis": case.axis,
        "template": case.template,
        "included": reader.best(before) == right and reader.best(there) == other,
        "predicted": predicted,
        "outcome": outcome(predicted, case.hypotheses),
        "right_before": reader.best(before) == right,
        "right_after": predicted == right,
        "relative_probability": float(np.expm1(after[at] - before[at])),
        **{name: reader.log_odds(scores, other, right) for name, scores in _named(before, there, after)},
        **scored(reader, before, after),
    }


def _named(before: np.ndarray, there: np.ndarray, after: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield from (("margin_clean", before), ("margin_source", there), ("margin", after))


def check_routes(adapter: Adapter, spans: Sequence[tuple[int, int]]) -> None:
    """Refuse what no run could do, before anything runs.

    Raises:
        UserError: for a window outside the model, or an attention implementation that takes no mask.
    """
    depth = len(adapter.language_blocks)
    kind = getattr(adapter.model.config, "_attn_implementation", None) or adapter.identity.attention
    if kind.startswith(("flash", "flex")):
        raise UserError(f"routes: closes attention by a mask, which attention {kind!r} cannot take; set attn_implementation: sdpa or eager")
    for first, last in spans:
        if not 0 <= first <= last < depth:
            raise UserError(f"routes: language layers {first} to {last}; this model has 0 to {depth - 1}")
