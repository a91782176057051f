"""Interchange of the last token: when does the position that answers know which slot is meant, and when what is there?

The source shows other objects, and its prompt asks for another slot. Its residual at the last position of the prompt is put in place of
the clean run's, layer by layer. As long as nothing was read yet, the answer stays. If the slot asked for is already written there, the
clean picture supplies the object of the source's slot (``ordinal``). If the object itself is, the answer is the source's (``attribute``).

As published, the two pictures share the middle object, and both prompts name it: pairs of five contents (``pairs.last_token``). Without
them the language pairs serve, whose pictures share nothing.

The question's tokens and the chat template's behind them can be exchanged likewise (``last_token_groups``).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.interventions.token_groups import from_end
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import Positions
from vlm_spatial.models.values import Site
from vlm_spatial.scenes.dataset import Dataset

EMBEDDING = "embedding"
"""What enters language block 0: before it the last position knows nothing of prompt or picture."""


def last_token_cases(dataset: Dataset, language: Sequence[Case]) -> list[Case]:
    """The language pairs, with the source asked for the other slot of each; those without that question are counted on stderr.

    The two pictures of a language pair have no object in common, and its questions name none, so that all three answers differ.
    """
    prompts = {
        (scene, slot): (prompt, answer)
        for scene, slot, prompt, answer in dataset.questions.filter(template="slot_to_object")
        .select("scene_id", "slot", "prompt", "answer")
        .iter_rows()
    }
    found = []
    for case in language:
        other = case.slots[1]
        ordinal, attribute = (prompts.get((scene, other)) for scene in (case.clean_scene, case.counterfactual_scene))
        if ordinal is None or attribute is None:
            continue
        found.append(
            replace(
                case,
                experiment="last_token",
                counterfactual_prompt=attribute[0],
                counterfactual_answer=attribute[1],
                hypotheses={"stay": case.clean_answer, "ordinal": ordinal[1], "attribute": attribute[1]},
            )
        )
    if len(found) < len(language):
        missing = len(language) - len(found)
        print(f"{missing} of {len(language)} last_token pairs set aside: no question for their other slot", file=sys.stderr, flush=True)
    return found


def last_token_plan(adapter: Adapter, dataset: Dataset, sites: Sequence[Site], groups: Sequence[str] = ("last",)) -> ExchangesOf:
    """The source's residuals at each group of prompt positions, at every site.

    Positions are counted from the end of either prompt. Where one has more tokens of a group, those nearest to the end are exchanged.
    """
    nowhere = np.array([], dtype=int)

    def positions(case: Case, group: str) -> Positions:
        if group == "last":
            return np.array([-1])
        asked = ((case.clean_scene, case.prompt), (case.counterfactual_scene, case.counterfactual_prompt or case.prompt))
        both = [from_end(adapter, dataset.image(scene), prompt, group) for scene, prompt in asked]
        return min(both, key=len)

    def exchanges(case: Case) -> list[Exchange]:
        found = {group: positions(case, group) for group in groups}
        return [
            Exchange(site, group, "counterfactual", nowhere, to_positions=places)
            for group, places in found.items()
            if len(places)
            for site in sites
        ]

    return exchanges
