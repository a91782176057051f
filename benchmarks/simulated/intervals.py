"""Intervals of shares, probes and patches, on data whose truth is known."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import polars as pl
from benchmarks.simulated.cases import LAYERS, Case, Rng, holds
from benchmarks.simulated.tables import drawn, in_scenes, ordering_table, pairs_table

from vlm_spatial.measures import interventions
from vlm_spatial.measures.calibration import calibration
from vlm_spatial.measures.recovery import recovery
from vlm_spatial.probes.scores import Score, Table, by_other_scenes
from vlm_spatial.statistics import Interval, binomial, clustered_mean, clustered_share, mean_of_shares


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
