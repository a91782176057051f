"""Vision interchange: which tokens, at which site of the vision encoder, carry the layout (paper, section 5.2.2)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.models.values import Site
from vlm_spatial.tokens import TOKEN_SETS


def cells(pair: Case, token_set: str, seed: int) -> Int[np.ndarray, " cells"]:
    """Cells that an exchange of ``pair`` covers: the union of ``token_set`` over the two slots whose contents differ.

    Where the two scenes' boxes differ (photos), a set is what either scene has there, so that the old content goes and the new one comes
    whole. ``random`` is as many cells as the strips have, drawn from all cells without replacement, from ``seed`` and the pair's id.
    It may cover objects and strips: there are not always that many other cells (on a 6×6 grid two strips are 24 of 36). How much of them it
    covers stands in the table (``object_tokens``, ``strip_tokens``). The matched controls avoid what they are held against:
    ``random_object`` is as many cells as ``object`` has, from outside every object; ``random_strip`` as many as ``strip`` has, or all there
    are, from outside the two strips.
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
            return _drawn(inside, int(strips.sum()), pair, seed)
        case "random_object":
            anywhere = np.any([scene.objects.any(axis=0) for scene in scenes], axis=0)
            return _drawn(inside[~anywhere[inside]], int(objects.sum()), pair, seed)
        case "random_strip":
            return _drawn(inside[~strips[inside]], int(strips.sum()), pair, seed)
    raise UserError(f"token set {token_set!r}: allowed are {', '.join((*TOKEN_SETS, 'random', 'random_object', 'random_strip'))}")


def _drawn(cells: Int[np.ndarray, " cells"], count: int, pair: Case, seed: int) -> Int[np.ndarray, " cells"]:
    generator = np.random.default_rng([seed, *pair.pair_id.encode()])
    return np.sort(generator.choice(cells, size=min(count, len(cells)), replace=False))


def vision_plan(sites: Sequence[Site], token_sets: Sequence[str], sources: Sequence[str], seed: int) -> ExchangesOf:
    """Every site × token set × source of a pair whose two scenes are one geometry with two contents exchanged."""

    def plan(case: Case) -> list[Exchange]:
        chosen = {token_set: cells(case, token_set, seed) for token_set in token_sets}
        shown = [source for source in sources if source != "unrelated" or case.unrelated_scene is not None]
        there = [name for name in token_sets if len(chosen[name]) or not name.startswith("random_")]
        return [Exchange(site, name, source, chosen[name]) for site in sites for source in shown for name in there]

    return plan
