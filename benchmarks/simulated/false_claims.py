"""Claims on answers, probes, patches and corrections that are not true."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl
from benchmarks.simulated.cases import LAYERS, Case, Rng, supported
from benchmarks.simulated.intervals import CELLS, PLACES, THIRD
from benchmarks.simulated.tables import drawn, in_scenes, ordering_table, pairs_table, questions

from vlm_spatial.probes.scores import Score, Table, by_other_scenes


def false_flip(experiment: str, name: str, token_set: str, random_set: str, share: float, n: int, generator: Rng) -> bool:
    sites = {("intact", "connector", name): drawn(n, generator, flip=share) for name in (token_set, random_set)}
    return supported(name, {"interchange": pairs_table(experiment, sites)})


def false_best_flip(share: float, n: int, generator: Rng) -> bool:
    """Both sets flip alike at every site; each is counted at its own best."""
    sites = ["connector", *(f"language.{layer}" for layer in range(LAYERS))]
    tables = {("intact", site, name): drawn(n, generator, flip=share) for site in sites for name in ("object", "random_object")}
    return supported("crosswise_object_flip", {"interchange": pairs_table("crosswise", tables)})


def false_dominance(n: int, generator: Rng) -> bool:
    return supported("dominance", {"conflict": pairs_table("conflict", {("intact", "connector", "strip"): drawn(n, generator, move=0.5)})})


def false_peak(rate: float, n: int, generator: Rng) -> bool:
    return supported("language_ordering_peak", {"interchange": ordering_table(n, [rate] * LAYERS, generator, entry=rate)})


def false_backup(n: int, generator: Rng) -> bool:
    tables = {
        "interchange": ordering_table(n, [0.3] * LAYERS, generator),
        "ablation_sweep": ordering_table(n, [0.3] * LAYERS, generator, "neutral"),
    }
    return supported("backup_gain", tables)


def false_accuracy(n: int, generator: Rng) -> bool:
    return supported("accuracy", {"behaviour": questions(*in_scenes(n, 3, 1 / 3, 0.3, generator))})


def false_drop(n: int, generator: Rng) -> bool:
    before, scenes = in_scenes(n, 3, 0.8, 0.3, generator)
    swapped = generator.random(len(before)) < 0.1
    after = np.where(swapped, generator.permutation(before), before)
    tables = [questions(right, scenes).with_columns(condition=pl.lit(name)) for name, right in (("intact", before), ("neutral", after))]
    return supported("ablation_drop", {"ablation_accuracy": pl.concat(tables)})


def false_slot_probe(n: int, generator: Rng) -> bool:
    """The probe answers with the place, or in a third of the cells with any slot, whatever the scene shows."""
    place = np.broadcast_to(np.repeat(np.arange(PLACES), CELLS), (n, PLACES * CELLS))
    slot = np.where(generator.random((n, PLACES)) < 0.6, np.arange(PLACES), generator.integers(0, PLACES, (n, PLACES)))
    labels, guesses = np.repeat(slot, CELLS, axis=1), generator.integers(0, PLACES, place.shape)
    answers = np.where(generator.random(place.shape) < 1 / 3, guesses, place)
    table, total = Table(), np.full(n, PLACES * CELLS)
    where = {
        "site": "connector",
        "axis": "horizontal",
        "trained_on": "decorrelated",
        "scored_on": "decorrelated",
        "token_set": "background",
    }
    elsewhere = by_other_scenes(answers, labels, np.ones_like(labels, dtype=bool), PLACES)
    for kind, given in (("shuffled", guesses), ("logistic", answers)):
        correct = (given == labels).sum(axis=1)
        table.add([Score(kind=kind, strength=1.0, correct=correct, total=total, chance=THIRD, exchanged=elsewhere, **where)])
    return supported("slot_probe_background", {"probes": table.frame()})


def false_at_layers(name: str, experiment: str, token_set: str, outcomes: Sequence[dict[str, float]], n: int, generator: Rng) -> bool:
    """A claim on layers, from the shares of outcomes at the connector and at each language layer."""
    sites = ["connector", *(f"language.{layer}" for layer in range(len(outcomes) - 1))]
    tables = {("intact", site, token_set): drawn(n, generator, **shares) for site, shares in zip(sites, outcomes, strict=True)}
    return supported(name, {"interchange": pairs_table(experiment, tables)})


ALPHAS = (2.0, 3.0, 4.0, 6.0)


def false_amplification(name: str, n: int, generator: Rng) -> bool:
    """The form and twenty random subspaces change answers alike, and each chooses among four alphas on validation, as in the stage."""
    before, scenes = in_scenes(n, 3, 0.7, 0.3, generator)
    asked = questions(before, scenes).rename({"correct": "correct_before"}).drop("split")
    of_settings = [("projection", 0), *(("random", draw) for draw in range(20))]
    named = [(method, draw, alpha, split) for method, draw in of_settings for alpha in ALPHAS for split in ("validation", "test")]
    settings = pl.DataFrame(named, schema=["method", "draw", "alpha", "split"], orient="row")
    rows = settings.join(asked, how="cross").with_columns(site=pl.lit("connector"))
    changed, right = (generator.random(rows.height) < share for share in (0.1, 0.7))
    after = np.where(changed, right, rows["correct_before"].to_numpy())
    return supported(name, {"amplification": rows.with_columns(correct=pl.Series(after))})


FALSE_CLAIMS = (
    Case("accuracy", "a guess", false_accuracy),
    Case("strip_flip", "one half, and the control as often", partial(false_flip, "vision", "strip_flip", "strip", "random", 0.5)),
    Case("strip_flip", "0.9, and the control as often", partial(false_flip, "vision", "strip_flip", "strip", "random", 0.9)),
    Case(
        "crosswise_strip_flip",
        "0.7, and the control as often",
        partial(false_flip, "crosswise", "crosswise_strip_flip", "strip", "random_strip", 0.7),
    ),
    *(
        Case("crosswise_object_flip", words, partial(false_best_flip, share))
        for words, share in (("one half at every site", 0.5), ("0.8, and the control as often", 0.8))
    ),
    Case("dominance", "as many stay as move", false_dominance),
    Case("language_ordering_peak", "no layer above the connector: 0.1", partial(false_peak, 0.1)),
    Case("language_ordering_peak", "no layer above the connector: 0.5", partial(false_peak, 0.5)),
    Case("ablation_drop", "as many lost as gained", false_drop),
    Case("backup_gain", "the same intact and ablated", false_backup),
    Case("errors_corrected", "no better than random subspaces", partial(false_amplification, "errors_corrected"), (10, 50)),
    Case("net_accuracy", "no better than random subspaces", partial(false_amplification, "net_accuracy"), (10, 50)),
    Case("object_flip", "0.6, and the control as often", partial(false_flip, "vision", "object_flip", "object", "random_object", 0.6)),
    Case("slot_probe_background", "the place, and noise", false_slot_probe),
    Case(
        "slot_not_place",
        "as many follow the place",
        partial(false_at_layers, "slot_not_place", "displaced", "object", [{"ordering": 0.4, "absolute": 0.4}] * (LAYERS + 1)),
    ),
    Case(
        "last_token_slot",
        "one half at every layer",
        partial(false_at_layers, "last_token_slot", "last_token", "last", [{"ordinal": 0.5}] * (LAYERS + 1)),
    ),
    Case(
        "last_token_takeover",
        "from the first layer on: 0.6",
        partial(false_at_layers, "last_token_takeover", "last_token", "last", [{"attribute": 0.6}] * (LAYERS + 1)),
    ),
    Case(
        "crosswise_last_layer",
        "up to the last layer: 0.6",
        partial(false_at_layers, "crosswise_last_layer", "crosswise", "strip", [{"flip": 0.6}] * (LAYERS + 1)),
    ),
    Case(
        "language_peak_layer",
        "the last layer",
        partial(false_at_layers, "language_peak_layer", "language", "object", [{"ordering": 0.1 * layer} for layer in range(LAYERS + 1)]),
    ),
)
