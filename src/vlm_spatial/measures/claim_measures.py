"""How each claim is measured: an estimate, its control, their difference, from one model's tables on one dataset."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from vlm_spatial.interventions.labels import ABLATION_CONTROLS, CONNECTOR, CONTENT, INTACT, INTENDED, LANGUAGE_ERASED
from vlm_spatial.interventions.ordering import language_sweep
from vlm_spatial.measures import amplification, behaviour, crosswise, displaced, heads, last_token, positions, readout, routes
from vlm_spatial.measures import interventions as summaries
from vlm_spatial.measures.best_layer import Layers, at_best
from vlm_spatial.measures.paired import Against, of_values
from vlm_spatial.measures.probe_scores import PIXEL_SITE
from vlm_spatial.measures.recovery import recovery, recovery_at_best
from vlm_spatial.measures.verdicts import (
    MOST,
    NOTHING,
    PEAK_SMALLEST,
    Measured,
    Rule,
)
from vlm_spatial.statistics import (
    EMPTY,
    Interval,
    binomial,
    binomial_p,
    clustered_mean,
    clustered_share_p,
    difference_of_independent,
    mean_of_independent,
)

ZERO = Interval(0.0, 0.0, 0.0, 0)
Tables = Mapping[str, pl.DataFrame]
"""One model's tables on one dataset, by name; ``pairs`` are the dataset's."""


PEAK = Rule(PEAK_SMALLEST)
"""Of the claim on the peak; the place of the peak asks it, too."""


def _point(value: float, n: int = 0) -> Interval:
    return Interval(value, value, value, n)


def _minus(interval: Interval, value: float) -> Interval:
    return Interval(interval.estimate - value, interval.low - value, interval.high - value, interval.n)


def route_needed(route: str) -> Callable[[Tables], Measured]:
    def measure(tables: Tables) -> Measured:
        closed, random = routes.lost(tables["routes"], route), routes.lost(tables["routes"], route, "random")
        paired = closed.join(random.select("pair_id", control="lost"), on="pair_id", maintain_order="left")
        if paired.is_empty():
            return NOTHING
        difference, p = clustered_mean((paired["lost"] - paired["control"]).to_numpy())
        values = paired.select("axis", "template", value=pl.col("lost") - pl.col("control"))
        found, control = (binomial(int(paired[name].sum()), paired.height) for name in ("lost", "control"))
        return Measured(found, control, "as many random tokens closed", difference, p, values)

    return measure


def text_mediated_share(tables: Tables) -> Measured:
    share, _, p, both = routes.text_mediated_share(tables["routes"])
    values = both.select("axis", "template", value=pl.col("image_to_question") - pl.col("image_to_answer")) if both.height else None
    return Measured(share, _point(0.5, both.height), "½", _minus(share, 0.5), p, values)


def fallback(tables: Tables) -> Measured:
    found, p, each = routes.fallback(tables["routes"])
    if each.is_empty():
        return NOTHING
    return Measured(found, ZERO, "no more than the sum of each", found, p, each.select("axis", "template", "value"))


def _against(
    table: str, find: Callable[[pl.DataFrame], Against | None], control: str, floor: float | None = None
) -> Callable[[Tables], Measured]:
    """Of a claim that holds hits against a control on the same pairs, and against the ``floor`` of its rule."""

    def measure(tables: Tables) -> Measured:
        found = find(tables[table])
        if found is None:
            return NOTHING
        p = found.p if floor is None else found.p_above(floor)
        return Measured(found.rate, found.control, control, found.difference, p, found.values)

    return measure


head_sparsity = _against("heads", heads.few, "random heads of the same layers", MOST)
shuffle_sensitivity = _against("positions", positions.shuffled_apart, "tokens shuffled within their own object")
text_decides = _against("readout", readout.text_decides, "an unrelated picture's", MOST)
spatial_id_swap = _against("readout", readout.id_swap, "random vectors of the same length")
id_faithful = _against("readout", readout.faithful, "the truth")


def place_is(condition: str) -> Callable[[Tables], Measured]:
    def measure(tables: Tables) -> Measured:
        index, p = positions.dominance(tables["positions"], condition)
        values = positions.moving(tables["positions"], condition).select("axis", "template", "value")
        return Measured(index, ZERO, "neither decides", index, p, values)

    return measure


def text_suffices(tables: Tables) -> Measured:
    both = readout.over_grey(tables["readout"])
    if both.is_empty():
        return NOTHING
    hits, n, guess = int(both["hit"].sum()), both.height, float(both["guess"].to_numpy().mean())
    right, alone = binomial(hits, n), of_values(both.select("axis", "template", "hit", other="alone"))
    values = both.select("axis", "template", value=pl.col("hit").cast(pl.Float64))
    controls = (
        Measured(right, _point(guess, n), behaviour.GUESS, _minus(right, guess), binomial_p(hits, n, guess), values, over=guess),
        Measured(right, alone.control, "the grey picture alone", alone.difference, alone.p, alone.values),
    )
    # Both have to be exceeded.
    return min(controls, key=lambda found: found.difference.low)


def accuracy(tables: Tables) -> Measured:
    table = tables["behaviour"].filter(split="test", variant="main").filter(pl.col("template") != CONTENT)
    if table.is_empty():
        return NOTHING
    guess, found = behaviour.chance(table), behaviour.accuracy(table)
    p = clustered_share_p(table["correct"].to_numpy(), table["scene_id"].to_list(), guess)
    values = table.select("axis", "template", value=pl.col("correct").cast(pl.Float64))
    return Measured(found, _point(guess, table.height), behaviour.GUESS, _minus(found, guess), p, values, over=guess)


def slot_probe_background(tables: Tables) -> Measured:
    table = tables["probes"].filter(token_set="background", scored_on="decorrelated", split="test")
    # A probe trained where slot is not place is the fair one; without it, the probe of the main scenes has to do.
    table = table.filter(trained_on="decorrelated" if "decorrelated" in set(table["trained_on"]) else "main")
    at_connector = table.filter(site=CONNECTOR)
    score = _mean(at_connector.filter(kind="logistic"))
    guess = at_connector["chance"].mean()
    controls = {
        "shuffled labels": _mean(at_connector.filter(kind="shuffled")),
        "the probe's answers for the same cells of other scenes": _mean(at_connector.filter(kind="other_scene")),
        "pixels only": _mean(table.filter((pl.col("kind") == "pixels") & pl.col("site").is_in([PIXEL_SITE, CONNECTOR]))),
        "best constant answer": EMPTY if guess is None else _point(float(guess), score.n),  # type: ignore[arg-type]
    }
    known = {name: control for name, control in controls.items() if not math.isnan(control.estimate)}
    if not known:
        return NOTHING
    best = max(known, key=lambda name: known[name].estimate)
    difference, p = difference_of_independent(score, known[best])
    logistic = at_connector.filter(kind="logistic")
    if "margin" in logistic.columns and logistic["margin"].null_count() == 0 and logistic.height:
        # Paired with the strongest control of each axis, by the probes stage.
        margins = [Interval(*row) for row in logistic.select("margin", "margin_low", "margin_high", "n").iter_rows()]
        difference, p = difference_of_independent(mean_of_independent(margins), ZERO)
    return Measured(score, known[best], best, difference, p)


def _mean(scores: pl.DataFrame) -> Interval:
    """Mean over the axes of rows of ``probes.parquet``."""
    return mean_of_independent([Interval(*row) for row in scores.drop_nulls("accuracy").select("accuracy", "low", "high", "n").iter_rows()])


def flip(token_set: str) -> Callable[[Tables], Measured]:
    def measure(tables: Tables) -> Measured:
        vision = (
            tables["interchange"]
            .filter(pl.col("included"))
            .filter(experiment="vision", site=CONNECTOR, source="counterfactual", condition=INTACT)
        )
        hits = vision.with_columns(value=(pl.col("outcome") == INTENDED["vision"]).cast(pl.Float64))
        chosen = hits.filter(token_set=token_set)
        estimate, moved = summaries.flip_rate(tables["interchange"], token_set), recovery(chosen)
        above_half = binomial_p(float(chosen["value"].sum()), chosen.height, MOST) if chosen.height else 1.0
        values = _with_exchange(chosen, tables)
        controls = {f"random_{token_set}": "as many tokens outside the set", "random": "random tokens, as many as the strip has"}
        for name, words in controls.items():
            other = hits.filter(token_set=name)
            if not other.is_empty():
                paired = chosen.join(other.select("pair_id", control="value"), on="pair_id")
                difference, p = clustered_mean((paired["value"] - paired["control"]).to_numpy())
                covered = summaries.objects_covered(tables["interchange"], name)
                said = f"{words}, {covered:.0%} of the objects' among them" if covered else words
                control = summaries.flip_rate(tables["interchange"], name)
                return Measured(estimate, control, said, difference, max(p, above_half), values, MOST - 0.1, moved)
        return Measured(estimate, ZERO, "no flips (there is no random set)", estimate, above_half, values, MOST - 0.1, moved)

    return measure


def _with_exchange(rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """``axis``, ``template``, ``exchange`` (the two slots, where the dataset's pairs are known) and ``value``."""
    pairs = tables.get("pairs")
    if pairs is None or "slots" not in pairs.columns:
        return rows.select("axis", "template", "value")
    slots = pairs.select("pair_id", exchange=pl.col("slots").list.eval(pl.element().cast(pl.String)).list.join("↔"))
    return rows.join(slots, on="pair_id", how="left").select("axis", "template", pl.col("exchange").fill_null("unknown"), "value")


def crosswise_flip(
    token_set: str, random_set: str, words: str, at: Callable[[crosswise.Flips], np.ndarray]
) -> Callable[[Tables], Measured]:
    """Most answers flip under the crosswise exchange of ``token_set``, more than of ``random_set``; ``at``: the sites to choose from."""

    def measure(tables: Tables) -> Measured:
        chosen, other = (crosswise.flips(tables["interchange"], name) for name in (token_set, random_set))
        if not len(chosen.hits) or not len(chosen.layers):
            return NOTHING
        found = at_best(Layers.of(at(chosen)))
        estimate, above_half = found.share(), found.share_p(MOST)
        values = _of_pairs(tables["interchange"], chosen.pairs, found.values, tables, "crosswise")
        rows = tables["interchange"].filter(experiment="crosswise", condition=INTACT, token_set=token_set)
        moved = recovery_at_best(rows.filter(site=CONNECTOR) if at is crosswise.Flips.at_connector else rows, "flip")
        if not len(other.hits):
            return Measured(estimate, ZERO, "no flips (there is no random set)", estimate, above_half, values, MOST - 0.1, moved)
        shared = sorted(set(chosen.pairs) & set(other.pairs))
        both = [at(one)[[one.pairs.index(name) for name in shared]] for one in (chosen, other)]
        difference, p = at_best(*(Layers.of(hits) for hits in both)).mean()
        rate = at_best(Layers.of(at(other))).share()
        return Measured(estimate, rate, words, difference, max(p, above_half), values, MOST - 0.1, moved)

    return measure


def crosswise_last(tables: Tables) -> Measured:
    layers = crosswise.flips(tables["interchange"], "strip").layers
    if len(layers) == 0:
        return NOTHING
    first, last = float(layers[0]), float(layers[-1])
    ends, found = Interval((first + last) / 2, first, last, len(layers)), crosswise.last_layer(tables["interchange"])
    return Measured(found, ends, "first and last site", found, math.nan)


def last_token_slot(tables: Tables) -> Measured:
    table = tables["interchange"]
    found = last_token.carried(table)
    if not found.pairs or not len(found.layers):
        return NOTHING
    best = at_best(Layers.of(found.ordinal))
    ordinal, attribute = found.ordinal.astype(float), found.attribute.astype(float)
    difference, p = at_best(Layers.of(found.ordinal, ordinal - attribute)).mean()
    control = Layers.of(found.ordinal, attribute).chosen()
    values = _of_pairs(table, found.pairs, best.values, tables, "last_token")
    rate = binomial(int(control.sum()), len(found.pairs))
    p = max(p, best.share_p(MOST))
    return Measured(best.share(), rate, "the other run's own answer, at the same layer", difference, p, values, MOST - 0.1)


def last_token_takeover(tables: Tables) -> Measured:
    carried = last_token.carried(tables["interchange"])
    if not carried.pairs or not len(carried.layers):
        return NOTHING
    first, last = float(carried.layers[0]), float(carried.layers[-1])
    ends, found = Interval((first + last) / 2, first, last, len(carried.layers)), last_token.takeover(carried)
    return Measured(found, ends, "first and last layer", found, math.nan)


def dominance(tables: Tables) -> Measured:
    rows = summaries.staying(tables["conflict"])
    found = summaries.dominance(tables["conflict"])
    p = binomial_p(int(rows["stays"].sum()), rows.height, 0.5) if rows.height else 1.0
    values = _with_exchange(rows.with_columns(value=2 * pl.col("stays").cast(pl.Float64) - 1), tables)
    return Measured(found, ZERO, "neither decides", found, p, values)


def ordering_peak(tables: Tables) -> Measured:
    table = tables["interchange"]
    found = summaries.ordering(table)
    if not found.pairs or not len(found.layers) or found.at_connector is None:
        return NOTHING
    follows = found.follows.astype(float)
    controls = {
        "the same exchange at the connector": np.broadcast_to(found.at_connector[:, None], follows.shape).astype(float),
        "answers that follow the place, at the same layer": found.content.astype(float),
    }
    of_controls = {name: at_best(Layers.of(found.follows, follows - control)) for name, control in controls.items()}
    tests = {name: beyond.mean() for name, beyond in of_controls.items()}
    # Both have to be exceeded.
    hardest = min(tests, key=lambda name: tests[name][0].low)
    difference, p = tests[hardest]
    control = Layers.of(found.follows, controls[hardest]).chosen()
    values = _of_pairs(table, found.pairs, of_controls[hardest].values, tables)
    rate = binomial(int(control.sum()), len(found.pairs))
    exchanged = language_sweep(table).filter(pl.col("site").str.starts_with("language."))
    moved = recovery_at_best(exchanged, "ordering")
    return Measured(summaries.ordering_peak(table), rate, hardest, difference, p, values, recovery=moved)


def _of_pairs(table: pl.DataFrame, pairs: Sequence[str], values: np.ndarray, tables: Tables, experiment: str = "language") -> pl.DataFrame:
    known = table.filter(experiment=experiment).unique("pair_id", maintain_order=True).select("pair_id", "axis", "template")
    return _with_exchange(pl.DataFrame({"pair_id": list(pairs), "value": values}).join(known, on="pair_id", how="left"), tables)


def ordering_layer(tables: Tables) -> Measured:
    found = summaries.ordering(tables["interchange"])
    if not found.pairs or not len(found.layers):
        return NOTHING
    # A patch of the last layer reaches no answer: the last that can is the end to compare with.
    reached = found.layers[found.changed] if found.changed.any() else found.layers
    first, last = float(reached.min()), float(reached.max())
    ends = Interval((first + last) / 2, first, last, len(reached))
    named = "the first layer, and the last whose exchange changes anything"
    if PEAK.judge(ordering_peak(tables)) != "supported":
        # No supported peak, so no layer is given.
        return Measured(EMPTY, ends, named, EMPTY, 1.0)
    layer = summaries.ordering_peak_layer(tables["interchange"])
    return Measured(layer, ends, named, layer, math.nan)


def slot_not_place(tables: Tables) -> Measured:
    table = tables["interchange"]
    pairs, follow = displaced.followed(table)
    if not pairs:
        return NOTHING
    either = follow["ordering"] | follow["absolute"]
    slot, place = (at_best(Layers.of(either, hits.astype(float))) for hits in follow.values())
    found = at_best(Layers.of(either, follow["ordering"].astype(float) - follow["absolute"]))
    difference, p = found.mean()
    values = _of_pairs(table, pairs, found.values, tables, "displaced")
    moved = recovery_at_best(table.filter(experiment="displaced", condition=INTACT, token_set="object"), ["ordering", "absolute"])
    control = "answers that follow the absolute place, at the same site"
    return Measured(slot.share(), place.share(), control, difference, p, values, recovery=moved)


def _condition(table: pl.DataFrame) -> str | None:
    """The ablation that is reported: position-neutral re-encoding if it was run, since erasure removes linear traces only."""
    run = set(table["condition"]) - {INTACT, LANGUAGE_ERASED}
    return next((name for name in ("neutral", "erasure") if name in run), None)


def ablation_drop(tables: Tables) -> Measured:
    table = tables["ablation_accuracy"]
    condition = _condition(table)
    if condition is None:
        return NOTHING
    asked = summaries.ablation_drops(table, condition)
    found, control, words = summaries.ablation_drop(table, condition), ZERO, f"no loss ({condition})"
    if (name := ABLATION_CONTROLS[condition]) in set(table["condition"]):
        # What the manipulation costs where it leaves the layout alone.
        control, words = summaries.ablation_drop(table, name), _WITHOUT_LOSS[condition]
        left = summaries.ablation_drops(table, name).select("question_id", left="lost")
        asked = asked.join(left, on="question_id", maintain_order="left").with_columns(lost=pl.col("lost") - pl.col("left"))
    difference, p = clustered_mean(asked["lost"].to_numpy(), asked["scene_id"].to_list())
    known = table.unique("question_id", maintain_order=True).select("question_id", "axis", "template")
    values = asked.join(known, on="question_id", how="left").select("axis", "template", value="lost")
    return Measured(found, control, words, difference, p, values)


_WITHOUT_LOSS = {"neutral": "each object encoded alone in its own place", "erasure": "erasure of shuffled slots"}


def backup_gain(tables: Tables) -> Measured:
    condition = _condition(tables["ablation_sweep"])
    if condition is None or "interchange" not in tables:
        return NOTHING
    both = summaries.sweeps(tables)
    pairs, gains = summaries.backup_gains(both, condition)
    found, p = gains.mean()
    return Measured(found, ZERO, f"no gain ({condition})", found, p, _of_pairs(both, pairs, gains.values, tables) if pairs else None)


def errors_corrected(tables: Tables) -> Measured:
    found = amplification.against_random(tables["amplification"])
    if found is None or not found.outcome.errors:
        return NOTHING
    return Measured(found.outcome.corrected_share, found.random_corrected, found.control, found.more_corrected, found.more_corrected_p)


def net_accuracy(tables: Tables) -> Measured:
    found = amplification.against_random(tables["amplification"])
    # Without errors there is nothing to gain, and no gain refutes nothing.
    if found is None or not found.outcome.errors:
        return NOTHING
    return Measured(found.outcome.net, found.random_net, found.control, found.more_net, max(found.more_net_p, found.net_p))
