"""Which tokens' residuals the answer is read from, and whether the question's alone are enough.

Usage: the residuals of one token group, after one language layer, are those of the counterfactual run, in which two objects have changed
places and the prompt is the same, or those of the mirrored picture. Or the question's are so after every layer at once, while the answer's
tokens are left free; patched as well, these would give the other run's answer in any case. The control takes the question's from an
unrelated picture.

Steering: at the name of the object asked for, its spatial ID is exchanged for another slot's, or its slot removed (``spatial_ids.py``).

Sufficiency: the picture is grey, or noise, and the question's residuals after every layer are those of the run with the real picture.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from PIL import Image

from vlm_spatial.config.readout import Corrupted, Group, ReadoutSettings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader, outcome
from vlm_spatial.interventions.edited_runs import SCORED, finite, read_next, scored
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.erasure import Erased
from vlm_spatial.interventions.memory import pairs_at_once
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.interventions.spatial_ids import (
    TEMPLATE,
    Added,
    AtName,
    Fitted,
    Stepped,
    half_of,
    matched_random,
    nearest_slots,
)
from vlm_spatial.interventions.subspaces import random_basis
from vlm_spatial.interventions.token_groups import text_groups, word_position
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import Positions
from vlm_spatial.models.values import Site
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

Experiment = Literal["usage", "sufficiency", "steer", "erase", "read"]

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "experiment": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "picture": pl.String,
    "group": pl.String,
    "source": pl.String,
    "site": pl.String,
    "layer": pl.Int32,
    "alpha": pl.Float64,
    "draw": pl.Int32,
    "all_layers": pl.Boolean,
    "included": pl.Boolean,
    "predicted": pl.String,
    "outcome": pl.String,
    "right_after": pl.Boolean,
    "margin_clean": pl.Float64,
    "margin_source": pl.Float64,
    "margin": pl.Float64,
    **SCORED,
    "positions": pl.Int32,
    "id_read": pl.String,
}
"""Columns of readout.parquet; see docs/formats.md."""

OWN = "own"
_WORDS = {"object_to_slot": "word.target", "relation_to_object": "word.reference"}


@dataclass(frozen=True)
class Taken:
    """Residuals that one run takes from another.

    Attributes:
        picture: ``own``, or the corrupted one that is shown.
        group: the token group; None: nothing is taken.
        source: of the residuals: ``counterfactual``, ``unrelated``, or ``original`` (the real picture).
        sites: after which layers.
        made: instead of taken residuals, what those that are there become; ``source`` then says of what.
    """

    experiment: Experiment
    picture: str
    group: str | None
    source: str
    sites: tuple[Site, ...]
    alpha: float | None = None
    draw: int | None = None
    made: Added | Stepped | Erased | None = None

    def patch(self, pair: int, site: Site, positions: Positions) -> Patch:
        """The patch of pair number ``pair`` after one layer."""
        source = self.source if self.made is None else CLEAN
        return Patch(pair, site, source=source, to_positions=positions, transform=self.made)


def steering(
    case: Case, sites: Sequence[Site], ids: Mapping[tuple[str, int], Fitted], half: int, settings: ReadoutSettings, seed: int
) -> list[Taken]:
    """The named object's spatial ID exchanged for that of the other slot, or its slot removed, and controls.

    Controls of the exchange, at the largest strength: random vectors of the same length, the same slots' IDs of the other axis, and the
    same vector at the question's first token. Of steps so many times as long as the residual: random directions. Of the removal: as far,
    inside random subspaces of the same rank.

    Args:
        half: of the objects, to which the named one belongs.
    """
    here, there = case.slots
    fitted = ids.get((case.axis, half))
    if fitted is None or np.isnan(fitted.slots[:, [here, there]]).any():
        return []
    others = [other.slots for (axis, of), other in ids.items() if axis != case.axis and of == half]
    generator = np.random.default_rng([seed, *case.pair_id.encode()])
    draws, most = range(settings.id_draws), max(settings.id_alphas)
    made = []
    for number, site in enumerate(sites):

        def taken(
            source: str,
            change: Added | Stepped | Erased,
            alpha: float | None,
            group: str = "word",
            draw: int | None = None,
            experiment: Experiment = "steer",
            site: Site = site,
        ) -> Taken:
            return Taken(experiment, OWN, group, source, (site,), alpha, draw, change)

        step = fitted.slots[number, there] - fitted.slots[number, here]
        made += [taken("id", Added(alpha * step), alpha) for alpha in settings.id_alphas]
        made += [taken("random", Added(most * matched_random(step, generator)), most, draw=draw) for draw in draws]
        made += [taken("other_axis", Added(most * (found[number, there] - found[number, here])), most) for found in others]
        made.append(taken("id", Added(most * step), most, "first"))
        for norms in settings.id_norms:
            made.append(taken("id_norms", Stepped(step, norms), norms))
            made += [taken("random_norms", Stepped(matched_random(step, generator), norms), norms, draw=draw) for draw in draws]
        if settings.id_erased:
            erasure = fitted.erasures[number]
            made.append(taken("id", Erased(erasure), None, experiment="erase"))
            random = (random_basis(erasure.right.shape[0], len(step), generator) for _ in draws)
            made += [taken("random", Erased(erasure, other), None, draw=draw, experiment="erase") for draw, other in enumerate(random)]
    return made


def groups_there(groups: Sequence[Group], templates: Collection[str]) -> tuple[Group, ...]:
    """The groups that questions of these templates have. An object's name that none of them holds is left out, with a line on stderr.

    Raises:
        UserError: if that leaves none of those that were asked for.
    """
    if "word" not in groups or not templates or any(template in _WORDS for template in templates):
        return tuple(groups)
    left = tuple(group for group in groups if group != "word")
    said = f"readout.groups: word: no pair's question names an object; the templates {' and '.join(_WORDS)} of a dataset do"
    if not left:
        raise UserError(f"{said}; allowed without them are image, question and answer")
    print(f"{said}; left out", file=sys.stderr)
    return left


def plan(groups: Sequence[Group], corrupted: Sequence[Corrupted], sites: Sequence[Site], depth: int, unrelated: bool) -> list[Taken]:
    """Everything that is taken in a pair.

    Args:
        unrelated: whether the pair has an unrelated picture.
    """
    every = tuple(f"language.{layer}" for layer in range(depth))
    made = [Taken("usage", OWN, group, "counterfactual", (site,)) for group in groups for site in sites]
    made += [Taken("usage", OWN, "question", source, every) for source in ("counterfactual", *(["unrelated"] if unrelated else []))]
    for picture in corrupted:
        made += [Taken("sufficiency", picture, "question", "original", every), Taken("sufficiency", picture, None, "original", ())]
    return made


def corrupt(image: Image.Image, how: str, seed: Sequence[int]) -> Image.Image:
    """A picture of the same size in plain grey, or of noise."""
    if how == "grey":
        return Image.new("RGB", image.size, (128, 128, 128))
    pixels = np.random.default_rng(list(seed)).integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def positions_of(adapter: Adapter, run: Run, case: Case, objects: Sequence[str]) -> dict[str, Positions]:
    """Token groups of a prompt; ``word`` where it names exactly one of the objects."""
    groups = text_groups(adapter, run.image, run.prompt)
    word = word_position(adapter, run.image, run.prompt, objects) if case.template in _WORDS else None
    groups = groups | {"first": groups["question"][:1]}
    return groups if word is None else groups | {"word": np.array([word])}


def run_readout(engine: PatchEngine, dataset: Dataset, cases: Sequence[Case], plans: Sequence[Sequence[Taken]], seed: int) -> pl.DataFrame:
    """One row a pair and what it takes (columns: ``SCHEMA``); pairs whose prompt lacks a group have no row of it.

    A pair is ``included`` if the untouched model answers both of its scenes right.
    """
    most = max((len(of) * len(case.reader.beginnings) for case, of in zip(cases, plans, strict=True)), default=1)
    size = pairs_at_once(engine.adapter.vocabulary, most)
    paired = list(enumerate(zip(cases, plans, strict=True)))
    groups = [paired[start : start + size] for start in range(0, len(paired), size)]
    rows: list[dict[str, object]] = []

    def read(group: Sequence[tuple[int, tuple[Case, Sequence[Taken]]]]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, (scene for _, (case, _) in group for scene in case.shown))

    for group, images in progress(prefetch(groups, read), "residuals", len(groups)):
        rows += _rows(engine, dataset, images, group, seed)
    return pl.DataFrame(rows, schema=SCHEMA)


def _rows(
    engine: PatchEngine,
    dataset: Dataset,
    images: Mapping[str, Image.Image],
    group: Sequence[tuple[int, tuple[Case, Sequence[Taken]]]],
    seed: int,
) -> Iterator[dict[str, object]]:
    runs: list[PairRuns] = []
    asked: list[tuple[int, Taken, int]] = []
    patches: list[tuple[Patch, ...]] = []
    bare: list[PairRuns] = []
    untouched: list[PairRuns] = []
    for index, (case, of_case) in group:
        objects: list[str] = list(dataset.row(case.clean_scene)["objects"])  # type: ignore[call-overload]
        own = case.runs(images)
        untouched += own
        where = [positions_of(engine.adapter, run.clean, case, objects) for run in own]
        shown = {OWN: len(runs)}
        runs += own
        for picture in dict.fromkeys(taken.picture for taken in of_case if taken.picture != OWN):
            shown[picture] = len(runs)
            other = corrupt(images[case.clean_scene], picture, [seed, index])
            # Of a read-only image the key is worked out once.
            other.readonly = 1
            runs += [PairRuns(run.pair_id, Run(other, run.clean.prompt), {"original": run.clean}) for run in own]
        for taken in of_case:
            first = shown[taken.picture]
            if taken.group is None:
                asked.append((index, taken, 0))
                bare += runs[first : first + len(own)]
            elif all(taken.group in each for each in where):
                asked.append((index, taken, len(where[0][taken.group])))
                patches += [
                    tuple(taken.patch(first + number, site, each[taken.group]) for site in taken.sites) for number, each in enumerate(where)
                ]
    parts = (untouched, _sources(untouched), bare)
    clean, there, plain = (iter(finite(engine, engine.clean(some), some, "unpatched runs")) for some in parts)
    known = {index: (case, read_next(case, clean), read_next(case, there)) for index, (case, _) in group}
    logits = iter(finite(engine, engine.run(runs, patches), [runs[of_run[0].pair] for of_run in patches], "patched runs"))
    for index, taken, count in asked:
        case, before, source = known[index]
        after = read_next(case, plain if taken.group is None else logits)
        yield _row(case, taken, before, source, after, count)


def _sources(runs: Sequence[PairRuns]) -> list[PairRuns]:
    return [PairRuns(run.pair_id, run.sources["counterfactual"]) for run in runs]


def _row(case: Case, taken: Taken, before: np.ndarray, there: np.ndarray, after: np.ndarray, count: int) -> dict[str, object]:
    reader, right, other = case.reader, case.clean_answer, case.counterfactual_answer
    predicted = reader.best(after)
    one = taken.sites[0] if len(taken.sites) == 1 else None
    return {
        "pair_id": case.pair_id,
        "experiment": taken.experiment,
        "axis": case.axis,
        "template": case.template,
        "picture": taken.picture,
        "group": _WORDS[case.template] if taken.group == "word" else taken.group,
        "source": "mirror" if case.experiment == "mirror" else taken.source,
        "site": one,
        "layer": None if one is None else int(one.split(".")[1]),
        "alpha": taken.alpha,
        "draw": taken.draw,
        "all_layers": taken.group is not None and one is None,
        "included": reader.best(before) == right and reader.best(there) == other,
        "predicted": predicted,
        "outcome": outcome(predicted, case.hypotheses),
        "right_after": predicted == right,
        "margin_clean": reader.log_odds(before, other, right),
        "margin_source": reader.log_odds(there, other, right),
        "margin": reader.log_odds(after, other, right),
        **scored(reader, before, after),
        "positions": count,
    }


def run_reading(
    engine: PatchEngine,
    dataset: Dataset,
    asked: Sequence[AtName],
    sites: Sequence[Site],
    ids: Mapping[tuple[str, int], Fitted],
    words: Sequence[str],
) -> pl.DataFrame:
    """One row a question and layer: the slot whose ID is nearest at the object's name, beside the model's answer.

    Questions whose object was not seen in training, or whose axis has no IDs, have no rows. ``outcome``: the ID agrees with the
    ``truth``, else with the answer ``given``, or is ``other``.
    """
    questions = {row["question_id"]: row for row in dataset.questions.filter(template=TEMPLATE).iter_rows(named=True)}
    answers = {(row["scene_id"], row["slot"]): row["answer"] for row in questions.values()}
    rows: list[dict[str, object]] = []
    for one in asked:
        question = questions[one.question_id]
        half = half_of(one.name, words)
        own, others = ids.get((question["axis"], 1 - half)), ids.get((question["axis"], half))
        if own is None or others is None or one.name not in own.objects:
            continue
        reader = AnswerReader.of(engine.adapter, question["candidates"], TEMPLATE)
        image = pictures(engine.adapter, dataset, [one.scene_id])[one.scene_id]
        runs = [PairRuns(one.question_id, Run(image, prompt)) for prompt in reader.prompts(question["prompt"])]
        scores = reader.log_probabilities(finite(engine, engine.clean(runs), runs, "untouched runs"))
        predicted = reader.best(scores)
        for site, slot in zip(sites, nearest_slots(one, own.objects[one.name], others.slots), strict=True):
            read = answers.get((one.scene_id, slot))
            rows.append(
                {
                    "pair_id": one.question_id,
                    "experiment": "read",
                    "axis": question["axis"],
                    "template": TEMPLATE,
                    "picture": OWN,
                    "group": _WORDS[TEMPLATE],
                    "source": "id",
                    "site": site,
                    "layer": int(site.split(".")[1]),
                    "all_layers": False,
                    "included": True,
                    "predicted": predicted,
                    "outcome": "truth" if read == question["answer"] else "given" if read == predicted else "other",
                    "right_after": predicted == question["answer"],
                    **scored(reader, scores, scores),
                    "positions": 1,
                    "id_read": read,
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)
