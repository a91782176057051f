"""The claims: for every one what it says, how it is measured, and the rule of its verdict.

One table, :data:`CLAIMS`, holds them all; ``docs/findings.md`` is written from it. How each is measured is in
``measures/claim_measures.py``, what becomes of them in a report in ``measures/findings.py``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from vlm_spatial.measures import behaviour, crosswise
from vlm_spatial.measures import claim_measures as measured
from vlm_spatial.measures.claim_measures import PEAK, Tables
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
    PROBE_SMALLEST,
    Measured,
    Rule,
    Verdict,
    strata,
)


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, how it is measured, and the rule of its verdict.

    Attributes:
        needs: the table without which it is inconclusive.
        statement: true if the verdict is ``supported``; it says what was measured and no more.
        refutation: what would have refuted it.
        unit: how numbers are shown.
        counted: what ``n`` counts.
        optional: whether it is left out where its table was not made, instead of being inconclusive.
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
    optional: bool = False

    def judge(self, found: Measured) -> Verdict:
        """The verdict before adjustment and before strata are looked at."""
        return self.rule.judge(found) if isinstance(self.rule, Rule) else _inside(found)


def _inside(found: Measured) -> Verdict:
    """Supported if every layer that may be the best lies strictly inside the control's ends, refuted if all lie on one of them."""
    low, high, first, last = found.estimate.low, found.estimate.high, found.control.low, found.control.high
    if found.estimate.n < MINIMUM or not all(math.isfinite(x) for x in (low, high, first, last)):
        return "inconclusive"
    if first < low and high < last:
        return "supported"
    return "refuted" if high <= first or low >= last else "inconclusive"


