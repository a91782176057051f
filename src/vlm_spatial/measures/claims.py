"""The claims: for every one what it says, how it is measured, and the rule of its verdict.

One table, :data:`CLAIMS`, holds them all; ``docs/findings.md`` is written from it. How each is measured is in
``measures/claim_measures.py``, what becomes of them in a report in ``measures/findings.py``.
"""

from collections.abc import Mapping

import polars as pl

from vlm_spatial.measures import behaviour, crosswise
from vlm_spatial.measures import claim_measures as measured
from vlm_spatial.measures.claim import CROSSED, PAIRED, STUDENT, Claim
from vlm_spatial.measures.claim_measures import PEAK, Tables
from vlm_spatial.measures.reading_claims import READING
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
    strata,
)

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
        f"flip rate of the strip at the connector, included pairs of both axes; {PAIRED}",
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
        f"flip rate of the object tokens at the connector, included pairs of both axes; {PAIRED}",
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
        f"flip rate of the crosswise exchange of the strips at the connector, included pairs of both axes; {PAIRED}",
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
        f"half of the pairs and the rate counted on the other, and the other way round; {PAIRED}, {CROSSED}",
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
        f"and the other way round; {PAIRED}, {CROSSED}",
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
        f"(stay − move) / (stay + move) when the strips of two slots are exchanged at the connector; {PAIRED} of the share that stays",
        "0",
        Rule(0.0),
        measured.dominance,
        unit="index",
        counted="pairs that stay or move",
    ),
    *READING,
    Claim(
        "language_ordering_peak",
        "Language layers carry position codes",
        "interchange",
        "In a language layer, the objects' tokens carry a code of slot or place, apart from their content. This code is not yet in what "
        "enters the language model. (All pairs use the same three places, so slot and place are one here: see `slot_not_place`.)",
        "A best layer no more than 10 points above the connector, or at which as many answers follow the content.",
        "highest rate of answers that follow the ordering over language layers, intact model: the layer is chosen on one half of the pairs "
        f"and the rate counted on the other, and the other way round; {PAIRED}, {CROSSED}",
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
        f"most follow slot or place, chosen on the other half of the pairs; {PAIRED}, {CROSSED}",
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
        f"{STUDENT}, adjusted for scenes",
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
        f"model answers right, layers chosen on halves; {STUDENT}, {CROSSED}",
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
        f"{STUDENT}, adjusted for scenes; none where there is no error",
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
