"""Displaced interchange: is an answer read from the slot's code, or from a code of absolute place?

In all other pairs objects stand at the same three places, so slot and place are one. Here both scenes are layout-decorrelated: the same
place along the axis holds one slot in the clean scene and another in the source. Contents have nothing in common. All three objects of
the clean scene take the tokens of the source's three objects, permuted. With slot i asked about, four answers are told apart:

- ``stay``: the clean object, which was read already;
- ``ordering``: the source's object of slot i, whatever its place was and is;
- ``absolute``: the source's object that stood, in the source, where slot i stands in the clean scene: it brings the code of that place;
- ``content``: the source's object that stands there now.
"""

from collections.abc import Sequence

import numpy as np

from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.displacement import apart, laid_on, permuted
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.values import Site
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SLOTS, SceneTokens


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
        contents = {name: frozenset(str(row["answer"]) for row in questions[name].values()) for name in scenes}
        free = list(scenes)
        for clean in scenes:
            made = next(apart(clean, free, tokens, contents, str(axis)), None)
            if made is None or sum(case.axis == axis for case in found) >= limit:
                continue
            source, slot, there = made
            free.remove(source)
            found.append(_case(adapter, str(axis), len(found), (clean, source), (slot, there), tokens, questions))
    return found


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
        onto = permuted(slot, laid, generator.permutation(others).tolist())
        blocks = [laid_on(case.tokens.objects[to], case.counterfactual_tokens.objects[of], case.tokens.grid) for to, of in onto.items()]
        to_cells, from_cells = (np.concatenate(cells) for cells in zip(*blocks, strict=True))
        free = np.flatnonzero(case.tokens.mask("background", others) & case.counterfactual_tokens.mask("background", others))
        drawn = generator.choice(free, size=min(len(to_cells), len(free)), replace=False)
        chosen = {"object": (to_cells, from_cells), "random": (drawn, generator.permutation(drawn))}
        return [Exchange(site, name, "counterfactual", to, of) for site in sites for name, (to, of) in chosen.items() if len(to)]

    return plan
