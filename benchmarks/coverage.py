"""How often 95% intervals hold the truth, and how often a claim that is not true comes out ``supported``, by simulation.

``python -m benchmarks.coverage > docs/coverage.md``. The project's own functions run on tables drawn from known truths. ``simulate`` with
few repetitions is a test.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from vlm_spatial.measures import interventions
from vlm_spatial.measures.calibration import calibration
from vlm_spatial.measures.claims import BY_NAME
from vlm_spatial.measures.recovery import recovery
from vlm_spatial.probes.scores import Score, Table, by_other_scenes
from vlm_spatial.statistics import Interval, binomial, clustered_mean, clustered_share, mean_of_shares

SIZES = (10, 30, 50, 100)
LAYERS = 6
Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One row of the page: ``draw(n, generator)`` says whether the interval held the truth, or the false claim was supported."""

    what: str
    truth: str
    draw: Callable[[int, Rng], bool]
    sizes: Sequence[int] = SIZES


def holds(interval: Interval, truth: float) -> bool:
    return bool(interval.low - 1e-9 <= truth <= interval.high + 1e-9)


def in_scenes(scenes: int, each: int, share: float, rho: float, generator: Rng) -> tuple[np.ndarray, list[str]]:
    """Hits of ``each`` questions a scene, whose correlation within a scene is ``rho``, and their scenes."""
    rates = generator.beta(share * (1 / rho - 1), (1 - share) * (1 / rho - 1), (scenes, 1)) if rho else np.full((scenes, 1), share)
    return (generator.random((scenes, each)) < rates).ravel(), [str(scene) for scene in range(scenes) for _ in range(each)]


def pairs_table(experiment: str, outcomes: dict[tuple[str, str, str], np.ndarray]) -> pl.DataFrame:
    """A sweep's table: for each condition, site and token set the outcome of every pair."""
    parts = [
        pl.DataFrame({"pair_id": [f"{place:05d}" for place in range(len(of_pairs))], "outcome": of_pairs}).with_columns(
            experiment=pl.lit(experiment),
            axis=pl.lit("horizontal"),
            template=pl.lit("slot_to_object"),
            condition=pl.lit(condition),
            site=pl.lit(site),
            layer=pl.lit(int(site.split(".")[1]) if "." in site else None, pl.Int64),
            token_set=pl.lit(token_set),
            source=pl.lit("counterfactual"),
            included=pl.lit(True),
            object_tokens=pl.lit(0),
        )
        for (condition, site, token_set), of_pairs in outcomes.items()
    ]
    return pl.concat(parts)


def drawn(n: int, generator: Rng, **shares: float) -> np.ndarray:
    """An outcome a pair; those whose share is not given stay."""
    return generator.choice([*shares, "stay"], size=n, p=[*shares.values(), 1 - sum(shares.values())])


def ordering_table(n: int, rates: Sequence[float], generator: Rng, condition: str = "intact", entry: float = 0.0) -> pl.DataFrame:
    sites = {(condition, "connector", "object"): drawn(n, generator, ordering=entry, content=0.05)}
    sites |= {(condition, f"language.{layer}", "object"): drawn(n, generator, ordering=r, content=0.05) for layer, r in enumerate(rates)}
    return pairs_table("language", sites)


# --- intervals -------------------------------------------------------------------------------------------------------


def flips(share: float, n: int, generator: Rng) -> bool:
    return holds(binomial(int(generator.binomial(n, share)), n), share)


def accuracy(share: float, each: int, n: int, generator: Rng) -> bool:
    return holds(clustered_share(*in_scenes(n, each, share, 0.3, generator)), share)


def probe_row(n: int, generator: Rng, share: float, control: float) -> dict[str, float]:
    """The row of a probe and its control on ``n`` scenes of three objects, each of 4 to 9 tokens that are read alike."""
    total = generator.integers(4, 10, (n, 3))
    of_objects = [in_scenes(n, 3, of, 0.3, generator)[0].reshape(n, 3) for of in (share, control)]
    right, others = ((np.where(hit, total, 0)).sum(axis=1) for hit in of_objects)
    table = Table()
    names = {"axis": "horizontal", "trained_on": "main", "scored_on": "main", "token_set": "object", "strength": 1.0}
    for kind, correct in (("control_task", others), ("logistic", right)):
        tokens = total.sum(axis=1)
        table.add([Score(site="connector", kind=kind, correct=correct, total=tokens, chance=1 / 3, exchanged=tokens / 3, **names)])
    return table.frame().row(1, named=True)


