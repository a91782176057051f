"""Language interchange: content-independent ordering on the object tokens (paper, section 5.3), and the conflict experiment.

Both exchange the blocks of two slots one to one: values of slot j's tokens are laid on slot i's, and the other way round.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.patch import CLEAN
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.models.values import Site
from vlm_spatial.tokens import matched_blocks

BlockSet = Literal["object", "strip"]


def exchange_blocks(case: Case, site: Site, token_set: BlockSet, source: str) -> Exchange:
    """Slot i's tokens take what ``source`` has at slot j's, and slot j's what it has at slot i's.

    Raises:
        UserError: if the two objects do not cover the same cells relative to their slots on this grid.
    """
    first, second = matched_blocks(case.tokens, *case.slots, token_set)
    return Exchange(site, token_set, source, np.concatenate([first, second]), np.concatenate([second, first]))


def language_plan(sites: Sequence[Site], seed: int) -> ExchangesOf:
    """Exchange of the object blocks with the counterfactual's, at every site, and the same for random cells of the background.

    The counterfactual has the same geometry and no content in common with the clean scene. With slot i asked about, its object i (coming
    with the ordering code i) then stands at slot j: the answer is that object if it follows the ordering code, its object j if it follows
    the place, and the clean scene's object i if it is read from elsewhere. The random set, as many cells as the two blocks have, drawn
    from the background cells and exchanged one half with the other, tells what any patch of that size does.
    """

    def plan(case: Case) -> list[Exchange]:
        blocks = exchange_blocks(case, sites[0], "object", "counterfactual")
        background = np.flatnonzero(case.tokens.mask("background", case.slots))
        generator = np.random.default_rng([seed, *case.pair_id.encode()])
        half = min(len(blocks.to_cells), len(background)) // 2
        first, second = np.split(generator.choice(background, size=2 * half, replace=False), 2)
        drawn = replace(blocks, token_set="random", to_cells=np.concatenate([first, second]), from_cells=np.concatenate([second, first]))
        return [replace(exchange, site=site) for site in sites for exchange in (blocks, drawn) if len(exchange.to_cells)]

    return plan


def conflict_plan(token_sets: Sequence[BlockSet], site: Site = "connector") -> ExchangesOf:
    """Exchange of two slots' blocks of the SAME image: contents keep their vision code and change their place in the sequence."""
    return lambda case: [exchange_blocks(case, site, token_set, CLEAN) for token_set in token_sets]


def exchangeable(cases: Sequence[Case]) -> list[Case]:
    """The cases whose two objects cover the same cells relative to their slots, in both scenes; the others are counted on stderr."""
    kept = []
    reasons = []
    for case in cases:
        both = (case.tokens, case.counterfactual_tokens)
        first, second = (tokens.objects[tokens.rows(case.slots)] for tokens in both)
        if (first != second).any():
            reasons.append(f"{case.pair_id}: its two scenes have their objects on different cells")
            continue
        try:
            matched_blocks(case.tokens, *case.slots, "object")
        except UserError as error:
            reasons.append(f"{case.pair_id}: {error}")
        else:
            kept.append(case)
    if reasons:
        print(f"{len(reasons)} of {len(cases)} {cases[0].experiment} pairs set aside, such as {reasons[0]}", file=sys.stderr, flush=True)
    return kept
