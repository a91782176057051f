"""Claims and intervals on how the language model reads the picture: of the stages ``readout``, ``routes`` and ``positions``.

Whatever is done to one pair, or asked about one scene, is correlated.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl
from benchmarks.simulated.cases import LAYERS, Case, Rng, holds, supported
from benchmarks.simulated.tables import luck

from vlm_spatial.interventions.heads import drawn_alike, ranked_first, sizes
from vlm_spatial.measures import claim_measures as measured
from vlm_spatial.measures import heads, positions, readout, routes
from vlm_spatial.statistics import Interval

DRAWS = 20
"""Random vectors, or sets of random heads, of a pair."""
TEMPLATES = {"slot_to_object": 1 / 3, "object_to_slot": 1 / 3, "relation_to_object": 1 / 2}
"""What is asked in turn, and how often a guess is right: a relation's answer is not the object that the question names."""


def of_pairs(n: int, **columns: object) -> pl.DataFrame:
    """A row a pair; columns hold a value each, or one for all."""
    of_each = {name: pl.Series(of) if isinstance(of, np.ndarray) else pl.lit(of) for name, of in columns.items()}
    same = {"axis": pl.lit("horizontal"), "template": pl.lit("slot_to_object"), "included": pl.lit(True)}
    return pl.DataFrame({"pair_id": [f"{place:05d}" for place in range(n)]}).with_columns(**(same | of_each))


def hits_as(hit: str, hits: np.ndarray) -> np.ndarray:
    return np.where(hits, hit, "stay")


# --- readout ---------------------------------------------------------------------------------------------------------


def usage_table(own: float, unrelated: float, n: int, generator: Rng) -> pl.DataFrame:
    lucky = luck(n, 2, generator)
    taken = {"counterfactual": lucky[:, 0] < own, "unrelated": lucky[:, 1] < unrelated}
    same = {"experiment": "usage", "group": "question", "all_layers": True}
    return pl.concat(of_pairs(n, source=source, outcome=hits_as("flip", hits), **same) for source, hits in taken.items())


def false_text_decides(own: float, unrelated: float, n: int, generator: Rng) -> bool:
    return supported("text_decides", {"readout": usage_table(own, unrelated, n, generator)})


def swap_table(rates: Sequence[float], random: float, n: int, generator: Rng) -> pl.DataFrame:
    """Flips by the ID of each layer, and by random vectors there."""
    shape = (n, len(rates), DRAWS + 1)
    wanted = np.array([[rate, *[random] * DRAWS] for rate in rates])
    hits = luck(n, wanted.size, generator).reshape(shape) < wanted
    pair, layer, draw = (of.ravel() for of in np.indices(shape))
    same = {"experiment": "steer", "group": "word.target", "alpha": 2.0}
    return of_pairs(n, **same)[pair].with_columns(
        site=pl.format("language.{}", pl.Series(layer)),
        source=pl.Series(np.where(draw == 0, "id", "random")),
        outcome=pl.Series(hits_as("flip", hits.ravel())),
    )


def false_swap(share: float, n: int, generator: Rng) -> bool:
    return supported("spatial_id_swap", {"readout": swap_table([share] * LAYERS, share, n, generator)})


def swapped(rates: Sequence[float], n: int, generator: Rng) -> bool:
    found = readout.id_swap(swap_table(rates, 0.1, n, generator))
    return found is not None and holds(found.rate, max(rates))


def reading_table(given: float, truth: float, n: int, generator: Rng) -> pl.DataFrame:
    """IDs at the names of each scene's three objects: where the answer is wrong, what they say leans one way or the other in a scene."""
    parts = []
    wrong = luck(n, 3, generator) < 0.5
    for layer in range(LAYERS):
        leaning = generator.dirichlet(np.array([given, truth, 1 - given - truth]) * (1 / 0.3 - 1), n)
        said = np.array(["given", "truth", "other"])[(generator.random((n, 3, 1)) > leaning.cumsum(axis=1)[:, None, :2]).sum(axis=2)]
        said = np.where(wrong, said, np.where(luck(n, 3, generator) < 0.6, "truth", "other"))
        names = [f"scene-{scene}/object_to_slot/{slot}" for scene in range(n) for slot in range(3)]
        table = of_pairs(3 * n, right_after=~wrong.ravel(), outcome=said.ravel(), experiment="read", site=f"language.{layer}")
        parts.append(table.with_columns(pair_id=pl.Series(names), template=pl.lit("object_to_slot")))
    return pl.concat(parts)


