"""Sentences that follow from the verdicts; none is written by hand for a result."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from vlm_spatial.figures import merge_effect
from vlm_spatial.figures.ablated import VISION, points
from vlm_spatial.figures.figure import BOTH
from vlm_spatial.measures.flips import COMPLEMENTARY, NOTHING_LEFT, OPEN, REDUNDANT
from vlm_spatial.report.numbers import shown, with_interval

Records = Mapping[str, dict[str, Any]]
"""One model's findings on one dataset, by claim."""


def by_claim(records: Sequence[dict[str, Any]], model: str, dataset: str) -> Records:
    return {record["claim"]: record for record in records if record["model"] == model and record["dataset"] == dataset}


def headline(found: Records) -> str:
    """Two sentences: which mechanism decides, and where it sits."""
    return f"{answer(found)} {carriers(found)}"


def answer(found: Records) -> str:
    """The answer to the report's question in one sentence: which mechanism decides."""
    return f"{_decides(found)}."


def carriers(found: Records) -> str:
    """Which tokens carry the content to the answer, in one sentence."""
    return f"{_spread(found)}."


def how_sure(found: Records) -> str:
    """What the answer rests on: how many pairs, p of its test, strata."""
    record = found["dominance"]
    if record["n"] == 0:
        return "not measured"
    said = [f"{record['n']} pairs"]
    if record["p_holm"] is not None:
        said.append(f"p = {record['p_holm']:.2g} after Holm over all claims")
    if record["strata"] is not None:
        strata = record["strata"]
        said.append(f"{strata['number']} strata, from {shown(strata['lowest'], 'index')} to {shown(strata['highest'], 'index')}")
    return "; ".join(said)


def sentences(found: Records) -> list[str]:
    """The rest: the language model's own order, what is known of slots apart from places, the backup, the correction."""
    every = (_accuracy, _background, _order, _slot, _backup, _correction)
    return [sentence for said in every if (sentence := said(found))]


def two_by_two(ablated: pl.DataFrame) -> str:
    """Whether the two mechanisms stand in for each other, from one dataset's rows of the ablation figure; empty if not measured."""
    both = ablated.drop_nulls("beyond").filter(axis=BOTH) if "beyond" in ablated.columns else ablated.clear()
    for vision in ("neutral", "erasure"):
        for row in both.filter(condition=VISION[vision]).iter_rows(named=True) if not both.is_empty() else ():
            words = {
                REDUNDANT: "each mechanism can stand in for the other",
                COMPLEMENTARY: "the two mechanisms are needed at once",
                OPEN: "whether the two mechanisms are redundant or complementary stays open",
                NOTHING_LEFT: "one alone leaves no more than a guess, so that it cannot be told whether one stands in for the other",
            }[row["reading"]]
            cost = f"Both ablations together ({VISION[vision]}, ordering erased in the language model) cost {points(row)}"
            return f"{cost} beyond the sum of each alone (n = {row['n']} scenes): {words}."
    return ""


def merging(rows: pl.DataFrame) -> str:
    """What merging alone does to photos, from one dataset's rows of the merge figure; empty for drawn scenes."""
    if rows.is_empty():
        return ""
    for row in rows.filter(series=merge_effect.DIFFERENCE, template=merge_effect.ALL).iter_rows(named=True):
        asked = f"n = {row['n']} questions about {row['pictures']} photos"
        return f"Merging a photo with itself changes accuracy by {merge_effect.points(row)} ({asked})."
    return ""


def _decides(found: Records) -> str:
    record = found["dominance"]
    if record["n"] == 0:
        return "Whether the vision code or the token's place decides was not measured"
    number = f"dominance {with_interval(record)}"
    return {
        "supported": f"Position is read from the vision code: {number}",
        "refuted": f"Position is read from the token's place in the sequence: {number}",
        "mixed": f"Strata disagree on whether position is read from the vision code or the place: {number} over all of them",
        "inconclusive": f"Vision code and place are not told apart: {number}",
    }[record["verdict"]]


