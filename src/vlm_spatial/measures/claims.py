"""From tables to findings: for every claim an estimate, its control, their difference, and the verdict that follows.

One table, :data:`CLAIMS`, holds every claim with its rule; ``docs/findings.md`` is written from it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from vlm_spatial.interventions.labels import CONNECTOR, CONTENT, INTACT, INTENDED, LANGUAGE_ERASED
from vlm_spatial.measures import amplification, behaviour, crosswise
from vlm_spatial.measures import interventions as summaries
from vlm_spatial.measures.probe_scores import PIXEL_SITE
from vlm_spatial.measures.table import numbers, tidy
from vlm_spatial.measures.verdicts import (
    ACCURACY_SMALLEST,
    APART_EFFECT,
    BACKUP_SMALLEST,
    CORRECTED_SMALLEST,
    DROP_SMALLEST,
    MINIMUM,
    MOST,
    NET_SMALLEST,
    NOTHING,
    PEAK_SMALLEST,
    PROBE_SMALLEST,
    Measured,
    Rule,
    Verdict,
    strata,
)
from vlm_spatial.statistics import (
    CONFIDENCE,
    EMPTY,
    Interval,
    binomial,
    binomial_p,
    clustered_mean,
    clustered_share_p,
    difference_of_independent,
    holm,
    mean_of_independent,
)

ZERO = Interval(0.0, 0.0, 0.0, 0)
Tables = Mapping[str, pl.DataFrame]
"""One model's tables on one dataset, by name; ``pairs`` are the dataset's."""


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, how it is measured, and the rule of its verdict.

    Attributes:
        needs: the table without which it is inconclusive.
        statement: true if the verdict is ``supported``; it says what was measured and no more.
        refutation: what would have refuted it.
        unit: how numbers are shown.
        counted: what ``n`` counts.
    """

    name: str
    title: str
    needs: str
    statement: str
    refutation: str
    estimate: str
    control: str
    rule: Rule | str
    measure: Callable[[Tables], Measured]
    unit: Literal["share", "change", "index", "layer"] = "share"
    counted: str = "pairs"

    def judge(self, found: Measured) -> Verdict:
        """The verdict before adjustment and before strata are looked at."""
        return self.rule.judge(found) if isinstance(self.rule, Rule) else _inside(found)


def _point(value: float, n: int = 0) -> Interval:
    return Interval(value, value, value, n)


def _minus(interval: Interval, value: float) -> Interval:
    return Interval(interval.estimate - value, interval.low - value, interval.high - value, interval.n)


def _accuracy(tables: Tables) -> Measured:
    table = tables["behaviour"].filter(split="test", variant="main").filter(pl.col("template") != CONTENT)
    if table.is_empty():
        return NOTHING
    guess, found = behaviour.chance(table), behaviour.accuracy(table)
    p = clustered_share_p(table["correct"].to_numpy(), table["scene_id"].to_list(), guess)
    values = table.select("axis", "template", value=pl.col("correct").cast(pl.Float64))
    return Measured(found, _point(guess, table.height), behaviour.GUESS, _minus(found, guess), p, values, over=guess)


def _slot_probe_background(tables: Tables) -> Measured:
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


def _flip(token_set: str) -> Callable[[Tables], Measured]:
    def measure(tables: Tables) -> Measured:
        vision = (
            tables["interchange"]
            .filter(pl.col("included"))
            .filter(experiment="vision", site=CONNECTOR, source="counterfactual", condition=INTACT)
        )
        hits = vision.with_columns(value=(pl.col("outcome") == INTENDED["vision"]).cast(pl.Float64))
        chosen = hits.filter(token_set=token_set)
        estimate = summaries.flip_rate(tables["interchange"], token_set)
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
                return Measured(estimate, control, said, difference, max(p, above_half), values, over=MOST - 0.1)
        return Measured(estimate, ZERO, "no flips (there is no random set)", estimate, above_half, values, over=MOST - 0.1)

    return measure


