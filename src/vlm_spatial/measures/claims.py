"""From tables to findings: for every claim an estimate, its interval, its control and the verdict that follows.

One table, :data:`CLAIMS`, holds every claim with its rule; ``docs/findings.md`` is written from it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from vlm_spatial.interventions.labels import CONNECTOR, LANGUAGE_ERASED
from vlm_spatial.measures import behaviour, crosswise
from vlm_spatial.measures import interventions as summaries
from vlm_spatial.measures.amplification import chosen_outcome, random_corrected_share, random_net
from vlm_spatial.measures.probe_scores import PIXEL_SITE
from vlm_spatial.measures.table import numbers, select, tidy
from vlm_spatial.measures.verdicts import (
    ACCURACY_MARGIN,
    BACKUP_MARGIN,
    CORRECTED_MARGIN,
    DROP_MARGIN,
    MINIMUM,
    NET_MARGIN,
    PEAK_MARGIN,
    PROBE_MARGIN,
    Measured,
    Verdict,
    above,
    gains,
    reliably,
    sign,
    within,
)
from vlm_spatial.statistics import EMPTY, Interval, mean_of_independent

ZERO = Interval(0.0, 0.0, 0.0, 0)
Tables = Mapping[str, pl.DataFrame]
"""One model's tables on one dataset, by name."""