def _spread(found: Records) -> str:
    strip, alone = found["strip_flip"], found["object_flip"]
    if strip["n"] == 0 or alone["n"] == 0:
        return "Which tokens carry the content to the answer was not measured"
    rates = [shown(value, "share") for value in (alone["estimate"], strip["estimate"], alone["control"]["estimate"])]
    numbers = f"answers flipped: object alone {rates[0]}, strip {rates[1]}, random {rates[2]}"
    match strip["verdict"], alone["verdict"]:
        case "supported", "refuted":
            return f"The strips' tokens carry the content to the answer, the objects' own tokens alone do not ({numbers})"
        case "supported", "supported":
            return f"The objects' own tokens are enough to carry the content to the answer ({numbers})"
        case "refuted", "refuted":
            return f"Neither object nor strip tokens change most answers ({numbers})"
    return f"Which tokens carry the content to the answer stays open ({numbers})"


def _accuracy(found: Records) -> str:
    record = found["accuracy"]
    if record["n"] == 0:
        return ""
    guess = shown(record["control"]["estimate"], "share")
    return f"The untouched model answers {with_interval(record)} right; a guess would be right {guess} of the time."


def _background(found: Records) -> str:
    record = found["slot_probe_background"]
    if record["n"] == 0:
        return ""
    control = f"best control, {record['control']['name']}: {shown(record['control']['estimate'], 'share')}"
    words = {
        "supported": "Background tokens say their slot beyond what the controls explain",
        "refuted": "Background tokens say nothing of the slot that the controls do not explain",
        "mixed": "On some axes background tokens say their slot beyond the controls, on others not",
        "inconclusive": "Whether background tokens know their slot stays open",
    }[record["verdict"]]
    return f"{words}: {shown(record['estimate'], 'share')} ({control})."


def _order(found: Records) -> str:
    peak, layer = found["language_ordering_peak"], found["language_peak_layer"]
    if peak["n"] == 0:
        return ""
    where = "" if layer["estimate"] is None else f", at its height in layer {shown(layer['estimate'], 'layer')}"
    words = {
        "supported": f"Language layers carry a code of slot or place apart from content that does not enter them{where}",
        "refuted": "Language layers carry no code of slot or place beyond what enters them",
        "mixed": f"In some strata language layers carry a code of slot or place that does not enter them, in others not{where}",
        "inconclusive": "Whether language layers carry a code of slot or place beyond what enters them stays open",
    }[peak["verdict"]]
    return f"{words}: {with_interval(peak)} of answers follow it; at the connector {shown(peak['control']['estimate'], 'share')}."


def _slot(found: Records) -> str:
    record = found["slot_not_place"]
    if record["n"] == 0:
        measured = found["dominance"]["n"] or found["language_ordering_peak"]["n"]
        return "Slot and absolute place were not held against each other: what is said of slots may be of places." if measured else ""
    words = {
        "supported": "Where slot and absolute place name different answers, answers follow the slot",
        "refuted": "Where slot and absolute place name different answers, no more follow the slot: what is said of slots may be of places",
        "mixed": "Where slot and absolute place name different answers, they follow the slot in some strata and not in others",
        "inconclusive": "Slot and absolute place are not told apart: what is said of slots may be of places",
    }[record["verdict"]]
    place = shown(record["control"]["estimate"], "share")
    return f"{words}. {with_interval(record)} of answers follow the slot, {place} the place."


def _backup(found: Records) -> str:
    drop, gain = found["ablation_drop"], found["backup_gain"]
    if drop["n"] == 0 and gain["n"] == 0:
        return ""
    lost = (
        ""
        if drop["estimate"] is None
        else f"Without the layout in the vision output accuracy changes by {shown(-drop['estimate'], 'change')}"
    )
    words = {
        "supported": "the language layers then add more of the position code",
        "refuted": "the language layers add no more of the position code",
        "mixed": "the language layers add more of the position code in some strata and not in others",
        "inconclusive": "whether the language layers add more of the position code stays open",
    }[gain["verdict"]]
    number = "" if gain["estimate"] is None else f": ordering gained {with_interval(gain)}"
    return f"{lost}; {words}{number}." if lost else f"{words[0].upper()}{words[1:]}{number}."


def _correction(found: Records) -> str:
    corrected, net = found["errors_corrected"], found["net_accuracy"]
    if net["n"] == 0:
        return ""
    if corrected["n"] == 0:
        return "There were no errors for amplification to correct."
    words = {
        "supported": "Amplifying the vision signal corrects errors that random pushes do not",
        "refuted": "Amplifying the vision signal corrects no more errors than random pushes do",
        "mixed": "Amplifying the vision signal corrects errors in some strata and not in others",
        "inconclusive": "Whether amplification corrects errors stays open",
    }[corrected["verdict"]]
    return f"{words}: {with_interval(corrected)} of the errors, net accuracy {with_interval(net)}."