def false_faithful(n: int, generator: Rng) -> bool:
    return supported("id_faithful_on_errors", {"readout": reading_table(0.4, 0.4, n, generator)})


def read_on_errors(given: float, n: int, generator: Rng) -> bool:
    found = readout.faithful(reading_table(given, 0.9 * (1 - given), n, generator))
    return found is not None and holds(found.rate, given)


def grey_table(rates: Mapping[str, float], n: int, generator: Rng) -> pl.DataFrame:
    """Right answers over a grey picture, alone and with the question's residuals of the real one, at the same rate."""
    templates = np.resize(list(rates), n)
    lucky = luck(n, 2, generator) < np.array([rates[name] for name in templates])[:, None]
    same = {"experiment": "sufficiency", "picture": "grey", "template": templates, "candidates": ["a", "b", "c"]}
    parts = [of_pairs(n, group=group, right_after=lucky[:, place], **same) for place, group in enumerate(("question", "none"))]
    return pl.concat(parts).with_columns(group=pl.col("group").replace("none", None))


def false_text_suffices(rates: Mapping[str, float], n: int, generator: Rng) -> bool:
    return supported("text_suffices", {"readout": grey_table(rates, n, generator)})


# --- routes ----------------------------------------------------------------------------------------------------------


def routes_table(lost: Mapping[tuple[str, str], float], n: int, generator: Rng) -> pl.DataFrame:
    """From the share of answers that each route's closing loses."""
    lucky = luck(n, len(lost), generator)
    same = {"experiment": "knockout", "form": "renormalised", "condition": "intact", "all_layers": True, "layer_from": 0, "layer_to": 5}
    numbers = dict.fromkeys(("margin_clean", "margin", "relative_probability"), 0.0)
    numbers |= dict.fromkeys(("margin_source", "candidate_mass", "candidate_mass_clean"), 1.0)
    return pl.concat(
        of_pairs(n, route=route, keys=keys, right_after=lucky[:, place] >= share, outcome="stay", **same, **numbers)
        for place, ((route, keys), share) in enumerate(lost.items())
    )


def false_route(name: str, lost: Mapping[tuple[str, str], float], n: int, generator: Rng) -> bool:
    return supported(name, {"routes": routes_table(lost, n, generator)})


def damage(share: float, n: int, generator: Rng) -> bool:
    found = routes.knockouts(routes_table({("image_to_question", "all"): share}, n, generator)).filter(measure="damage", axis="horizontal")
    return holds(Interval(*found.select("estimate", "low", "high", "n").row(0)), share)


def damage_beyond(share: float, random: float, n: int, generator: Rng) -> bool:
    table = routes_table({("object_to_answer", "all"): share, ("object_to_answer", "random"): random}, n, generator)
    return holds(measured.route_needed("object_to_answer")({"routes": table}).difference, share - random)


def mediated(question: float, answer: float, n: int, generator: Rng) -> bool:
    """The share where it is given: drawn again where the damages may be small."""
    while True:
        lost = {("image_to_question", "all"): question, ("image_to_answer", "all"): answer}
        found = routes.text_mediated_share(routes_table(lost, n, generator))[0]
        if found.n:
            return holds(found, question / (question + answer))


def surplus(both: float, each: float, n: int, generator: Rng) -> bool:
    lost = {("image_to_both", "all"): both, ("image_to_question", "all"): each, ("image_to_answer", "all"): each}
    return holds(routes.fallback(routes_table(lost, n, generator))[0], both - 2 * each)


OF_LAYERS = (LAYERS, 4)
"""Layers, and heads of each."""