def probe_accuracy(share: float, n: int, generator: Rng) -> bool:
    row = probe_row(n, generator, share, 0.4)
    return holds(Interval(row["accuracy"], row["low"], row["high"], n), share)


def probe_selectivity(share: float, n: int, generator: Rng) -> bool:
    row = probe_row(n, generator, share, 0.4)
    return holds(Interval(row["selectivity"], row["selectivity_low"], row["selectivity_high"], n), share - 0.4)


def dominance(share: float, n: int, generator: Rng) -> bool:
    table = pairs_table("conflict", {("intact", "connector", "strip"): drawn(n, generator, move=1 - share)})
    return holds(interventions.dominance(table), 2 * share - 1)


def peak(rates: Sequence[float], n: int, generator: Rng) -> bool:
    return holds(interventions.ordering_peak(ordering_table(n, rates, generator)), max(rates))


def peak_layer(rates: Sequence[float], n: int, generator: Rng) -> bool:
    return holds(interventions.ordering_peak_layer(ordering_table(n, rates, generator)), float(np.argmax(rates)))


def change(lost: float, gained: float, n: int, generator: Rng) -> bool:
    changed, scenes = in_scenes(n, 3, lost + gained, 0.3, generator)
    signs = np.where(generator.random(len(changed)) < lost / (lost + gained), 1.0, -1.0)
    return holds(clustered_mean(np.where(changed, signs, 0.0), scenes)[0], lost - gained)


def backup(intact: Sequence[float], ablated: Sequence[float], n: int, generator: Rng) -> bool:
    table = pl.concat([ordering_table(n, intact, generator), ordering_table(n, ablated, generator, "neutral")])
    return holds(interventions.backup_gain(table), max(ablated) - max(intact))


def recovered(share: float, n: int, generator: Rng) -> bool:
    whole = generator.uniform(2, 8, n)
    table = pl.DataFrame({"included": True, "log_odds_clean": np.zeros(n), "log_odds_source": whole})
    return holds(recovery(table.with_columns(log_odds=pl.Series(share * whole + generator.normal(0, 1.5, n)))), share)


PLACES, CELLS, THIRD = 3, 4, 1 / 3


def place_share(read: float, kept: float, n: int, generator: Rng) -> bool:
    """A probe reads the slot in a share ``read``, else answers with the place, where that slot stands in a share ``kept`` of scenes.

    So another scene's answer is right in ``kept`` where it was the place, and where it was read as often as two scenes' slots agree.
    """
    row, right = place_row(read, kept, n, generator)
    elsewhere = read * (kept**2 + (1 - kept) ** 2 / 2) + (1 - read) * kept
    held = Interval(row["position_share"], row["position_share_low"], row["position_share_high"], n)
    return holds(held, (elsewhere - THIRD) / (right - THIRD))


def blank_share(read: float, kept: float, n: int, generator: Rng) -> bool:
    """The same probe on the blank canvas answers with the place."""
    row, right = place_row(read, kept, n, generator)
    held = Interval(row["blank_share"], row["blank_share_low"], row["blank_share_high"], n)
    return holds(held, (kept - THIRD) / (right - THIRD))


def place_row(read: float, kept: float, n: int, generator: Rng) -> tuple[dict[str, float], float]:
    """The row of the probe, and how often it is right; drawn again where its score is not surely above chance, and has no shares."""
    place = np.broadcast_to(np.arange(PLACES), (n, PLACES))
    slot = np.where(generator.random((n, PLACES)) < kept, place, (place + generator.integers(1, PLACES, (n, PLACES))) % PLACES)
    is_read = in_scenes(n, PLACES, read, 0.3, generator)[0].reshape(n, PLACES)
    answers, labels, places = (np.repeat(of, CELLS, axis=1) for of in (np.where(is_read, slot, place), slot, place))
    total = np.full(n, PLACES * CELLS)
    names = {"site": "connector", "kind": "logistic", "axis": "horizontal", "trained_on": "main", "token_set": "object", "strength": 1.0}
    elsewhere = by_other_scenes(answers, labels, np.ones_like(labels, dtype=bool), PLACES)
    table = Table()
    for scored_on, given in (("blank", places), ("main", answers)):
        correct = (given == labels).sum(axis=1)
        table.add([Score(scored_on=scored_on, correct=correct, total=total, chance=THIRD, exchanged=elsewhere, **names)])
    row = table.frame().row(1, named=True)
    return (row, read + (1 - read) * kept) if row["position_share"] is not None else place_row(read, kept, n, generator)


LOWEST = -1 / 6
"""The lowest strip index of a grid of six columns and many rows."""


