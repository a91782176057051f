"""Attention heads at the last token: which of them fetch the slot that is asked for, and which the object there?

A head's output, before the output projection, is replaced by that of another run: the pairs of the last-token interchange, whose source
shows other objects and asks for the other slot. The answer may stay; or become the own picture's object in the source's slot (``ordinal``:
the head carries the slot); or the source's own answer (``attribute``: it carries the object).

The same is done at the question's tokens, for the heads that gradients rank first (attribution patching) and as many random ones.

Then the heads are ranked by what each carries of the attribute, on one half of the pairs, and on the other half the first ``k`` of them
are replaced together: by the source's outputs, and by the mean over untouched runs. The control has as many random
heads of the same layers.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.config.routes import RouteName
from vlm_spatial.interventions.answers import outcome
from vlm_spatial.interventions.edited_runs import SCORED, finite, read_next, scored, untouched
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.memory import pairs_at_once
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.patch import InBlocks, PairRuns, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.interventions.routes import positions_of, standing_edits
from vlm_spatial.interventions.token_groups import text_groups
from vlm_spatial.models.block_edits import BlockEdit, HeadOutput, Positions, head_count
from vlm_spatial.models.heads import head_gradients, head_outputs
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

_LOG_ODDS = [f"{name}_log_odds{run}" for name in ("ordinal", "attribute") for run in ("_clean", "", "_source")]
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "experiment": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "condition": pl.String,
    "group": pl.String,
    "form": pl.String,
    "chosen": pl.String,
    "layer": pl.Int32,
    "head": pl.Int32,
    "heads": pl.Int32,
    "model_heads": pl.Int32,
    "draw": pl.Int32,
    "included": pl.Boolean,
    "predicted": pl.String,
    "outcome": pl.String,
    **dict.fromkeys(_LOG_ODDS, pl.Float64),
    **SCORED,
    "atp": pl.Float64,
}
"""Columns of heads.parquet; see docs/formats.md."""

_LAST = np.array([-1])
Chosen = Bool[np.ndarray, "layers heads"]
Outputs = Float[Tensor, "layers positions heads width"]


@dataclass(frozen=True)
class Replaced:
    """Heads that are replaced together, and what the table says of them.

    Attributes:
        form: ``patched`` (the source's outputs) or ``mean`` (the mean over the untouched runs of the axis).
        chosen: ``each`` (one head), ``all``, ``ranked`` or ``random``.
        group: the tokens at which, ``last`` or ``question``.
    """

    form: str
    chosen: str
    heads: Chosen
    draw: int | None = None
    group: str = "last"


@dataclass(frozen=True)
class Untouched:
    """A pair's two runs.

    Attributes:
        before, there: the candidates' log-probabilities in the clean run and in the source's.
        clean, source: what the heads write at the prompt's last token.
        places: by group, its positions; the question's only where both prompts have as many.
        atp: by group, the first-order estimate of what each head's patch changes of the attribute's log-odds; none under standing routes.
    """

    before: Float[np.ndarray, " candidates"]
    there: Float[np.ndarray, " candidates"]
    included: bool
    clean: Outputs
    source: Outputs
    places: Mapping[str, Positions]
    atp: Mapping[str, Float[np.ndarray, "layers heads"]]


def sizes(heads: int) -> list[int]:
    """How many heads are replaced together: 1, 2, 4 and so on, and all."""
    return [*itertools.takewhile(lambda size: size < heads, (2**power for power in itertools.count())), heads]


def ranked_first(effects: Float[np.ndarray, "layers heads"], count: int) -> Chosen:
    """The ``count`` heads with the largest effects; of equal ones those of earlier layers."""
    chosen = np.zeros(effects.size, dtype=bool)
    chosen[np.argsort(-effects, axis=None, kind="stable")[:count]] = True
    return chosen.reshape(effects.shape)


def drawn_alike(chosen: Chosen, generator: np.random.Generator) -> Chosen:
    """In each layer as many heads as are chosen there, at random."""
    return np.stack([generator.permutation(row) for row in chosen])


def edits_of(chosen: Chosen, outputs: Outputs, positions: Positions) -> list[BlockEdit]:
    """The edits, one a layer, that replace the chosen heads' outputs at some positions."""
    return [
        HeadOutput(layer, tuple(np.flatnonzero(row).tolist()), positions, outputs[layer][:, torch.as_tensor(row)])
        for layer, row in enumerate(chosen)
        if row.any()
    ]


class HeadSweep:
    """The experiment on some pairs.

    Args:
        cases: pairs of the last-token interchange.
        standing: routes that are closed in every run.
    """

    def __init__(self, engine: PatchEngine, dataset: Dataset, cases: Sequence[Case], standing: Sequence[RouteName]) -> None:
        self.engine, self.dataset, self.cases, self.standing = engine, dataset, cases, standing
        self.shape = (len(engine.adapter.language_blocks), head_count(engine.adapter))

    def run(self, draws: int, seed: int, question_heads: int = 0) -> pl.DataFrame:
        """One row a pair and set of heads (columns: ``SCHEMA``). Pairs that are not ``included`` have rows of single heads alone.

        Args:
            question_heads: how many heads that gradients rank first, and as many random ones, are replaced at the question's tokens.
        """
        heads = int(np.prod(self.shape))
        single = [Replaced("patched", "each", one.reshape(self.shape)) for one in np.eye(heads, dtype=bool)]
        first = [*single, Replaced("patched", "all", np.ones(self.shape, dtype=bool))]
        known: list[Untouched] = []
        rows: list[dict[str, object]] = []
        for group, images in self._groups(range(len(self.cases)), len(first), "attention heads, one by one"):
            found = self._untouched(group, images)
            known += found
            rows += self._rows(group, images, found, [[(each, pair.source) for each in first] for pair in found])
        included = [index for index, pair in enumerate(known) if pair.included]
        effects = np.array([row["attribute_log_odds"] - row["attribute_log_odds_clean"] for row in rows if row["chosen"] == "each"])  # type: ignore[operator]
        effects = effects.reshape(len(known), *self.shape)
        means = {
            axis: torch.stack([known[index].clean for index in included if self.cases[index].axis == axis]).mean(dim=0)
            for axis in {self.cases[index].axis for index in included}
        }
        plans = [_together(effects[included[1 - half :: 2]], draws, [seed, half]) for half in (0, 1)] if len(included) > 1 else []
        half_of = {index: number % 2 for number, index in enumerate(included)}
        most = max(map(len, plans), default=1)
        for group, images in self._groups(included if plans else [], most, "attention heads together"):
            found = [known[index] for index in group]
            replaced = [
                [(each, pair.source if each.form == "patched" else means[self.cases[index].axis]) for each in plans[half_of[index]]]
                for index, pair in zip(group, found, strict=True)
            ]
            rows += self._rows(group, images, found, replaced)
        asked = [index for index in included if "question" in known[index].atp]
        if question_heads and asked:
            rows += self._at_question(asked, known, question_heads, seed)
        return pl.DataFrame(rows, schema=SCHEMA)

    def _at_question(self, asked: Sequence[int], known: Sequence[Untouched], count: int, seed: int) -> Iterator[dict[str, object]]:
        """The heads that gradients rank first over all pairs and as many random ones, each alone, and all heads at once."""
        size = np.abs(np.mean([known[index].atp["question"] for index in asked], axis=0))
        first = ranked_first(size, min(count, size.size))
        others = np.flatnonzero(~first)
        drawn = np.random.default_rng([seed, count]).choice(others, min(count, len(others)), replace=False)
        numbers = sorted({*np.flatnonzero(first).tolist(), *drawn.tolist()})
        every = np.eye(size.size, dtype=bool)
        plan = [Replaced("patched", "each", every[number].reshape(self.shape), group="question") for number in numbers]
        plan.append(Replaced("patched", "all", np.ones(self.shape, dtype=bool), group="question"))
        for group, images in self._groups(asked, len(plan), "attention heads at the question"):
            replaced = []
            for index in group:
                source = self.cases[index].runs(images)[0].sources["counterfactual"]
                places = text_groups(self.engine.adapter, source.image, source.prompt)["question"]
                outputs = head_outputs(self.engine.adapter, source.image, source.prompt, places)
                replaced.append([(each, outputs) for each in plan])
            yield from self._rows(group, images, [known[index] for index in group], replaced)

    def _estimates(
        self, case: Case, clean: Run, source: Run, places: Mapping[str, Positions]
    ) -> dict[str, Float[np.ndarray, "layers heads"]]:
        """Attribution patching: the gradient of the attribute's log-odds, by first tokens, times what the patch changes."""
        adapter, reader = self.engine.adapter, case.reader
        there = self._places(source)
        positions = [np.concatenate([groups[name] for name in places]) for groups in (places, there)]
        attribute, stay = (
            torch.tensor(sorted({form[0] for form in reader.forms[reader.candidates.index(case.hypotheses[name])]}))
            for name in ("attribute", "stay")
        )

        def odds(logits: Tensor) -> Tensor:
            return logits[attribute.to(logits.device)].logsumexp(0) - logits[stay.to(logits.device)].logsumexp(0)

        step = head_outputs(adapter, source.image, source.prompt, positions[1]) - head_outputs(
            adapter, clean.image, clean.prompt, positions[0]
        )
        by_position = (head_gradients(adapter, clean.image, clean.prompt, positions[0], odds) * step).sum(dim=-1)
        ends = np.cumsum([len(group) for group in places.values()])[:-1]
        return dict(zip(places, (part.sum(axis=1) for part in np.split(by_position.numpy(), ends, axis=1)), strict=True))

    def _places(self, run: Run) -> dict[str, Positions]:
        groups = text_groups(self.engine.adapter, run.image, run.prompt)
        return {name: groups[name] for name in ("last", "question")}

    def _groups(self, indices: Sequence[int], runs: int, description: str) -> Iterator[tuple[list[int], dict[str, Image.Image]]]:
        """Numbers of pairs that are handed to the engine together, with their pictures."""
        beginnings = max((len(case.reader.beginnings) for case in self.cases), default=1)
        size = pairs_at_once(self.engine.adapter.vocabulary, runs * beginnings)
        groups = [list(indices[start : start + size]) for start in range(0, len(indices), size)]

        def read(group: Sequence[int]) -> dict[str, Image.Image]:
            return pictures(self.engine.adapter, self.dataset, (scene for index in group for scene in self.cases[index].shown))

        yield from progress(prefetch(groups, read), description, len(groups))

    def _always(self, case: Case, run: PairRuns) -> list[BlockEdit]:
        if not self.standing:
            return []
        return standing_edits(self.standing, positions_of(self.engine.adapter, run, case), self.shape[0])

    def _untouched(self, group: Sequence[int], images: Mapping[str, Image.Image]) -> list[Untouched]:
        engine, cases = self.engine, [self.cases[index] for index in group]
        of_case = [case.runs(images) for case in cases]
        runs = [run for several in of_case for run in several]
        sources = [PairRuns(run.pair_id, run.sources["counterfactual"]) for run in runs]
        owner = [case for case, several in zip(cases, of_case, strict=True) for _ in several]
        scores = []
        for each in (runs, sources):
            always = [self._always(case, run) for case, run in zip(owner, each, strict=True)]
            rows = iter(untouched(engine, each, always))
            scores.append([read_next(case, rows) for case in cases])
        found = []
        for case, several, before, there in zip(cases, of_case, *scores, strict=True):
            # The first run has nothing of an answer behind the prompt.
            clean, source = several[0].clean, several[0].sources["counterfactual"]
            of_clean, of_source = (
                head_outputs(engine.adapter, run.image, run.prompt, _LAST, self._always(case, PairRuns(case.pair_id, run)))
                for run in (clean, source)
            )
            places = self._places(clean)
            if len(places["question"]) != len(self._places(source)["question"]):
                del places["question"]
            atp = {} if self.standing else self._estimates(case, clean, source, places)
            right = case.reader.best(before) == case.clean_answer and case.reader.best(there) == case.counterfactual_answer
            found.append(Untouched(before, there, right, of_clean, of_source, places, atp))
        return found

    def _rows(
        self,
        group: Sequence[int],
        images: Mapping[str, Image.Image],
        known: Sequence[Untouched],
        replaced: Sequence[Sequence[tuple[Replaced, Outputs]]],
    ) -> Iterator[dict[str, object]]:
        runs: list[PairRuns] = []
        edited: list[tuple[InBlocks, ...]] = []
        for index, pair, of_pair in zip(group, known, replaced, strict=True):
            case, first = self.cases[index], len(runs)
            runs += case.runs(images)
            always = [self._always(case, run) for run in runs[first:]]
            for each, outputs in of_pair:
                for number in range(len(always)):
                    # Counted from the start, a position is the same with the beginning of an answer behind the prompt.
                    edits = [*always[number], *edits_of(each.heads, outputs, pair.places[each.group])]
                    edited.append(tuple(InBlocks(first + number, edit) for edit in edits))
        logits = iter(finite(self.engine, self.engine.run(runs, edited), [runs[edits[0].pair] for edits in edited], "attention heads"))
        for index, pair, of_pair in zip(group, known, replaced, strict=True):
            for each, _ in of_pair:
                yield self._row(self.cases[index], pair, each, read_next(self.cases[index], logits))

    def _row(self, case: Case, pair: Untouched, each: Replaced, after: Float[np.ndarray, " candidates"]) -> dict[str, object]:
        reader, predicted = case.reader, case.reader.best(after)
        alone: Int[np.ndarray, "heads two"] = np.argwhere(each.heads) if each.chosen == "each" else np.array([[None, None]])
        odds = {
            f"{name}_log_odds{run}": reader.log_odds(scores, case.hypotheses[name], case.hypotheses["stay"])
            for name in ("ordinal", "attribute")
            for run, scores in (("_clean", pair.before), ("", after), ("_source", pair.there))
        }
        return {
            "pair_id": case.pair_id,
            "experiment": "head" if each.chosen == "each" else "heads_cumulative",
            "axis": case.axis,
            "template": case.template,
            "condition": "+".join(self.standing) or "intact",
            "group": each.group,
            "form": each.form,
            "chosen": each.chosen,
            "layer": alone[0, 0],
            "head": alone[0, 1],
            "heads": int(each.heads.sum()),
            "model_heads": each.heads.size,
            "draw": each.draw,
            "included": pair.included,
            "predicted": predicted,
            "outcome": outcome(predicted, case.hypotheses),
            **odds,
            **scored(reader, pair.before, after),
            "atp": None if each.chosen != "each" or each.group not in pair.atp else float(pair.atp[each.group][each.heads][0]),
        }


def _together(effects: Float[np.ndarray, "pairs layers heads"], draws: int, seed: Sequence[int]) -> list[Replaced]:
    """The first heads by their mean effect, and as many random ones of the same layers, in both forms."""
    mean = effects.mean(axis=0)
    generator = np.random.default_rng(list(seed))
    made = []
    for size in sizes(mean.size):
        ranked = ranked_first(mean, size)
        # All heads have no other ones; drawn once for both forms, so that they can be compared.
        others = [drawn_alike(ranked, generator) for _ in range(draws)] if size < mean.size else []
        for form in ("patched", "mean"):
            made.append(Replaced(form, "ranked", ranked))
            made += [Replaced(form, "random", drawn, draw) for draw, drawn in enumerate(others)]
    return made
