"""Findings: planted counts come back, verdicts follow their rules, and nothing missing crashes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import synthetic_results as synthetic
from vlm_spatial.measures import last_token
from vlm_spatial.measures.claims import BY_NAME, CLAIMS, judged
from vlm_spatial.measures.findings import adjusted, findings
from vlm_spatial.measures.verdicts import Measured, Rule, strata
from vlm_spatial.report.findings_page import document
from vlm_spatial.statistics import Interval, clustered_mean

pytestmark = pytest.mark.unit

NAMES = [claim.name for claim in CLAIMS]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "squares"
    synthetic.write_scenes(folder)
    return folder


@pytest.fixture(scope="module")
def planted(scenes: Path) -> dict[str, pl.DataFrame]:
    return synthetic.tables(scenes, synthetic.STRIP)


@pytest.fixture(scope="module")
def strip(planted: dict[str, pl.DataFrame]) -> dict[str, dict]:
    return {record["claim"]: record for record in adjusted(findings("strip", "squares", judged(planted)))}


@pytest.fixture(scope="module")
def natural(scenes: Path) -> dict[str, dict]:
    return {record["claim"]: record for record in findings("natural", "squares", judged(synthetic.tables(scenes, synthetic.NATURAL)))}


@pytest.mark.slow
def test_every_claim_once_in_the_order_of_the_design(strip: dict[str, dict]) -> None:
    assert list(strip) == NAMES
    named = {"model", "dataset", "claim", "estimate", "low", "high", "n", "control", "difference", "smallest", "strata", "recovery"}
    for record in strip.values():
        assert set(record) == named | {"p", "p_holm", "verdict", "verdict_unadjusted"}
        assert set(record["control"]) == {"name", "estimate", "low", "high", "n"}


@pytest.mark.slow
def test_planted_shares_come_back(strip: dict[str, dict]) -> None:
    # 46 of the 50 pairs of each axis are included; 44 of 46 strip and 5 of 46 object patches flip, 2 of 46 random ones.
    assert strip["strip_flip"]["estimate"] == pytest.approx(88 / 92)
    low, high = binomtest(88, 92).proportion_ci(method="exact")
    assert (strip["strip_flip"]["low"], strip["strip_flip"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert strip["object_flip"]["estimate"] == pytest.approx(10 / 92)
    assert strip["object_flip"]["control"]["estimate"] == pytest.approx(4 / 92)
    # Up to language layer 1 the crosswise exchange of the strips flips as many, in layer 2 half of them.
    assert strip["crosswise_strip_flip"]["estimate"] == pytest.approx(88 / 92)
    assert strip["crosswise_object_flip"]["estimate"] == pytest.approx(10 / 92)
    assert strip["crosswise_last_layer"]["estimate"] == 1
    # In layer 3, 37 of 46 follow the slot and 5 are the source's own answer; in layer 4 41 are, then all.
    slot, takeover = strip["last_token_slot"], strip["last_token_takeover"]
    assert (slot["estimate"], slot["control"]["estimate"]) == (pytest.approx(37 / 46), pytest.approx(5 / 46))
    assert (takeover["estimate"], takeover["low"], takeover["high"]) == (4, 4, 4)
    assert (slot["verdict"], takeover["verdict"]) == ("supported", "supported")


def test_layers_of_the_last_token_are_those_at_which_most_pairs_surely_follow(planted: dict[str, pl.DataFrame]) -> None:
    table = planted["interchange"]
    found = {row["outcome"]: row for row in last_token.layers(table).filter(axis="horizontal").iter_rows(named=True)}
    # 23 of 46 follow the slot in layer 2, 37 in layer 3; 41 are the source's own in layer 4, all in layer 5.
    assert [found["ordinal"][name] for name in ("measure", "estimate", "low", "high", "n")] == ["ordinal_layers", 3, 3, 3, 46]
    assert [found["attribute"][name] for name in ("measure", "estimate", "low", "high", "n")] == ["attribute_layers", 5, 4, 5, 46]
    # Cut off before layer 4, nothing takes over, and the last layer may be it.
    before = last_token.takeover(last_token.carried(table.filter(pl.col("layer") < 4)))
    assert math.isnan(before.estimate)
    assert last_token.layers(table.filter(pl.col("layer") < 3)).filter(axis="horizontal")["estimate"].is_null().all()
    assert last_token.layers(None).is_empty()


def test_claims_on_patches_say_how_far_the_log_odds_move(strip: dict[str, dict]) -> None:
    """An answer that flips goes the whole way from −3 to 3 here, one that stays goes none of it: recovery is the rate."""
    for claim in ("strip_flip", "object_flip", "crosswise_strip_flip", "crosswise_object_flip", "language_ordering_peak", "slot_not_place"):
        found = strip[claim]["recovery"]
        assert found["estimate"] == pytest.approx(strip[claim]["estimate"]), claim
        assert found["low"] < found["estimate"] < found["high"] or found["estimate"] in (0, 1)
    for claim in ("accuracy", "ablation_drop", "backup_gain", "net_accuracy"):
        assert strip[claim]["recovery"] == {"estimate": None, "low": None, "high": None}
    # 5 of 46 conflict answers move: (41 - 5) / 46.
    assert strip["dominance"]["estimate"] == pytest.approx(36 / 46)
    assert strip["dominance"]["n"] == 92
    # 60 questions an axis, 54 right; ablated 30 right.
    assert strip["accuracy"]["estimate"] == pytest.approx(0.9)
    assert strip["accuracy"]["n"] == 40
    assert strip["accuracy"]["control"]["estimate"] == pytest.approx(1 / 3)
    assert strip["ablation_drop"]["estimate"] == pytest.approx(0.4)
    # 14 of 46 follow the ordering in layer 2; ablated 37 of 46 in layer 3, none at the connector either way.
    assert strip["language_ordering_peak"]["estimate"] == pytest.approx(14 / 46)
    assert strip["language_peak_layer"]["estimate"] == 2
    assert strip["backup_gain"]["estimate"] == pytest.approx((37 - 14) / 46)
    # 12 test errors, 7 of them corrected at alpha 3; none broken, of 120 questions.
    assert strip["errors_corrected"]["estimate"] == pytest.approx(7 / 12)
    assert strip["errors_corrected"]["n"] == 12
    assert strip["net_accuracy"]["estimate"] == pytest.approx(7 / 120)
    assert "alpha 3 at connector" in strip["net_accuracy"]["control"]["name"]
    # The mean of two axes, each 0.9 ± 0.04: the half-width shrinks by the root of two.
    assert strip["slot_probe_background"]["estimate"] == pytest.approx(0.9)
    assert strip["slot_probe_background"]["high"] - 0.9 == pytest.approx(0.04 / math.sqrt(2))


def test_verdicts_of_the_papers_pattern(strip: dict[str, dict]) -> None:
    refuted = {name for name, record in strip.items() if record["verdict"] == "refuted"}
    assert refuted == {"object_flip", "crosswise_object_flip", "object_to_answer_needed", "order_dominance"}
    # Seven of twelve errors are corrected, but all of them in four scenes.
    assert {name for name, record in strip.items() if record["verdict"] == "inconclusive"} == {"errors_corrected", "net_accuracy"}
    assert strip["net_accuracy"]["low"] < 0


@pytest.mark.slow
def test_verdicts_of_a_model_that_reads_position_in_the_language_model(natural: dict[str, dict]) -> None:
    wanted = {"strip_flip": "supported", "object_flip": "supported", "dominance": "refuted", "slot_probe_background": "inconclusive"}
    wanted |= {"language_ordering_peak": "supported", "ablation_drop": "inconclusive", "backup_gain": "refuted"}
    # Two errors tell nothing, and forty scenes can exclude neither a loss of five points nor a gain of one.
    wanted |= {"errors_corrected": "inconclusive", "net_accuracy": "inconclusive"}
    assert {name: natural[name]["verdict"] for name in wanted} == wanted


def test_no_tables_and_empty_tables_are_inconclusive(planted: dict[str, pl.DataFrame]) -> None:
    for tables in ({}, {name: table.head(0) for name, table in planted.items()}):
        for record in findings("m", "d", judged(tables)):
            assert (record["verdict"], record["n"], record["estimate"], record["low"]) == ("inconclusive", 0, None, None), record["claim"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing", ["behaviour", "probes", "interchange", "conflict", "ablation_sweep", "ablation_accuracy", "amplification"]
)
def test_each_table_alone_may_be_missing(planted: dict[str, pl.DataFrame], missing: str) -> None:
    tables = dict(planted)
    del tables[missing]
    for record in findings("m", "d", judged(tables)):
        # The gain is that of the ablated sweep over the intact one.
        needed = BY_NAME[record["claim"]].needs == missing or (record["claim"], missing) == ("backup_gain", "interchange")
        assert (record["n"] == 0) == needed, record["claim"]


@pytest.mark.slow
def test_nothing_included_is_inconclusive(planted: dict[str, pl.DataFrame]) -> None:
    tables = dict(planted)
    tables = {name: t.with_columns(included=False) if "included" in t.columns else t for name, t in tables.items()}
    found = {record["claim"]: record for record in findings("m", "d", judged(tables))}
    for name in ("strip_flip", "object_flip", "dominance", "language_ordering_peak", "language_peak_layer", "backup_gain"):
        assert (found[name]["verdict"], found[name]["n"], found[name]["estimate"]) == ("inconclusive", 0, None), name


@pytest.mark.slow
def test_no_errors_to_correct(planted: dict[str, pl.DataFrame]) -> None:
    tables = dict(planted)
    tables["amplification"] = tables["amplification"].with_columns(correct=True, correct_before=True)
    found = {record["claim"]: record for record in findings("m", "d", judged(tables))}
    assert (found["errors_corrected"]["verdict"], found["errors_corrected"]["n"]) == ("inconclusive", 0)
    assert (found["net_accuracy"]["estimate"], found["net_accuracy"]["verdict"]) == (None, "inconclusive")


@pytest.mark.slow
def test_no_peak_has_no_layer(planted: dict[str, pl.DataFrame]) -> None:
    tables = dict(planted)
    flat = tables["interchange"].with_columns(
        outcome=pl.when(pl.col("experiment") == "language").then(pl.lit("stay")).otherwise(pl.col("outcome"))
    )
    found = {record["claim"]: record for record in findings("m", "d", judged(tables | {"interchange": flat}))}
    assert found["language_ordering_peak"]["verdict"] == "refuted"
    assert (found["language_peak_layer"]["verdict"], found["language_peak_layer"]["estimate"]) == ("inconclusive", None)


@pytest.mark.slow
def test_the_best_control_counts(planted: dict[str, pl.DataFrame]) -> None:
    """Absolute position that explains the background score must take the verdict with it."""
    tables = dict(planted)
    known_by_place = (pl.col("kind") == "other_scene") & (pl.col("token_set") == "background")
    tables["probes"] = tables["probes"].with_columns(
        accuracy=pl.when(known_by_place).then(0.89).otherwise(pl.col("accuracy")),
        low=pl.when(known_by_place).then(0.85).otherwise(pl.col("low")),
        high=pl.when(known_by_place).then(0.93).otherwise(pl.col("high")),
    )
    record = next(r for r in findings("m", "d", judged(tables)) if r["claim"] == "slot_probe_background")
    assert record["control"]["name"] == "the probe's answers for the same cells of other scenes"
    assert record["difference"]["estimate"] == pytest.approx(0.01)
    assert record["verdict"] == "inconclusive"


@pytest.mark.slow
def test_findings_are_the_same_every_time_and_plain_json(planted: dict[str, pl.DataFrame]) -> None:
    tables = dict(planted)
    shuffled = {name: table.sample(fraction=1.0, shuffle=True, seed=3) for name, table in tables.items()}
    first, again, other = (json.dumps(findings("m", "d", judged(t)), allow_nan=False) for t in (tables, tables, shuffled))
    assert first == again
    # The order of rows in a table carries no meaning: estimates agree, resampled limits nearly.
    for one, two in zip(json.loads(first), json.loads(other), strict=True):
        assert one["estimate"] == pytest.approx(two["estimate"]), one["claim"]
        assert one["verdict"] == two["verdict"], one["claim"]


shares = st.floats(0, 1)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, estimate, high = sorted(draw(st.tuples(shares, shares, shares)))
    return Interval(estimate, low, high, 10)


RULES = [claim for claim in CLAIMS if isinstance(claim.rule, Rule)]


@given(intervals(), intervals(), st.sampled_from([claim.name for claim in RULES]))
def test_a_verdict_never_contradicts_its_interval(estimate: Interval, difference: Interval, name: str) -> None:
    rule = BY_NAME[name].rule
    assert isinstance(rule, Rule)
    shifted = Interval(*(2 * value - 1 for value in (difference.estimate, difference.low, difference.high)), 10)
    verdict = rule.judge(Measured(estimate, estimate, "c", shifted, 0.01))
    if verdict == "supported":
        assert shifted.low > 0
        assert rule.floor is None or estimate.low > rule.floor
    if verdict == "refuted":
        # The interval excludes the smallest effect of interest.
        assert (shifted.high < rule.smallest) if rule.floor is None else (estimate.high < rule.floor + rule.smallest)
    few = Interval(estimate.estimate, estimate.low, estimate.high, 9)
    assert rule.judge(Measured(few, few, "c", shifted, 0.01)) == "inconclusive"


def records(*p_values: float | None, verdict: str = "supported") -> list[dict]:
    return [{"model": "m", "dataset": str(place), "claim": "dominance", "p": p, "verdict": verdict} for place, p in enumerate(p_values)]


def test_verdicts_are_adjusted_over_the_whole_report() -> None:
    found = adjusted(records(0.001, 0.02, 0.04, None))
    assert [record["p_holm"] for record in found] == pytest.approx([0.003, 0.04, 0.04, None])
    assert [record["verdict"] for record in found] == ["supported"] * 4
    more = adjusted(records(0.001, 0.03, 0.04, None))
    assert [record["verdict"] for record in more] == ["supported", "inconclusive", "inconclusive", "supported"]
    assert {record["verdict_unadjusted"] for record in more} == {"supported"}


def of_strata(shares: list[float], each: int) -> Measured:
    """One stratum a share, ``each`` pairs in it, of which that share follows the ordering; nothing does at the connector."""
    values = [float(pair < round(share * each)) for share in shares for pair in range(each)]
    names = [f"{place}↔{place + 1}" for place in range(len(shares)) for _ in range(each)]
    table = pl.DataFrame({"axis": "horizontal", "template": "slot_to_object", "exchange": names, "value": values})
    difference, p = clustered_mean(table["value"].to_numpy())
    return Measured(difference, Interval(0, 0, 0, 0), "c", difference, p, table)


def test_strata_are_the_same_at_every_call_and_in_every_order_of_the_pairs() -> None:
    """A table of counts has the order of a hash table unless it is sorted, and permutations depend on it."""
    found = of_strata([0.2, 0.4, 0.5, 0.6, 0.8, 0.5, 0.4, 0.6], 12)
    assert found.values is not None
    wanted = strata(found)
    for seed in range(10):
        shuffled = replace(found, values=found.values.sample(fraction=1, shuffle=True, seed=seed))
        again = strata(shuffled)
        assert wanted is not None
        assert again is not None
        assert (again.p, again.disagree) == (wanted.p, wanted.disagree)
        assert again.means.equals(wanted.means)


def test_strata_that_disagree_are_mixed() -> None:
    """A natural organism's ordering was 100%, 78% and 62% in three of twelve strata and 0 in nine; the pooled verdict was supported."""
    natural = strata(of_strata([1.0, 0.78, 0.62, *[0.0] * 9], 9))
    assert natural is not None
    assert natural.disagree
    assert natural.means.height == 12
    alike = strata(of_strata([0.56] * 12, 9))
    assert alike is not None
    assert not alike.disagree
    # All show the effect, some more than others.
    both = strata(of_strata([1.0, 0.5, 0.5, 0.4], 30))
    assert both is not None
    assert both.p < 0.01
    assert not both.disagree


def test_the_document_is_what_the_code_says() -> None:
    path = Path(__file__).parent.parent / "docs" / "findings.md"
    assert path.read_text(encoding="utf-8") == document(), "run: python -m vlm_spatial.report.findings_page > docs/findings.md"