def strip_index(draw: Callable[[Rng, int], np.ndarray], truth: float, n: int, generator: Rng) -> bool:
    return holds(mean_of_shares(draw(generator, n), LOWEST), truth)


def calibrated(over: float, n: int, generator: Rng) -> bool:
    """Answers are right less often than the model is confident, by ``over``; three questions a scene, of which a third err together."""
    confidence = generator.uniform(0.4, 1, (n, 3))
    luck = np.where(generator.random((n, 3)) < 0.3, generator.random((n, 1)), generator.random((n, 3)))
    scenes = [str(scene) for scene in range(n) for _ in range(3)]
    rows = pl.DataFrame({"scene_id": scenes, "confidence": confidence.ravel(), "correct": (luck < confidence - over).ravel(), "brier": 0.0})
    before = rows.select(pl.col("confidence", "correct", "brier").name.suffix("_before"))
    return holds(calibration(pl.concat([rows, before], how="horizontal")).error_after, over)


# --- claims that are not true ----------------------------------------------------------------------------------------


def supported(name: str, tables: dict[str, pl.DataFrame]) -> bool:
    claim = BY_NAME[name]
    return claim.judge(claim.measure(tables)) == "supported"


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


def questions(correct: np.ndarray, scenes: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"scene_id": scenes, "correct": correct}).with_columns(
        pl.format("{}/{}", "scene_id", pl.int_range(pl.len())).alias("question_id"),
        axis=pl.lit("horizontal"),
        template=pl.lit("slot_to_object"),
        split=pl.lit("test"),
        variant=pl.lit("main"),
        candidates=pl.lit(["a", "b", "c"]),
    )


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


def false_route(name: str, lost: dict[tuple[str, str], float], n: int, generator: Rng) -> bool:
    """A claim on routes, from the share of answers that each route's closing loses."""
    pairs = pl.DataFrame({"pair_id": [f"{place:05d}" for place in range(n)]})
    closed = [
        pairs.with_columns(route=pl.lit(route), keys=pl.lit(keys), right_after=pl.Series(generator.random(n) >= share))
        for (route, keys), share in lost.items()
    ]
    same = {"axis": "horizontal", "template": "slot_to_object", "experiment": "knockout", "form": "renormalised"}
    table = pl.concat(closed).with_columns(
        included=pl.lit(True), all_layers=pl.lit(True), **{key: pl.lit(text) for key, text in same.items()}
    )
    return supported(name, {"routes": table})


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


INTERIOR, PLATEAU = (0.0, 0.1, 0.6, 0.2, 0.0, 0.0), (0.2, 0.95, 0.95, 0.95, 0.95, 0.2)
INTERVALS = (
    *(Case("share of pairs", f"{share:g}", partial(flips, share)) for share in (0.02, 0.1, 0.5, 0.9, 0.98)),
    *(
        Case(f"accuracy, {each} questions a scene", f"{share:g}", partial(accuracy, share, each))
        for share in (0.6, 0.9, 0.98)
        for each in (3, 9)
    ),
    *(Case("accuracy of a probe", f"{share:g}", partial(probe_accuracy, share)) for share in (0.6, 0.9, 0.98)),
    *(Case("selectivity of a probe", f"{share - 0.4:+.2g}", partial(probe_selectivity, share)) for share in (0.6, 0.98)),
    *(Case("dominance", f"{2 * share - 1:+g}", partial(dominance, share)) for share in (0.5, 0.8, 0.98)),
    Case("ordering peak, one layer", "0.6", partial(peak, INTERIOR)),
    Case("ordering peak, plateau", "0.95", partial(peak, PLATEAU)),
    Case("ordering peak, all layers", "0.5", partial(peak, [0.5] * LAYERS)),
    Case("ordering peak, rising", "0.5", partial(peak, (0.3, 0.4, 0.5))),
    Case("layer of the peak", "2", partial(peak_layer, INTERIOR)),
    Case("layer of the peak, plateau", "1", partial(peak_layer, PLATEAU)),
    *(
        Case("paired change in accuracy", f"{a - b:+g}", partial(change, a, b))
        for a, b in ((0.05, 0.0), (0.12, 0.0), (0.02, 0.01), (0.1, 0.1))
    ),
    *(Case("backup gain", f"{gain:+g}", partial(backup, [0.3] * LAYERS, [0.3 + gain] * LAYERS)) for gain in (0.0, 0.3)),
    Case("backup gain, from one layer to another", "+0.5", partial(backup, (0.1, 0.1, 0.0, 0.0, 0.0, 0.0), INTERIOR)),
    Case("recovery", "0.6", partial(recovered, 0.6)),
    # What place explains of a probe's score, and what the blank canvas does.
    *(
        Case("share above chance, other scenes", words, partial(place_share, read, kept))
        for words, read, kept in (("0.20", 0.6, 0.5), ("0.87", 0.2, 0.8), ("0.99", 0.02, 0.8))
    ),
    *(
        Case("share above chance, blank canvas", words, partial(blank_share, read, kept))
        for words, read, kept in (("0.36", 0.6, 0.5), ("0.92", 0.2, 0.8))
    ),
    Case("strip index", "0.9", partial(strip_index, lambda generator, n: generator.beta(9, 1, n), 0.9)),
    Case("strip index", "0.5", partial(strip_index, lambda generator, n: generator.beta(2, 2, n), 0.5)),
    Case("strip index", "0", partial(strip_index, lambda generator, n: generator.uniform(-0.1, 0.1, n), 0.0)),
    *(Case("calibration error", f"{over:g}", partial(calibrated, over)) for over in (0.0, 0.1, 0.3)),
)
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
    Case(
        "object_to_question_needed",
        "random tokens as much",
        partial(false_route, "object_to_question_needed", {("object_to_question", "all"): 0.3, ("object_to_question", "random"): 0.3}),
    ),
    Case(
        "text_mediated_share",
        "one half",
        partial(false_route, "text_mediated_share", {("image_to_question", "all"): 0.5, ("image_to_answer", "all"): 0.5}),
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
)