_PAIRED = "exact interval (Clopper and Pearson)"
_STUDENT = "Student with two added pairs (Bonett and Price)"
_CROSSED = "n lowered because the layer was chosen, limits as far as those of any layer that may be the best"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "accuracy",
        "Answers right",
        "behaviour",
        "The untouched model answers spatial questions better than a guess.",
        "An accuracy less than 10 points above a guess.",
        "accuracy on main test scenes, all spatial templates; exact interval, n lowered for answers that agree within a scene",
        behaviour.GUESS,
        Rule(ACCURACY_SMALLEST),
        measured.accuracy,
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
        measured.slot_probe_background,
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
        measured.flip("strip"),
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
        measured.flip("object"),
    ),
    Claim(
        "crosswise_strip_flip",
        "The strips' code alone flips answers",
        "interchange",
        "What enters the language model in the strips of two slots carries the code that answers are read from. Exchanged while the "
        "contents stay, it changes most answers.",
        "Fewer than half of the answers changed.",
        f"flip rate of the crosswise exchange of the strips at the connector, included pairs of both axes; {_PAIRED}",
        "the same for random tokens outside the two strips, on the same pairs",
        Rule(0.0, floor=MOST),
        measured.crosswise_flip("strip", "random_strip", "random tokens outside the two strips", crosswise.Flips.at_connector),
    ),
    Claim(
        "crosswise_object_flip",
        "The objects' code alone flips answers",
        "interchange",
        "At the connector or some language layer the objects' own tokens carry the code that answers are read from.",
        "Fewer than half of the answers changed at the best site.",
        "highest flip rate of the crosswise exchange of the objects over the connector and the language layers: the site is chosen on one "
        f"half of the pairs and the rate counted on the other, and the other way round; {_PAIRED}, {_CROSSED}",
        "the same for as many background tokens of the two strips, on the same pairs",
        Rule(0.0, floor=MOST),
        measured.crosswise_flip("object", "random_object", "background tokens of the two strips, as many", crosswise.Flips.at_sites),
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
        measured.crosswise_last,
        unit="layer",
    ),
    Claim(
        "last_token_slot",
        "The last token knows the slot before the object",
        "interchange",
        "In some language layer the prompt's last token carries the slot that is asked for, and not yet the object there. It is laid into "
        "another run. The model then names that picture's object in that slot.",
        "Fewer than half of the answers followed the slot at the best layer.",
        "rate of answers that follow the slot at the best language layer. The last token's value is replaced by that of a run with other "
        "outer objects and a question for the other side. The layer is chosen on one half of the pairs and the rate counted on the other, "
        f"and the other way round; {_PAIRED}, {_CROSSED}",
        "answers that are the other run's own, at the same layer",
        Rule(0.0, floor=MOST),
        measured.last_token_slot,
    ),
    Claim(
        "last_token_takeover",
        "The object is fetched midway",
        "interchange",
        "From an intermediate layer on the prompt's last token carries the answer itself. Laid into another run, it decides that run's "
        "answer.",
        "A first layer that is the first or the last.",
        "first layer from which on most answers are the other run's own when the last token's value is replaced. The interval goes from "
        "the first layer that may be it to the first that surely is",
        "the first and the last layer",
        "supported: first < low and high < last; refuted: high ≤ first or low ≥ last; else inconclusive",
        measured.last_token_takeover,
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
        measured.dominance,
        unit="index",
        counted="pairs that stay or move",
    ),
    Claim(
        "text_decides",
        "The question's tokens decide",
        "readout",
        "Most answers follow the question's tokens: with their residuals of another run in every layer, the answer is that run's.",
        "At most half of the answers become the other run's.",
        "answers that become those of the run in which two objects have changed places, when the question's tokens have its residuals "
        f"after every language layer and the answer's tokens are left free; {_PAIRED}",
        "the question's residuals of an unrelated picture, on the same pairs",
        Rule(0.0, floor=MOST),
        measured.text_decides,
        optional=True,
    ),
    Claim(
        "spatial_id_swap",
        "Place is written at the object's name",
        "readout",
        "A vector that says the slot, learned from other objects, turns the answer to another slot when it is added at the object's name.",
        "Fewer than 5 points more answers turned than by random vectors of the same length.",
        "answers that become the other slot's when at the object's name its spatial ID is exchanged, at the largest strength; the layer is "
        f"chosen on one half of the pairs and the rate counted on the other; {_PAIRED}",
        "random vectors of the same length at the same layer, mean of the draws, on the same pairs",
        Rule(DROP_SMALLEST),
        measured.spatial_id_swap,
        optional=True,
    ),
    Claim(
        "id_faithful_on_errors",
        "Spatial IDs say what the model answers",
        "readout",
        "Where the model answers wrong, the spatial ID at the object's name agrees with its answer more often than with the truth.",
        "IDs that agree with the truth at least as often.",
        "wrong answers that the nearest ID at the object's name agrees with, at the layer where IDs say the truth of most right ones; "
        f"{_PAIRED}",
        "IDs that agree with the truth, of the same questions",
        Rule(0.0),
        measured.id_faithful,
        counted="wrong answers",
        optional=True,
    ),
    Claim(
        "text_suffices",
        "The question's tokens are enough",
        "readout",
        "Over a grey picture, the model answers from the question's tokens alone, whose residuals are those of the real picture.",
        "Less than 10 points above a guess.",
        f"right answers over a grey picture with the question's residuals of the real one after every language layer; {_PAIRED}",
        "a guess among the candidates",
        Rule(ACCURACY_SMALLEST),
        measured.text_suffices,
        optional=True,
    ),
    Claim(
        "object_to_question_needed",
        "The question's tokens look at the object",
        "routes",
        "The question's tokens must attend to the tokens of the object asked about, in some language layer.",
        "Fewer than 5 points more answers lost than with as many random tokens closed.",
        f"answers lost when the question's tokens no longer attend to the object, in all layers, of pairs answered right; {_PAIRED}",
        "as many random tokens closed, on the same pairs",
        Rule(DROP_SMALLEST),
        measured.route_needed("object_to_question"),
        optional=True,
    ),
    Claim(
        "object_to_answer_needed",
        "The answer's tokens look at the object",
        "routes",
        "The tokens from which the answer is read must attend to the tokens of the object asked about, in some language layer.",
        "Fewer than 5 points more answers lost than with as many random tokens closed.",
        "answers lost when the chat template's last tokens no longer attend to the object, in all layers, of pairs answered right; "
        f"{_PAIRED}",
        "as many random tokens closed, on the same pairs",
        Rule(DROP_SMALLEST),
        measured.route_needed("object_to_answer"),
        optional=True,
    ),
    Claim(
        "text_mediated_share",
        "Text passes the picture on",
        "routes",
        "More answers are lost when the question's tokens no longer see the image than when the answer's tokens no longer do.",
        "More answers lost when the answer's tokens no longer see the image.",
        "damage of closing image → question in all layers, as a share of that and of closing image → answer; Student over pairs; not given "
        "where both damages together have a lower bound below 0.1",
        "½",
        Rule(0.0),
        measured.text_mediated_share,
        optional=True,
    ),
    Claim(
        "fallback",
        "Each route stands in for the other",
        "routes",
        "Closing the image for question and answer at once loses more answers than closing it for each, added up.",
        "A surplus of less than 10 points.",
        f"damage of closing both image routes in all layers, less the damages of closing each; {_STUDENT}",
        "no surplus",
        Rule(BACKUP_SMALLEST),
        measured.fallback,
        unit="change",
        optional=True,
    ),
    Claim(
        "head_sparsity",
        "Few heads fetch the answer",
        "heads",
        "At the last token, a tenth of the language model's attention heads carry what decides most answers.",
        "At most half of the answers become the other run's.",
        "answers that become the other run's own when the tenth of the heads that carries most of it (one head at least, a power of two) "
        f"is replaced at the last token by that run's; heads are ranked on one half of the pairs and counted on the other; {_PAIRED}",
        "as many random heads of the same layers, mean of the draws, on the same pairs",
        Rule(0.0, floor=MOST),
        measured.head_sparsity,
        optional=True,
    ),
    Claim(
        "rotary_dominance",
        "Place is the rotary index",
        "positions",
        "Where two slots' tokens exchange their position ids and nothing else, the answer moves with the ids.",
        "Answers that stay more often than they move.",
        f"(move − stay) / (move + stay) when the strips of two slots exchange their position ids in all language layers; {_PAIRED} of the "
        "share that moves",
        "0",
        Rule(0.0),
        measured.place_is("ids"),
        unit="index",
        counted="pairs that stay or move",
        optional=True,
    ),
    Claim(
        "order_dominance",
        "Place is the turn in the sequence",
        "positions",
        "Where two slots' tokens change their turn in the sequence and keep their position ids, the answer moves with the turn.",
        "Answers that stay more often than they move.",
        "(move − stay) / (move + stay) when the strips of two slots exchange values and position ids, so that the causal order alone "
        f"differs; {_PAIRED} of the share that moves",
        "0",
        Rule(0.0),
        measured.place_is("both"),
        unit="index",
        counted="pairs that stay or move",
        optional=True,
    ),
    Claim(
        "shuffle_sensitivity",
        "Shuffled tokens cost answers",
        "positions",
        "Shuffling all visual tokens, whose position ids stay, costs more answers than shuffling each object's own.",
        "Fewer than 5 points more answers lost.",
        f"answers lost when all visual tokens are shuffled at the connector, of pairs answered right; {_PAIRED}",
        "the tokens of each object shuffled among themselves, on the same pairs",
        Rule(DROP_SMALLEST),
        measured.shuffle_sensitivity,
        optional=True,
    ),
    Claim(
        "language_ordering_peak",
        "Language layers carry position codes",
        "interchange",
        "In a language layer, the objects' tokens carry a code of slot or place, apart from their content. This code is not yet in what "
        "enters the language model. (All pairs use the same three places, so slot and place are one here: see `slot_not_place`.)",
        "A best layer no more than 10 points above the connector, or at which as many answers follow the content.",
        "highest rate of answers that follow the ordering over language layers, intact model: the layer is chosen on one half of the pairs "
        f"and the rate counted on the other, and the other way round; {_PAIRED}, {_CROSSED}",
        "the harder of two, on the same pairs: the same exchange at the connector; answers that follow the place, at the same layer",
        PEAK,
        measured.ordering_peak,
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
        measured.ordering_layer,
        unit="layer",
    ),
    Claim(
        "slot_not_place",
        "Slot, not absolute place",
        "interchange",
        "Objects of layout-decorrelated scenes bring a code of their slot and one of their absolute place, which name different answers. "
        "More answers follow the slot.",
        "Less than 10 points more answers that follow the slot than answers that follow the place.",
        "rate of answers that follow the slot's code, on pairs of layout-decorrelated scenes, at the connector or language layer where "
        f"most follow slot or place, chosen on the other half of the pairs; {_PAIRED}, {_CROSSED}",
        "answers that follow the absolute place, at the same site, on the same pairs",
        PEAK,
        measured.slot_not_place,
    ),
    Claim(
        "ablation_drop",
        "Vision's layout is needed",
        "ablation_accuracy",
        "Removing the layout from the vision output costs accuracy.",
        "A loss of less than 5 points.",
        "accuracy lost on the same test questions under position-neutral re-encoding (under erasure where that was not run); "
        f"{_STUDENT}, adjusted for scenes",
        "the loss where each object is encoded alone in its own place (under erasure of shuffled slots), on the same questions",
        Rule(DROP_SMALLEST),
        measured.ablation_drop,
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
        f"model answers right, layers chosen on halves; {_STUDENT}, {_CROSSED}",
        "0",
        Rule(BACKUP_SMALLEST),
        measured.backup_gain,
        unit="change",
    ),
    Claim(
        "errors_corrected",
        "Amplifying corrects errors",
        "amplification",
        "Scaling the slot signal corrects more of the errors than scaling random subspaces does.",
        "No more than 5 points of the errors above random subspaces.",
        "share of test errors that projection corrects at the site and α that validation chose; exact, adjusted for scenes",
        "the same for random subspaces of equal rank and move, at the site and α that each chose: mean and range of the draws",
        Rule(CORRECTED_SMALLEST),
        measured.errors_corrected,
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
        "the same for random subspaces, each at the site and α that it chose: mean and range of the draws",
        Rule(NET_SMALLEST, floor=0.0),
        measured.net_accuracy,
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
        if claim.optional and needed is None:
            continue
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
        **{f"recovery{end}": getattr(found.recovery, name) for end, name in (("", "estimate"), ("_low", "low"), ("_high", "high"))},
        "smallest": claim.rule.smallest if isinstance(claim.rule, Rule) else None,
        "control": found.control_name or claim.control,
        "counted": claim.counted,
        "method": claim.estimate,
        "p": p if found.estimate.n else None,
        "verdict": claim.judge(found),
    }
