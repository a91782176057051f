"""Conclusions that once were wrong: the tables that led to them, and what follows from these now."""

import numpy as np
import polars as pl
import pytest
from benchmarks.simulated.tables import pairs_table

from vlm_spatial.measures.claims import judged
from vlm_spatial.measures.findings import adjusted, findings
from vlm_spatial.report.conclusions import by_claim, sentences

pytestmark = pytest.mark.unit

EXCHANGES = [[0, 1], [1, 2], [2, 0], [1, 0], [2, 1], [0, 2]]


def first(n: int, of: int, outcome: str) -> np.ndarray:
    return np.array([outcome] * n + ["stay"] * (of - n))


def record(name: str, tables: dict[str, pl.DataFrame]) -> dict:
    return judged(tables).filter(experiment="claims", measure=name).row(0, named=True)


def planted_strip(**flips: int) -> pl.DataFrame:
    return pairs_table("vision", {("intact", "connector", name): first(count, 40, "flip") for name, count in flips.items()}).with_columns(
        object_tokens=pl.lit(4)
    )


def test_the_planted_strip_organism_is_supported_against_tokens_outside_the_strips() -> None:
    # As many random cells as two of three strips have are most of the picture: they flip 38 of 40, and the strips all.
    found = record("strip_flip", {"interchange": planted_strip(strip=40, random=38, random_strip=0)})
    assert (found["verdict"], found["estimate"], found["control_estimate"]) == ("supported", 1.0, 0.0)
    # Held against cells of the whole picture it would stay open.
    assert record("strip_flip", {"interchange": planted_strip(strip=40, random=38)})["verdict"] == "inconclusive"


def test_that_most_answers_change_is_not_refuted_by_a_control_that_covers_the_object() -> None:
    covered = record("object_flip", {"interchange": planted_strip(object=28, random=36)})
    assert covered["verdict"] == "inconclusive"
    assert record("object_flip", {"interchange": planted_strip(object=28, random=36, random_object=2)})["verdict"] == "supported"
    assert record("object_flip", {"interchange": planted_strip(object=8, random=36, random_object=2)})["verdict"] == "refuted"


@pytest.mark.parametrize(("right", "verdict"), [(5, "inconclusive"), (9, "inconclusive"), (60, "supported")])
def test_survivors_of_an_ablation_bear_no_verdict(right: int, verdict: str) -> None:
    """Of a planted vision organism 5 pairs were still right under the ablation; it was reported as n = 100, refuted."""

    def sweep(condition: str, included: int, follow: int) -> pl.DataFrame:
        sites = {(condition, site, "object"): first(rate, 100, "ordering") for site, rate in (("connector", 0), ("language.0", follow))}
        return pairs_table("language", sites).with_columns(included=pl.col("pair_id") < f"{included:05d}")

    # The intact model answers `right` pairs; under the ablation five are right, whichever they are.
    found = record("backup_gain", {"interchange": sweep("intact", right, 0), "ablation_sweep": sweep("neutral", 5, 40)})
    assert (found["n"], found["verdict"]) == (right, verdict)


def test_a_natural_organism_with_opposite_strata_is_mixed() -> None:
    """Ordering was 100%, 78% and 62% in three of twelve strata and 0 in nine, where answers followed the place; pooled it was supported."""
    rates = {0: 9, 1: 7, 2: 6}
    slots, outcomes = [], []
    for stratum in range(12):
        slots += [EXCHANGES[stratum % 6]] * 9
        outcomes.append(np.array((["ordering"] * rates.get(stratum, 0) + ["stay"] * 9)[:9]))
    sites = {("intact", "connector", "object"): first(0, 108, "ordering"), ("intact", "language.0", "object"): np.concatenate(outcomes)}
    axis = pl.when(pl.col("pair_id") < "00054").then(pl.lit("horizontal")).otherwise(pl.lit("vertical"))
    pairs = pl.DataFrame({"pair_id": [f"{place:05d}" for place in range(108)], "slots": slots})
    found = record("language_ordering_peak", {"interchange": pairs_table("language", sites).with_columns(axis=axis), "pairs": pairs})
    assert found["estimate"] == pytest.approx(22 / 108)
    assert found["difference_low"] > 0
    assert found["verdict"] == "mixed"


@pytest.mark.parametrize(
    ("slot", "place", "words"),
    [
        (60, 2, "answers follow the slot. "),
        (2, 60, "no more follow the slot: what is said of slots may be of places. "),
        (31, 31, "are not told apart: what is said of slots may be of places. "),
        (None, None, "were not held against each other: what is said of slots may be of places."),
    ],
)
def test_the_report_says_whether_slot_and_place_were_told_apart(slot: int | None, place: int | None, words: str) -> None:
    """That the language model holds an order of its own was said of pairs in which slot and place are one."""
    tables = {"conflict": pairs_table("conflict", {("intact", "connector", "strip"): first(60, 64, "move")})}
    if slot is not None and place is not None:
        answers = np.array(["ordering"] * slot + ["absolute"] * place + ["stay"] * (64 - slot - place))
        sites = ("connector", "language.0", "language.1")
        tables["interchange"] = pairs_table("displaced", {("intact", site, "object"): answers for site in sites})
    found = by_claim(adjusted(findings("m", "d", judged(tables))), "m", "d")
    [said] = [sentence for sentence in sentences(found) if "absolute place" in sentence]
    assert words in said
