"""Displaced interchange: is an answer read from the slot's code, or from a code of absolute place?

In all other pairs objects stand at the same three places, so slot and place are one. Here both scenes are layout-decorrelated: the same
place along the axis holds one slot in the clean scene and another in the source. Contents have nothing in common. All three objects of
the clean scene take the tokens of the source's three objects, permuted. With slot i asked about, four answers are told apart:

- ``stay``: the clean object, which was read already;
- ``ordering``: the source's object of slot i, whatever its place was and is;
- ``absolute``: the source's object that stood, in the source, where slot i stands in the clean scene: it brings the code of that place;
- ``content``: the source's object that stands there now.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Int

from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import Site
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SLOTS, SceneTokens, TokenGrid

_SAME_PLACE = 0.5
"""Objects stand at the same place if their centres along the axis are at most this many cells apart."""


def displaced_cases(dataset: Dataset, adapter: Adapter, limit: int, seed: int) -> list[Case]:
    """Pairs of decorrelated test scenes, up to ``limit`` an axis; each scene is clean in at most one of them, and source in at most one."""
    asked = dataset.questions.filter(variant="decorrelated", split="test", template="slot_to_object")
    found: list[Case] = []
    for (axis,), of_axis in sorted(asked.partition_by("axis", as_dict=True).items()):
        questions: dict[str, dict[int, dict[str, object]]] = {}
        for row in of_axis.iter_rows(named=True):
            questions.setdefault(row["scene_id"], {})[row["slot"]] = row
        scenes = [name for name in np.random.default_rng(seed).permutation(sorted(questions)) if len(questions[name]) == SLOTS]
        tokens = {name: dataset.tokens(name, adapter.grid(*dataset.size(name))) for name in scenes}
        # Objects that touch may both cover half of a cell, which cannot take the values of two.
        scenes = [name for name in scenes if tokens[name].objects.sum(axis=0).max() <= 1]
        free = list(scenes)
        for clean in scenes:
            made = next(_fitting(clean, free, tokens, questions, str(axis)), None)
            if made is None or sum(case.axis == axis for case in found) >= limit:
                continue
            source, slot, there = made
            free.remove(source)
            found.append(_case(adapter, str(axis), len(found), (clean, source), (slot, there), tokens, questions))
    return found


def _fitting(
    clean: str, sources: Sequence[str], tokens: dict[str, SceneTokens], questions: dict[str, dict[int, dict[str, object]]], axis: str
) -> Iterator[tuple[str, int, int]]:
    """Sources, the slot to ask about, and the source's slot that stands where it stands."""
    words = {row["answer"] for row in questions[clean].values()}
    for source in sources:
        if source == clean or tokens[source].grid != tokens[clean].grid or words & {row["answer"] for row in questions[source].values()}:
            continue
        here, elsewhere = (_along(tokens[name], axis) for name in (clean, source))
        for slot, there in permutations(range(SLOTS), 2):
            if abs(here[slot] - elsewhere[there]) <= _SAME_PLACE:
                yield source, slot, there


def _along(tokens: SceneTokens, axis: str) -> list[float]:
    """Centre of each object's cells along the axis, in cells."""
    rows, cols = zip(*(np.divmod(np.flatnonzero(mask), tokens.grid.cols) for mask in tokens.objects), strict=True)
    return [float(np.mean(cells)) for cells in (cols if axis == "horizontal" else rows)]


def _case(
    adapter: Adapter,
    axis: str,
    number: int,
    scenes: tuple[str, str],
    slots: tuple[int, int],
    tokens: dict[str, SceneTokens],
    questions: dict[str, dict[int, dict[str, object]]],
) -> Case:
    (clean, source), (slot, there) = scenes, slots
    laid = SLOTS - slot - there
    before, after = (questions[name][slot] for name in scenes)
    objects = [str(questions[source][each]["answer"]) for each in range(SLOTS)]
    words = sorted({str(row["answer"]) for name in scenes for row in questions[name].values()})
    return Case(
        pair_id=f"displaced-{axis}-{number:05d}",
        experiment="displaced",
        axis=axis,
        template="slot_to_object",
        clean_scene=clean,
        counterfactual_scene=source,
        unrelated_scene=None,
        slots=(slot, laid),
        prompt=str(before["prompt"]),
        counterfactual_prompt=str(after["prompt"]),
        clean_answer=str(before["answer"]),
        counterfactual_answer=str(after["answer"]),
        hypotheses={"stay": str(before["answer"]), "ordering": objects[slot], "absolute": objects[there], "content": objects[laid]},
        tokens=tokens[clean],
        counterfactual_tokens=tokens[source],
        reader=AnswerReader.of(adapter, words, "slot_to_object"),
    )


def displaced_plan(sites: Sequence[Site], seed: int) -> ExchangesOf:
    """The source's objects on the clean scene's at every site, and as many background cells of the source, permuted, as a control.

    Where the slot that is asked about stands, the source's ``content`` object is laid; the other two change sides from pair to pair.
    """

    def plan(case: Case) -> list[Exchange]:
        generator = np.random.default_rng([seed, *case.pair_id.encode()])
        slot, laid = case.slots
        others = [each for each in range(SLOTS) if each != slot]
        sources = [each for each in range(SLOTS) if each != laid]
        onto = dict(zip(generator.permutation(others).tolist(), sources, strict=True)) | {slot: laid}
        blocks = [laid_on(case.tokens.objects[to], case.counterfactual_tokens.objects[of], case.tokens.grid) for to, of in onto.items()]
        to_cells, from_cells = (np.concatenate(cells) for cells in zip(*blocks, strict=True))
        free = np.flatnonzero(case.tokens.mask("background", others) & case.counterfactual_tokens.mask("background", others))
        drawn = generator.choice(free, size=min(len(to_cells), len(free)), replace=False)
        chosen = {"object": (to_cells, from_cells), "random": (drawn, generator.permutation(drawn))}
        return [Exchange(site, name, "counterfactual", to, of) for site in sites for name, (to, of) in chosen.items() if len(to)]

    return plan


def laid_on(
    target: Bool[np.ndarray, " cells"], source: Bool[np.ndarray, " cells"], grid: TokenGrid
) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
    """Cells of an object, and for each the cell of another one that lies at the same share of its height and width."""
    to, of = (np.stack(np.divmod(np.flatnonzero(mask), grid.cols)) for mask in (target, source))
    low, size = to.min(axis=1, keepdims=True), np.ptp(to, axis=1, keepdims=True) + 1
    wanted = ((to - low + 0.5) / size * (np.ptp(of, axis=1, keepdims=True) + 1)).astype(int) + of.min(axis=1, keepdims=True)
    # Where the other object is no rectangle of cells, the nearest of its cells.
    nearest = np.abs(wanted[:, :, None] - of[:, None, :]).sum(axis=0).argmin(axis=1)
    return to[0] * grid.cols + to[1], of[0][nearest] * grid.cols + of[1][nearest]