NOTHING = Measured(EMPTY, EMPTY, "")


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, how it is measured, and the rule of its verdict.

    Attributes:
        needs: the table without which it is inconclusive.
        statement: true if the verdict is ``supported``.
        rule: the rule in words; ``judge`` is the same in code.
        unit: ``share``, ``index`` or ``layer``: how numbers are shown.
        counted: what ``n`` counts.
    """

    name: str
    title: str
    needs: str
    statement: str
    estimate: str
    control: str
    rule: str
    measure: Callable[[Tables], Measured]
    judge: Callable[[Measured], Verdict]
    unit: Literal["share", "change", "index", "layer"] = "share"
    counted: str = "pairs"


def _accuracy(tables: Tables) -> Measured:
    table = tables["behaviour"].filter((pl.col("split") == "test") & (pl.col("variant") == "main") & (pl.col("template") != "content"))
    if table.is_empty():
        return NOTHING
    guess = behaviour.chance(table)
    return Measured(behaviour.accuracy(table), Interval(guess, guess, guess, table.height), behaviour.GUESS)


def _slot_probe_background(tables: Tables) -> Measured:
    table = tables["probes"].filter(
        (pl.col("token_set") == "background") & (pl.col("scored_on") == "decorrelated") & (pl.col("split") == "test")
    )
    # A probe trained where slot is not place is the fair one; without it, the probe of the main scenes has to do.
    trained_on = "decorrelated" if "decorrelated" in set(table["trained_on"]) else "main"
    table = table.filter(pl.col("trained_on") == trained_on)
    at_connector = table.filter(pl.col("site") == CONNECTOR)
    score = _mean(at_connector.filter(pl.col("kind") == "logistic"))
    guess = at_connector["chance"].mean()
    controls = {
        "shuffled labels": _mean(at_connector.filter(pl.col("kind") == "shuffled")),
        "the probe's answers for the same cells of other scenes": _mean(at_connector.filter(pl.col("kind") == "other_scene")),
        "pixels only": _mean(table.filter((pl.col("kind") == "pixels") & pl.col("site").is_in([PIXEL_SITE, CONNECTOR]))),
        "best constant answer": EMPTY if guess is None else Interval(float(guess), float(guess), float(guess), score.n),  # type: ignore[arg-type]
    }
    known = {name: control for name, control in controls.items() if not math.isnan(control.estimate)}
    if not known:
        return NOTHING
    best = max(known, key=lambda name: known[name].estimate)
    return Measured(score, known[best], best)


def _mean(scores: pl.DataFrame) -> Interval:
    """Mean over the axes of rows of ``probes.parquet``."""
    return mean_of_independent([Interval(*row) for row in scores.drop_nulls("accuracy").select("accuracy", "low", "high", "n").iter_rows()])


def _flip(token_set: str) -> Callable[[Tables], Measured]:
    def measure(tables: Tables) -> Measured:
        table = tables["interchange"]
        random = summaries.flip_rate(table, "random")
        if random.n == 0:
            return Measured(summaries.flip_rate(table, token_set), ZERO, "no flips (there is no random set)")
        name = "random tokens, as many as the strip has"
        covered = summaries.objects_covered(table)
        return Measured(
            summaries.flip_rate(table, token_set), random, f"{name}, {covered:.0%} of the objects' among them" if covered else name
        )

    return measure


def _crosswise_strip(tables: Tables) -> Measured:
    table = tables["interchange"]
    random = crosswise.flip_rate(table, "random_strip")
    name = "random tokens outside the two strips" if random.n else "no flips (there is no random set)"
    return Measured(crosswise.flip_rate(table, "strip"), random if random.n else ZERO, name)


def _crosswise_object(tables: Tables) -> Measured:
    table = tables["interchange"]
    random = crosswise.highest_flip_rate(table, "random_object")
    name = "background tokens of the two strips, as many" if random.n else "no flips (there is no random set)"
    return Measured(crosswise.highest_flip_rate(table, "object"), random if random.n else ZERO, name)


def _crosswise_last(tables: Tables) -> Measured:
    layers = crosswise.flips(tables["interchange"], "strip").layers
    if len(layers) == 0:
        return NOTHING
    first, last = float(layers[0]), float(layers[-1])
    ends = Interval((first + last) / 2, first, last, len(layers))
    return Measured(crosswise.last_layer(tables["interchange"]), ends, "first and last site")


def _dominance(tables: Tables) -> Measured:
    return Measured(summaries.dominance(tables["conflict"]), ZERO, "neither decides")


def _ordering_peak(tables: Tables) -> Measured:
    table = tables["interchange"]
    return Measured(summaries.ordering_peak(table), summaries.ordering_rate(table, CONNECTOR), "the same exchange at the connector")


def _ordering_layer(tables: Tables) -> Measured:
    table = tables["interchange"].filter(pl.col("experiment") == "language")
    layers = table.filter(pl.col("site").str.starts_with("language."))["layer"]
    if layers.is_empty():
        return NOTHING
    first, last = float(layers.min()), float(layers.max())  # type: ignore[arg-type]
    ends = Interval((first + last) / 2, first, last, int(last - first) + 1)
    if _ordering_verdict(table) != "supported":
        # The place of a peak that is none says nothing.
        return Measured(EMPTY, ends, "first and last layer")
    return Measured(summaries.ordering_peak_layer(table), ends, "first and last layer")


def _ordering_verdict(table: pl.DataFrame) -> Verdict:
    return above(PEAK_MARGIN)(Measured(summaries.ordering_peak(table), summaries.ordering_rate(table, CONNECTOR), ""))


def _condition(table: pl.DataFrame) -> str | None:
    """The ablation that is reported: position-neutral re-encoding if it was run, since erasure removes linear traces only."""
    run = set(table["condition"]) - {"intact", LANGUAGE_ERASED}
    return next((name for name in ("neutral", "erasure") if name in run), None)


def _ablation_drop(tables: Tables) -> Measured:
    table = tables["ablation_accuracy"]
    condition = _condition(table)
    if condition is None:
        return NOTHING
    return Measured(summaries.ablation_drop(table, condition), ZERO, f"no loss ({condition})")


def _backup_gain(tables: Tables) -> Measured:
    condition = _condition(tables["ablation_sweep"])
    if condition is None or "interchange" not in tables:
        return NOTHING
    return Measured(summaries.backup_gain(summaries.sweeps(tables), condition), ZERO, f"no gain ({condition})")


def _errors_corrected(tables: Tables) -> Measured:
    found = chosen_outcome(tables["amplification"], "projection")
    if found is None:
        return NOTHING
    random = random_corrected_share(tables["amplification"], found.site, found.alpha)
    return Measured(found.corrected_share, random, f"random subspaces, alpha {found.alpha:g} at {found.site}")


def _net_accuracy(tables: Tables) -> Measured:
    found = chosen_outcome(tables["amplification"], "projection")
    # Without errors there is nothing to gain, and no gain refutes nothing.
    if found is None or found.errors == 0:
        return NOTHING
    random = random_net(tables["amplification"], found.site, found.alpha)
    return Measured(found.net, random, f"random subspaces, alpha {found.alpha:g} at {found.site}")


def _above_rule(margin: float) -> str:
    return f"supported: low > control's high; refuted: high < control + {margin:g}; else inconclusive"


_RELIABLY = "supported: low > 0.5 and low > control's high; refuted: high < 0.5 or high < control's low; else inconclusive"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "accuracy",
        "Answers right",
        "behaviour",
        "The untouched model answers spatial questions better than a guess.",
        "accuracy on main test scenes, all spatial templates; bootstrap over scenes (Wilson where all answers are alike)",
        "a guess among the candidates",
        _above_rule(ACCURACY_MARGIN),
        _accuracy,
        above(ACCURACY_MARGIN),
        counted="scenes",
    ),
    Claim(
        "slot_probe_background",
        "Background knows the slot",
        "probes",
        "Background tokens at the connector say which slot their strip belongs to, beyond what position, pixels or chance explain.",
        "logistic probe at the connector, background tokens of layout-decorrelated test scenes (probe trained on decorrelated "
        "scenes where there is one), mean of the axes",
        "the best of: shuffled labels, the probe's answers for the same cells of other scenes (which keep "
        "absolute position and nothing of the scene), "
        "pixels only, best constant answer",
        _above_rule(PROBE_MARGIN),
        _slot_probe_background,
        above(PROBE_MARGIN),
        counted="scenes",
    ),
    Claim(
        "strip_flip",
        "The strip flips answers",
        "interchange",
        "Replacing the tokens of the strips by the counterfactual's changes most answers.",
        "flip rate of the strip at the connector, included pairs of both axes; Wilson",
        "flip rate of as many random tokens",
        _RELIABLY,
        _flip("strip"),
        reliably,
    ),
    Claim(
        "object_flip",
        "The object alone flips answers",
        "interchange",
        "Replacing the objects' own tokens alone changes most answers.",
        "flip rate of the object tokens at the connector, included pairs of both axes; Wilson",
        "flip rate of random tokens, as many as the strip has",
        _RELIABLY,
        _flip("object"),
        reliably,
    ),
    Claim(
        "crosswise_strip_flip",
        "The strip's code alone flips answers",
        "interchange",
        "What enters the language model in the strips of two slots carries the code that answers are read from: exchanged while the "
        "contents stay, it changes most answers.",
        "flip rate of the crosswise exchange of the strips at the connector, included pairs of both axes; Wilson",
        "the same for random tokens outside the two strips",
        _RELIABLY,
        _crosswise_strip,
        reliably,
    ),
    Claim(
        "crosswise_object_flip",
        "The object's code alone flips answers",
        "interchange",
        "At the connector or some language layer the objects' own tokens carry the code that answers are read from.",
        "highest flip rate of the crosswise exchange of the objects over the connector and the language layers: the site is chosen on one "
        "half of the pairs and the rate counted on the other, and the other way round; bootstrap over pairs",
        "the same for as many background tokens of the two strips",
        _RELIABLY,
        _crosswise_object,
        reliably,
    ),
    Claim(
        "crosswise_last_layer",
        "The code is read midway",
        "interchange",
        "The strips' code is read before the last layers: up to an intermediate layer its exchange still flips most answers, then no more.",
        "last layer at which the crosswise exchange of the strips flips most answers (−1: the connector), interval over resampled pairs; "
        "none where it flips most at no layer",
        "the first and the last site",
        "supported: first < low and high < last; refuted: high ≤ first or low ≥ last; else inconclusive",
        _crosswise_last,
        within,
        unit="layer",
    ),
    Claim(
        "dominance",
        "Vision decides over place",
        "conflict",
        "Where the vision code and the token's place disagree, the vision code decides.",
        "(stay − move) / (stay + move) when the strips of two slots are exchanged at the connector; bootstrap over pairs "
        "(Wilson where all stay or all move)",
        "0",
        "supported: low > 0; refuted: high < 0; else inconclusive",
        _dominance,
        sign,
        unit="index",
        counted="pairs that stay or move",
    ),
    Claim(
        "language_ordering_peak",
        "Language layers carry an order",
        "interchange",
        "Language-model layers hold an ordering code that is not yet in what enters the language model.",
        "highest rate of answers that follow the ordering over language layers, intact model: the layer is chosen on one half of the "
        "pairs and the rate counted on the other, and the other way round; bootstrap over pairs, the layer chosen anew in each resample",
        "rate of the same exchange at the connector",
        _above_rule(PEAK_MARGIN),
        _ordering_peak,
        above(PEAK_MARGIN),
    ),
    Claim(
        "language_peak_layer",
        "The order peaks midway",
        "interchange",
        "The ordering code peaks in an intermediate layer, neither the first nor the last.",
        "layer of the highest rate, interval over resampled pairs; none unless language_ordering_peak is supported",
        "the first and the last layer",
        "supported: first < low and high < last; refuted: high ≤ first or low ≥ last; else inconclusive",
        _ordering_layer,
        within,
        unit="layer",
    ),
    Claim(
        "ablation_drop",
        "Vision's layout is needed",
        "ablation_accuracy",
        "Removing the layout from the vision output costs accuracy.",
        "accuracy lost on the same test questions under position-neutral re-encoding (under erasure where that was not run); "
        "bootstrap over scenes",
        "0",
        _above_rule(DROP_MARGIN),
        _ablation_drop,
        above(DROP_MARGIN),
        unit="change",
        counted="scenes",
    ),
    Claim(
        "backup_gain",
        "The language model takes over",
        "ablation_sweep",
        "With the layout removed from the vision output, the language model adds more ordering than it does intact.",
        "(highest ordering rate over language layers − rate at the connector) ablated, minus the same intact; bootstrap over pairs",
        "0",
        _above_rule(BACKUP_MARGIN),
        _backup_gain,
        above(BACKUP_MARGIN),
        unit="change",
    ),
    Claim(
        "errors_corrected",
        "Amplifying corrects errors",
        "amplification",
        "Scaling the vision signal corrects more of the errors than random subspaces do.",
        "share of test errors that projection corrects at the site and α that validation chose; Wilson, with the design effect of scenes",
        "the same for random subspaces of equal rank and move: mean and range of the draws",
        _above_rule(CORRECTED_MARGIN),
        _errors_corrected,
        above(CORRECTED_MARGIN),
        counted="errors",
    ),
    Claim(
        "net_accuracy",
        "Amplifying pays",
        "amplification",
        "Scaling the vision signal raises accuracy, answers broken counted against answers corrected.",
        "change in test accuracy by projection at the site and α that validation chose; paired bootstrap over scenes; "
        "none where there is no error",
        "the same for random subspaces: mean and range of the draws",
        f"supported: low > 0 and low > control's high; refuted: high < {NET_MARGIN:g}; else inconclusive",
        _net_accuracy,
        gains,
        unit="change",
        counted="questions",
    ),
)
BY_NAME: Mapping[str, Claim] = {claim.name: claim for claim in CLAIMS}


def judged(tables: Tables) -> pl.DataFrame:
    """One row a claim, in the order of :data:`CLAIMS`, in the columns of the table of measures.

    A claim whose table is missing or empty, whose estimate rests on fewer than :data:`MINIMUM` units, or whose control is not known
    is ``inconclusive``.
    """
    return tidy([_row(claim, tables) for claim in CLAIMS], "claims")


def _row(claim: Claim, tables: Tables) -> dict[str, object]:
    needed = tables.get(claim.needs)
    found = NOTHING if needed is None or needed.is_empty() else claim.measure(tables)
    known = found.estimate.n >= MINIMUM and all(math.isfinite(x) for x in (*_limits(found.estimate), *_limits(found.control)))
    return {
        "measure": claim.name,
        **numbers(found.estimate),
        **{f"control_{name}": value for name, value in numbers(found.control).items()},
        "control": found.control_name or claim.control,
        "counted": claim.counted,
        "method": claim.estimate,
        "verdict": claim.judge(found) if known else "inconclusive",
    }


def _limits(interval: Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high


def findings(model: str, dataset: str, measures: pl.DataFrame) -> list[dict[str, Any]]:
    """``findings.json``: one record a claim of ``measures.parquet``; plain builtins, null where a number is not known."""
    columns = ("measure", "estimate", "low", "high", "n", "control", *(f"control_{name}" for name in _NUMBERS), "verdict")
    rows = select(measures, "claims", [claim.name for claim in CLAIMS], {name: name for name in columns})
    return [_record(model, dataset, row) for row in rows.iter_rows(named=True)]


_NUMBERS = ("estimate", "low", "high", "n")


def _record(model: str, dataset: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset,
        "claim": row["measure"],
        **{name: _plain(row[name]) for name in _NUMBERS},
        "control": {"name": row["control"], **{name: _plain(row[f"control_{name}"]) for name in _NUMBERS}},
        "verdict": row["verdict"],
    }


def _plain(value: float | int | None) -> float | int | None:
    # Twelve digits: the last ones of a double may differ between machines.
    return float(f"{value:.12g}") if isinstance(value, float) else value