def _with_exchange(rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """``axis``, ``template``, ``exchange`` (the two slots, where the dataset's pairs are known) and ``value``."""
    pairs = tables.get("pairs")
    if pairs is None or "slots" not in pairs.columns:
        return rows.select("axis", "template", "value")
    slots = pairs.select("pair_id", exchange=pl.col("slots").list.eval(pl.element().cast(pl.String)).list.join("↔"))
    return rows.join(slots, on="pair_id", how="left").select("axis", "template", pl.col("exchange").fill_null("unknown"), "value")


def _crosswise(token_set: str, random_set: str, words: str, at: Callable[[crosswise.Flips], np.ndarray]) -> Callable[[Tables], Measured]:
    """Most answers flip under the crosswise exchange of ``token_set``, and more than of ``random_set``; ``at`` picks each pair's site."""

    def measure(tables: Tables) -> Measured:
        chosen, other = (crosswise.flips(tables["interchange"], name) for name in (token_set, random_set))
        if not len(chosen.hits) or not len(chosen.layers):
            return NOTHING
        hits = at(chosen)
        estimate, above_half = binomial(int(hits.sum()), len(hits)), binomial_p(float(hits.sum()), len(hits), MOST)
        values = _of_pairs(tables["interchange"], chosen.pairs, hits, tables, "crosswise")
        if not len(other.hits):
            return Measured(estimate, ZERO, "no flips (there is no random set)", estimate, above_half, values, over=MOST - 0.1)
        control, shared = dict(zip(other.pairs, at(other), strict=True)), [name in set(other.pairs) for name in chosen.pairs]
        paired = [control[name] for name in chosen.pairs if name in control]
        difference, p = clustered_mean(hits[shared] - np.array(paired))
        rate = binomial(int(sum(control.values())), len(control))
        return Measured(estimate, rate, words, difference, max(p, above_half), values, over=MOST - 0.1)

    return measure


def _crosswise_last(tables: Tables) -> Measured:
    layers = crosswise.flips(tables["interchange"], "strip").layers
    if len(layers) == 0:
        return NOTHING
    first, last = float(layers[0]), float(layers[-1])
    ends, found = Interval((first + last) / 2, first, last, len(layers)), crosswise.last_layer(tables["interchange"])
    return Measured(found, ends, "first and last site", found, math.nan)


def _dominance(tables: Tables) -> Measured:
    rows = summaries.staying(tables["conflict"])
    found = summaries.dominance(tables["conflict"])
    p = binomial_p(int(rows["stays"].sum()), rows.height, 0.5) if rows.height else 1.0
    values = _with_exchange(rows.with_columns(value=2 * pl.col("stays").cast(pl.Float64) - 1), tables)
    return Measured(found, ZERO, "neither decides", found, p, values)


def _ordering_peak(tables: Tables) -> Measured:
    table = tables["interchange"]
    found = summaries.ordering(table)
    if not found.pairs or not len(found.layers) or found.at_connector is None:
        return NOTHING
    hits, content = found.at_best(found.follows.astype(float)), found.at_best(found.content.astype(float))
    controls = {
        "the same exchange at the connector": found.at_connector.astype(float),
        "answers that follow the place, at the same layer": content,
    }
    tests = {name: clustered_mean(hits - control) for name, control in controls.items()}
    # Both have to be exceeded.
    hardest = min(tests, key=lambda name: tests[name][0].low)
    difference, p = tests[hardest]
    control = binomial(int(controls[hardest].sum()), len(hits))
    values = _of_pairs(table, found.pairs, hits - controls[hardest], tables)
    return Measured(summaries.ordering_peak(table), control, hardest, difference, p, values)


def _of_pairs(table: pl.DataFrame, pairs: Sequence[str], values: np.ndarray, tables: Tables, experiment: str = "language") -> pl.DataFrame:
    known = table.filter(experiment=experiment).unique("pair_id", maintain_order=True).select("pair_id", "axis", "template")
    return _with_exchange(pl.DataFrame({"pair_id": list(pairs), "value": values}).join(known, on="pair_id", how="left"), tables)


def _ordering_layer(tables: Tables) -> Measured:
    found = summaries.ordering(tables["interchange"])
    if not found.pairs or not len(found.layers):
        return NOTHING
    # A patch of the last layer reaches no answer: the last that can is the end to compare with.
    reached = found.layers[found.changed] if found.changed.any() else found.layers
    first, last = float(reached.min()), float(reached.max())
    ends = Interval((first + last) / 2, first, last, len(reached))
    named = "the first layer, and the last whose exchange changes anything"
    if PEAK.judge(_ordering_peak(tables)) != "supported":
        # No supported peak, so no layer is given.
        return Measured(EMPTY, ends, named, EMPTY, 1.0)
    layer = summaries.ordering_peak_layer(tables["interchange"])
    return Measured(layer, ends, named, layer, math.nan)


def _inside(found: Measured) -> Verdict:
    """Supported if every layer that may be the best lies strictly inside the control's ends, refuted if all lie on one of them."""
    low, high, first, last = found.estimate.low, found.estimate.high, found.control.low, found.control.high
    if found.estimate.n < MINIMUM or not all(math.isfinite(x) for x in (low, high, first, last)):
        return "inconclusive"
    if first < low and high < last:
        return "supported"
    return "refuted" if high <= first or low >= last else "inconclusive"


def _condition(table: pl.DataFrame) -> str | None:
    """The ablation that is reported: position-neutral re-encoding if it was run, since erasure removes linear traces only."""
    run = set(table["condition"]) - {INTACT, LANGUAGE_ERASED}
    return next((name for name in ("neutral", "erasure") if name in run), None)


def _ablation_drop(tables: Tables) -> Measured:
    table = tables["ablation_accuracy"]
    condition = _condition(table)
    if condition is None:
        return NOTHING
    asked = summaries.ablation_drops(table, condition)
    found = summaries.ablation_drop(table, condition)
    _, p = clustered_mean(asked["lost"].to_numpy(), asked["scene_id"].to_list())
    known = table.unique("question_id", maintain_order=True).select("question_id", "axis", "template")
    values = asked.join(known, on="question_id", how="left").select("axis", "template", value="lost")
    return Measured(found, ZERO, f"no loss ({condition})", found, p, values)


def _backup_gain(tables: Tables) -> Measured:
    condition = _condition(tables["ablation_sweep"])
    if condition is None or "interchange" not in tables:
        return NOTHING
    both = summaries.sweeps(tables)
    pairs, gains = summaries.backup_gains(both, condition)
    found, p = clustered_mean(gains)
    return Measured(found, ZERO, f"no gain ({condition})", found, p, _of_pairs(both, pairs, gains, tables) if pairs else None)


def _errors_corrected(tables: Tables) -> Measured:
    found = amplification.against_random(tables["amplification"])
    if found is None or not found.outcome.errors:
        return NOTHING
    return Measured(found.outcome.corrected_share, found.random_corrected, found.control, found.more_corrected, found.more_corrected_p)


def _net_accuracy(tables: Tables) -> Measured:
    found = amplification.against_random(tables["amplification"])
    # Without errors there is nothing to gain, and no gain refutes nothing.
    if found is None or not found.outcome.errors:
        return NOTHING
    return Measured(found.outcome.net, found.random_net, found.control, found.more_net, max(found.more_net_p, found.net_p))


_PAIRED = "exact interval (Clopper and Pearson)"
_STUDENT = "Student with two added pairs (Bonett and Price)"
PEAK = Rule(PEAK_SMALLEST)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "accuracy",
        "Answers right",
        "behaviour",
        "The untouched model answers spatial questions better than a guess.",
        "An accuracy less than 10 points above a guess.",
        "accuracy on main test scenes, all spatial templates; exact interval of as many independent questions as the scenes' are worth",
        behaviour.GUESS,
        Rule(ACCURACY_SMALLEST),
        _accuracy,
        counted="scenes",
    ),
    Claim(
        "slot_probe_background",
        "The slot can be read off the background",
        "probes",
        "A linear probe reads the slot of their strip off background tokens at the connector, beyond what place, pixels or chance explain.",
        "A probe no more than 5 points better than the best control.",
        "logistic probe at the connector, background tokens of layout-decorrelated test scenes (probe trained on decorrelated "
        "scenes where there is one), mean of the axes",
        "the best of: shuffled labels, the probe's answers for the same cells of other scenes (which keep absolute position and nothing of "
        "the scene), pixels only, best constant answer",
        Rule(PROBE_SMALLEST),
        _slot_probe_background,
        counted="scenes",
    ),
    Claim(
        "strip_flip",
        "The strips' tokens carry the answer",
        "interchange",
        "Replacing the tokens of the strips by the counterfactual's changes most answers: they carry the objects' content to the answer.",
        "Fewer than half of the answers changed.",
        f"flip rate of the strip at the connector, included pairs of both axes; {_PAIRED}",
        "flip rate of tokens outside the two strips, on the same pairs",
        Rule(0.0, floor=MOST),
        _flip("strip"),
    ),
    Claim(
        "object_flip",
        "The objects' tokens carry the answer",
        "interchange",
        "Replacing the objects' own tokens alone changes most answers: they carry the objects' content to the answer.",
        "Fewer than half of the answers changed.",
        f"flip rate of the object tokens at the connector, included pairs of both axes; {_PAIRED}",
        "flip rate of as many tokens outside the objects, on the same pairs",
        Rule(0.0, floor=MOST),
        _flip("object"),
    ),
    Claim(
        "crosswise_strip_flip",
        "The strips' code alone flips answers",
        "interchange",
        "What enters the language model in the strips of two slots carries the code that answers are read from: exchanged while the "
        "contents stay, it changes most answers.",
        "Fewer than half of the answers changed.",
        f"flip rate of the crosswise exchange of the strips at the connector, included pairs of both axes; {_PAIRED}",
        "the same for random tokens outside the two strips, on the same pairs",
        Rule(0.0, floor=MOST),
        _crosswise("strip", "random_strip", "random tokens outside the two strips", crosswise.Flips.at_connector),
    ),
    Claim(
        "crosswise_object_flip",
        "The objects' code alone flips answers",
        "interchange",
        "At the connector or some language layer the objects' own tokens carry the code that answers are read from.",
        "Fewer than half of the answers changed at the best site.",
        "highest flip rate of the crosswise exchange of the objects over the connector and the language layers: the site is chosen on one "
        f"half of the pairs and the rate counted on the other, and the other way round; {_PAIRED}",
        "the same for as many background tokens of the two strips, on the same pairs",
        Rule(0.0, floor=MOST),
        _crosswise("object", "random_object", "background tokens of the two strips, as many", crosswise.Flips.at_best),
    ),
    Claim(
        "crosswise_last_layer",
        "The code is read midway",
        "interchange",
        "The strips' code is read before the last layers: up to an intermediate layer its exchange still flips most answers, then no more.",
        "A last layer that is the first site or the last.",
        "last layer at which the crosswise exchange of the strips flips most answers (−1: the connector); from the last at which it "
        "surely does to the last at which it may; none where it flips most at no layer",
        "the first and the last site",
        "supported: first < low and high < last; refuted: high ≤ first or low ≥ last; else inconclusive",
        _crosswise_last,
        unit="layer",
    ),
    Claim(
        "dominance",
        "Vision's code decides over place",
        "conflict",
        "Where the code that vision wrote into the tokens and the tokens' place disagree, the answer follows the code.",
        "Answers that move with the tokens' place more often than they stay.",
        f"(stay − move) / (stay + move) when the strips of two slots are exchanged at the connector; {_PAIRED} of the share that stays",
        "0",
        Rule(0.0),
        _dominance,
        unit="index",
        counted="pairs that stay or move",
    ),
    Claim(
        "language_ordering_peak",
        "Language layers carry position codes",
        "interchange",
        "In a language layer, the objects' tokens carry a code of slot or place, apart from their content, that is not yet in what enters "
        "the language model. (All pairs use the same three places, so slot and place are one here.)",
        "A best layer no more than 10 points above the connector, or at which as many answers follow the content.",
        "highest rate of answers that follow the ordering over language layers, intact model: the layer is chosen on one half of the pairs "
        f"and the rate counted on the other, and the other way round; {_PAIRED}",
        "the harder of two, on the same pairs: the same exchange at the connector; answers that follow the place, at the same layer",
        PEAK,
        _ordering_peak,
    ),
    Claim(
        "language_peak_layer",
        "The position code peaks midway",
        "interchange",
        "The position code is highest in an intermediate layer, neither the first nor the last that reaches the answer.",
        "A highest layer that is the first, or the last that reaches the answer.",
        "layer of the highest rate; the interval spans every layer that may be the highest; none unless "
        "language_ordering_peak is supported",
        "the first layer, and the last whose exchange changes anything",
        "supported: first < low and high < last; refuted: high ≤ first or low ≥ last; else inconclusive",
        _ordering_layer,
        unit="layer",
    ),
    Claim(
        "ablation_drop",
        "Vision's layout is needed",
        "ablation_accuracy",
        "Removing the layout from the vision output costs accuracy.",
        "A loss of less than 5 points.",
        "accuracy lost on the same test questions under position-neutral re-encoding (under erasure where that was not run); "
        f"{_STUDENT}, adjusted for scenes",
        "0",
        Rule(DROP_SMALLEST),
        _ablation_drop,
        unit="change",
        counted="scenes",
    ),
    Claim(
        "backup_gain",
        "The language model adds more without it",
        "ablation_sweep",
        "With the layout removed from the vision output, the language layers add more of the position code than they do intact.",
        "A gain of less than 10 points.",
        "(highest ordering rate over language layers − rate at the connector) ablated, minus the same intact, on the pairs that the intact "
        f"model answers right; {_STUDENT}",
        "0",
        Rule(BACKUP_SMALLEST),
        _backup_gain,
        unit="change",
    ),
    Claim(
        "errors_corrected",
        "Amplifying corrects errors",
        "amplification",
        "Scaling the slot signal corrects more of the errors than scaling random subspaces does.",
        "No more than 5 points of the errors above random subspaces.",
        "share of test errors that projection corrects at the site and α that validation chose; exact, adjusted for scenes",
        "the same for random subspaces of equal rank and move: mean and range of the draws",
        Rule(CORRECTED_SMALLEST),
        _errors_corrected,
        counted="errors",
    ),
    Claim(
        "net_accuracy",
        "Amplifying pays",
        "amplification",
        "Scaling the slot signal raises accuracy, answers broken counted against answers corrected.",
        "A gain of less than one point.",
        "change in test accuracy by projection at the site and α that validation chose; "
        f"{_STUDENT}, adjusted for scenes; none where there is no error",
        "the same for random subspaces: mean and range of the draws",
        Rule(NET_SMALLEST, floor=0.0),
        _net_accuracy,
        unit="change",
        counted="questions",
    ),
)
BY_NAME: Mapping[str, Claim] = {claim.name: claim for claim in CLAIMS}