def heads_table(share: float, n: int, generator: Rng) -> pl.DataFrame:
    """Any heads together carry the answer of a share of the pairs; they are ranked on halves by what each does, as the stage does."""
    from scipy.stats import norm

    every = int(np.prod(OF_LAYERS))
    of_heads, of_pair = generator.normal(size=(n, *OF_LAYERS)), generator.normal(size=n)
    count = heads.few_heads(pl.DataFrame({"model_heads": [every]}))
    outcome = np.full((n, DRAWS + 1), "stay", dtype=object)
    for half in (0, 1):
        ranked = ranked_first(of_heads[1 - half :: 2].mean(axis=0), count)
        for draw, chosen in enumerate([ranked, *(drawn_alike(ranked, generator) for _ in range(DRAWS))]):
            carried = of_heads[half::2][:, chosen].sum(axis=1) * np.sqrt(0.7 / count) + np.sqrt(0.3) * of_pair[half::2]
            outcome[half::2, draw] = hits_as("attribute", carried > norm.isf(share))
    same = {"experiment": "heads_cumulative", "form": "patched", "heads": count, "model_heads": every, "group": "last"}
    return pl.concat(
        of_pairs(n, chosen="random" if draw else "ranked", outcome=outcome[:, draw].astype(str), **same) for draw in range(DRAWS + 1)
    )


def false_sparsity(share: float, n: int, generator: Rng) -> bool:
    return supported("head_sparsity", {"heads": heads_table(share, n, generator)})


def of_few_heads(share: float, n: int, generator: Rng) -> bool:
    found = heads.few(heads_table(share, n, generator))
    return found is not None and holds(found.rate, share)


def heads_needed(rates: Sequence[float], n: int, generator: Rng) -> bool:
    """The first of 1, 2, 4, … heads at which most answers become the other run's; a pair that some heads decide, more decide too."""
    counts, needs = sizes(2 ** (len(rates) - 1)), generator.random(n)
    same = {"experiment": "heads_cumulative", "form": "patched", "chosen": "ranked", "group": "last", "model_heads": counts[-1]}
    same |= {"atp": None, "layer": 0, "head": 0} | dict.fromkeys(("candidate_mass", "candidate_mass_clean"), 1.0)
    same |= {f"{name}_log_odds{run}": 1.0 for name in heads.OUTCOMES for run in ("_clean", "", "_source")}
    table = pl.concat(
        of_pairs(n, heads=count, outcome=hits_as("attribute", needs < rate), **same) for count, rate in zip(counts, rates, strict=True)
    )
    found = heads.heads(table).filter(measure="head_sparsity", axis="horizontal")
    first = next(count for count, rate in zip(counts, rates, strict=True) if rate > 0.5)
    return holds(Interval(*found.select("estimate", "low", "high", "n").row(0)), first / counts[-1])


# --- positions -------------------------------------------------------------------------------------------------------


def moves_table(n: int, outcome: np.ndarray, **moved: str) -> pl.DataFrame:
    same = {"token_set": "strip", "shuffle": "none", "all_layers": True, "layer_from": 0, "layer_to": LAYERS - 1, "right_before": True}
    masses = dict.fromkeys(("candidate_mass", "candidate_mass_clean"), 1.0)
    return of_pairs(n, outcome=outcome, right_after=outcome == "stay", **(same | masses | moved))


EXCHANGES = {"ids": {"values": "kept", "ids": "exchanged"}, "both": {"values": "exchanged", "ids": "exchanged"}}


def exchanged(condition: str, move: float, stay: float, n: int, generator: Rng) -> pl.DataFrame:
    outcome = generator.choice(["move", "stay", "other"], n, p=[move, stay, 1 - move - stay])
    return moves_table(n, outcome, **EXCHANGES[condition])


def false_place(name: str, condition: str, n: int, generator: Rng) -> bool:
    return supported(name, {"positions": exchanged(condition, 0.45, 0.45, n, generator)})


def place_dominance(condition: str, move: float, stay: float, n: int, generator: Rng) -> bool:
    return holds(positions.dominance(exchanged(condition, move, stay, n, generator), condition)[0], (move - stay) / (move + stay))


def shuffled_table(everywhere: float, within: float, n: int, generator: Rng) -> pl.DataFrame:
    lucky = luck(n, 2, generator)
    moved = {"values": "shuffled", "ids": "kept", "token_set": "all"}
    lost = {"all": lucky[:, 0] < everywhere, "object": lucky[:, 1] < within}
    return pl.concat(moves_table(n, hits_as("other", hits), shuffle=shuffle, **moved) for shuffle, hits in lost.items())


def false_shuffle(share: float, n: int, generator: Rng) -> bool:
    return supported("shuffle_sensitivity", {"positions": shuffled_table(share, share, n, generator)})


