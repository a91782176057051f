"""Vision interchange: which tokens, at which site of the vision encoder, carry the layout (paper, section 5.2.2)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.models.adapter import Site
from vlm_spatial.tokens import TOKEN_SETS


def cells(pair: Case, token_set: str, seed: int) -> Int[np.ndarray, " cells"]:
    """Cells that an exchange of ``pair`` covers: the union of ``token_set`` over the two slots whose contents differ.

    Where the two scenes' boxes differ (photos), a set is what either scene has there, so that the old content goes and the new one comes
    whole. ``random`` is as many cells as the strips have, drawn from all cells without replacement, from ``seed`` and the pair's id.
    It may cover objects and strips: there are not always that many other cells (on a 6×6 grid two strips are 24 of 36). How much of them it
    covers stands in the table (``object_tokens``, ``strip_tokens``).
    """
    scenes = (pair.tokens, pair.counterfactual_tokens)
    objects, strips = (np.any([scene.mask(name, pair.slots) for scene in scenes], axis=0) for name in ("object", "strip"))
    inside = np.flatnonzero(np.any([scene.inside for scene in scenes], axis=0))
    match token_set:
        case "object":
            return np.flatnonzero(objects)
        case "strip":
            return np.flatnonzero(strips)
        case "rim":
            return np.flatnonzero(strips & ~objects)
        case "background":
            return np.flatnonzero(np.all([scene.mask("background", pair.slots) for scene in scenes], axis=0))
        case "all":
            return inside
        case "random":
            generator = np.random.default_rng([seed, *pair.pair_id.encode()])
            return np.sort(generator.choice(inside, size=int(strips.sum()), replace=False))
    raise UserError(f"token set {token_set!r}: allowed are {', '.join((*TOKEN_SETS, 'random'))}")


def vision_plan(sites: Sequence[Site], token_sets: Sequence[str], sources: Sequence[str], seed: int) -> ExchangesOf:
    """Every site × token set × source of a pair whose two scenes are one geometry with two contents exchanged."""

    def plan(case: Case) -> list[Exchange]:
        chosen = {token_set: cells(case, token_set, seed) for token_set in token_sets}
        shown = [source for source in sources if source != "unrelated" or case.unrelated_scene is not None]
        return [Exchange(site, token_set, source, chosen[token_set]) for site in sites for source in shown for token_set in token_sets]

    return plan