def judged(tables: Tables) -> pl.DataFrame:
    """One row a claim, in the order of :data:`CLAIMS`, and one a stratum (``experiment`` is ``strata``), as rows of the table of measures.

    A claim whose table is missing or empty, whose estimate rests on fewer than :data:`MINIMUM` units, or whose control is not known
    is ``inconclusive``. Verdicts are those before adjustment: that is over all claims of a report (:func:`adjusted`).
    """
    rows, of_strata = [], []
    for claim in CLAIMS:
        needed = tables.get(claim.needs)
        found = NOTHING if needed is None or needed.is_empty() else claim.measure(tables)
        parts = strata(found, claim.rule.smallest or APART_EFFECT) if isinstance(claim.rule, Rule) else None
        rows.append(_row(claim, found) | ({} if parts is None else {"strata_p": parts.p}))
        if parts is not None:
            if parts.disagree and found.estimate.n >= MINIMUM:
                rows[-1]["verdict"] = "mixed"
            of_strata += [{"measure": claim.name, **row} for row in parts.means.iter_rows(named=True)]
    return pl.concat([tidy(rows, "claims"), tidy(of_strata, "strata", method="mean of the units' differences")])


def _row(claim: Claim, found: Measured) -> dict[str, object]:
    p = claim.rule.p(found) if isinstance(claim.rule, Rule) else None
    return {
        "measure": claim.name,
        **numbers(found.estimate),
        **{f"control_{name}": value for name, value in numbers(found.control).items()},
        **{f"difference{end}": getattr(found.difference, name) for end, name in (("", "estimate"), ("_low", "low"), ("_high", "high"))},
        "smallest": claim.rule.smallest if isinstance(claim.rule, Rule) else None,
        "control": found.control_name or claim.control,
        "counted": claim.counted,
        "method": claim.estimate,
        "p": p if found.estimate.n else None,
        "verdict": claim.judge(found),
    }