def lost_by_shuffling(share: float, n: int, generator: Rng) -> bool:
    table = positions.positions(shuffled_table(share, 0.0, n, generator))
    found = table.filter(measure="shuffle_sensitivity", token_set="all", axis="horizontal")
    return holds(Interval(*found.select("estimate", "low", "high", "n").row(0)), share)


INTERVALS = (
    Case("flips by a spatial ID, one layer", "0.6", partial(swapped, (0.1, 0.2, 0.6, 0.3, 0.1, 0.1))),
    Case("flips by a spatial ID, all layers", "0.5", partial(swapped, [0.5] * LAYERS)),
    *(Case("IDs that say a wrong answer", f"{share:g}", partial(read_on_errors, share)) for share in (0.5, 0.9)),
    *(Case("damage of a closed route", f"{share:g}", partial(damage, share)) for share in (0.05, 0.5)),
    *(
        Case("damage, less that of random tokens", f"{share - other:+g}", partial(damage_beyond, share, other))
        for share, other in ((0.1, 0.05), (0.4, 0.1), (1.0, 0.02))
    ),
    *(
        Case("text-mediated share", f"{question / (question + answer):.2g}", partial(mediated, question, answer))
        for question, answer in ((0.45, 0.45), (0.72, 0.08), (0.784, 0.016))
    ),
    *(Case("fallback", f"{both - 2 * each:+.1g}", partial(surplus, both, each)) for both, each in ((0.6, 0.3), (0.9, 0.05))),
    *(Case("answers that few heads decide", f"{share:g}", partial(of_few_heads, share)) for share in (0.5, 0.9)),
    Case("share of heads that decide most", "8 of 16", partial(heads_needed, (0.1, 0.3, 0.5, 0.8, 1.0))),
    *(
        Case(f"{name} dominance", f"{(move - stay) / (move + stay):+.2g}", partial(place_dominance, condition, move, stay))
        for name, condition, move, stay in (("rotary", "ids", 0.45, 0.45), ("order", "both", 0.88, 0.02))
    ),
    *(Case("answers lost by shuffling", f"{share:g}", partial(lost_by_shuffling, share)) for share in (0.05, 0.5)),
)
FALSE_CLAIMS = (
    Case("text_decides", "one half, an unrelated picture's seldom", partial(false_text_decides, 0.5, 0.1)),
    Case("text_decides", "0.9, and an unrelated picture's as often", partial(false_text_decides, 0.9, 0.9)),
    *(
        Case("spatial_id_swap", f"{share:g} at every layer, and random vectors as often", partial(false_swap, share))
        for share in (0.1, 0.4)
    ),
    Case("id_faithful_on_errors", "as often the truth, scene by scene", false_faithful),
    Case("text_suffices", "a guess, all templates", partial(false_text_suffices, TEMPLATES)),
    Case("text_suffices", "0.6, and the grey picture alone as often", partial(false_text_suffices, dict.fromkeys(TEMPLATES, 0.6))),
    *(
        Case(f"{name}_needed", "random tokens as much", partial(false_route, f"{name}_needed", {(name, "all"): 0.3, (name, "random"): 0.3}))
        for name in ("object_to_question", "object_to_answer")
    ),
    *(
        Case(
            "text_mediated_share",
            f"one half, each loses {lost:g}",
            partial(false_route, "text_mediated_share", {("image_to_question", "all"): lost, ("image_to_answer", "all"): lost}),
        )
        for lost in (0.5, 0.15)
    ),
    Case(
        "fallback",
        "both lose what each does",
        partial(
            false_route,
            "fallback",
            {("image_to_both", "all"): 0.6, ("image_to_question", "all"): 0.3, ("image_to_answer", "all"): 0.3},
        ),
    ),
    Case("head_sparsity", "one half, whichever heads", partial(false_sparsity, 0.5)),
    Case("head_sparsity", "0.9, whichever heads", partial(false_sparsity, 0.9)),
    Case("rotary_dominance", "as many stay as move", partial(false_place, "rotary_dominance", "ids")),
    Case("order_dominance", "as many stay as move", partial(false_place, "order_dominance", "both")),
    *(Case("shuffle_sensitivity", f"{share:g}, and within objects as much", partial(false_shuffle, share)) for share in (0.1, 0.4)),
)