def simulate(cases: Sequence[Case], repetitions: int, seed: int = 0) -> Iterator[tuple[Case, dict[int, float]]]:
    """Each case with the share of draws that came true, by ``n``."""
    for number, case in enumerate(cases):
        yield case, {n: share(case, number, n, repetitions, seed) for n in case.sizes}


def share(case: Case, number: int, n: int, repetitions: int, seed: int) -> float:
    generator = np.random.default_rng([seed, number, n])
    return float(np.mean([case.draw(n, generator) for _ in range(repetitions)]))


def table(cases: Sequence[Case], repetitions: int, misses: Callable[[float], bool]) -> list[str]:
    """Rows of markdown, and a line that names the cells that miss the goal; a cell that does is drawn again, four times as often."""
    lines = ["| | truth | " + " | ".join(f"n = {n}" for n in SIZES) + " |", "|---|---|" + "---|" * len(SIZES)]
    missed = []
    for number, (case, shares) in enumerate(simulate(cases, repetitions)):
        again = {n: share(case, number, n, 4 * repetitions, seed=1) for n, found in shares.items() if misses(found)}
        shares |= again
        cells = [f"{100 * shares[n]:.1f}{'*' if n in again else ''}" if n in shares else "" for n in SIZES]
        lines.append(f"| {case.what} | {case.truth} | " + " | ".join(cells) + " |")
        missed += [f"{case.what} ({case.truth}) at n = {n}" for n, found in shares.items() if misses(found)]
    return [*lines, "", f"Cells that miss the goal: {'; '.join(missed) or 'none'}."]


def page(repetitions: int, of_claims: int) -> str:
    """The page as markdown."""
    return "\n".join(
        [
            "# Coverage of intervals and verdicts",
            "",
            "How often do 95% intervals hold the truth, and how often is a claim `supported` that is not true? The project's own functions",
            "run on data drawn from known truths. Made by `python -m benchmarks.coverage`; a short version is `tests/test_coverage.py`.",
            "",
            f"## Intervals: the share that holds the truth, in percent ({repetitions} draws; goal: 93 or more)",
            "",
            "`n` counts pairs, or scenes of three questions unless said otherwise, which are correlated at 0.3 within a scene.",
            "A cell that missed the goal was drawn again, four times as often (*).",
            "",
            *table(INTERVALS, repetitions, lambda share: share < 0.93),
            "",
            f"## Claims that are not true: the share that is `supported`, in percent ({of_claims} draws; goal: at most 5)",
            "",
            "Before adjustment for the other claims of a report, which makes them rarer. In the rows on amplification the form and twenty",
            "random subspaces change answers alike, and each chooses among four alphas on validation data for itself.",
            "",
            *table(FALSE_CLAIMS, of_claims, lambda share: share > 0.05),
            "",
            f"Claims that are not simulated: {', '.join(name for name in BY_NAME if name not in {case.what for case in FALSE_CLAIMS})}.",
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="of each interval")
    parser.add_argument("--claim-draws", type=int, default=400, help="of each claim")
    given = parser.parse_args()
    print(page(given.draws, given.claim_draws), end="")