_NUMBERS = ("estimate", "low", "high", "n")


def findings(model: str, dataset: str, measures: pl.DataFrame) -> list[dict[str, Any]]:
    """One record a claim of ``measures.parquet``, verdicts not yet adjusted; plain builtins, null where a number is not known."""
    rows = measures.filter(experiment="claims").iter_rows(named=True)
    parts = {str(claim): part for (claim,), part in measures.filter(experiment="strata").partition_by("measure", as_dict=True).items()}
    return [_record(model, dataset, row, parts.get(row["measure"])) for row in rows]


def _record(model: str, dataset: str, row: Mapping[str, Any], parts: pl.DataFrame | None) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset,
        "claim": row["measure"],
        **{name: _plain(row[name]) for name in _NUMBERS},
        "control": {"name": row["control"], **{name: _plain(row[f"control_{name}"]) for name in _NUMBERS}},
        "difference": {name: _plain(row[column]) for name, column in zip(_NUMBERS[:3], _DIFFERENCE, strict=True)},
        "smallest": row["smallest"],
        "strata": None
        if parts is None
        else {
            "p": _plain(row["strata_p"]),
            "number": parts.height,
            "lowest": _plain(parts["estimate"].min()),
            "highest": _plain(parts["estimate"].max()),
        },
        "p": _plain(row["p"]),
        "verdict": row["verdict"],
    }


_DIFFERENCE = ("difference", "difference_low", "difference_high")


def adjusted(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``findings.json``: the records of a whole report, with ``p_holm`` and the verdicts that stand after Holm's adjustment.

    A verdict ``supported`` or ``refuted`` whose adjusted p is not below 5% is ``inconclusive``; ``verdict_unadjusted`` keeps the other.
    The place of a peak has no p of its own: it stands if the peak does.
    """
    tested = [record["p"] for record in records if record["p"] is not None]
    after = iter(holm(tested))
    made = []
    for record in records:
        p_holm = None if record["p"] is None else _plain(float(next(after)))
        lost = p_holm is not None and p_holm >= 1 - CONFIDENCE and record["verdict"] in ("supported", "refuted")
        verdict = "inconclusive" if lost else record["verdict"]
        made.append(record | {"p_holm": p_holm, "verdict_unadjusted": record["verdict"], "verdict": verdict})
    peaks = {(r["model"], r["dataset"]): r["verdict"] for r in made if r["claim"] == "language_ordering_peak"}
    for record in made:
        if record["claim"] == "language_peak_layer" and peaks.get((record["model"], record["dataset"])) != "supported":
            record["verdict"] = "inconclusive"
    return made


def _plain(value: Any) -> Any:
    # Twelve digits: the last ones of a double may differ between machines.
    return float(f"{value:.12g}") if isinstance(value, float) else value
