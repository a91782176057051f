"""Summaries of hand-made intervention tables, whose numbers can be counted by eye."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_spatial.figures import ablated
from vlm_spatial.figures.figure import BOTH
from vlm_spatial.figures.flips import language_rows, vision_rows
from vlm_spatial.measures import flips
from vlm_spatial.measures import interventions as summaries
from vlm_spatial.measures.amplification import random_corrected_share, random_net
from vlm_spatial.measures.paired import against
from vlm_spatial.report.conclusions import two_by_two
from vlm_spatial.statistics import binomial_limits, holm

pytestmark = pytest.mark.unit

COUNTS = st.just(0.0) | st.floats(0.01, 300)
"""Of an adjusted sample; they need not be whole."""

COLUMNS = {
    "pair_id": pl.String,
    "experiment": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "condition": pl.String,
    "site": pl.String,
    "layer": pl.Int32,
    "token_set": pl.String,
    "source": pl.String,
    "included": pl.Boolean,
    "outcome": pl.String,
}


def rows(
    experiment: str,
    outcomes: Sequence[str],
    *,
    site: str = "connector",
    token_set: str = "object",
    condition: str = "intact",
    source: str = "counterfactual",
    axis: str = "horizontal",
    included: Sequence[bool] | None = None,
) -> pl.DataFrame:
    """One row a pair: pair number k of the experiment has outcome k."""
    count = len(outcomes)
    return pl.DataFrame(
        {
            "pair_id": [f"{experiment}-{axis}-{index:05d}" for index in range(count)],
            "experiment": experiment,
            "axis": axis,
            "template": "slot_to_object",
            "condition": condition,
            "site": site,
            "layer": None if site == "connector" else int(site.split(".")[1]),
            "token_set": token_set,
            "source": source,
            "included": [True] * count if included is None else list(included),
            "outcome": list(outcomes),
        },
        schema=COLUMNS,
    )


def language(rates: dict[str, Sequence[int]], condition: str = "intact", pairs: int = 10) -> pl.DataFrame:
    """At each site the pairs listed follow the ordering, the others stay."""
    return pl.concat(
        rows("language", ["ordering" if pair in hits else "stay" for pair in range(pairs)], site=site, condition=condition)
        for site, hits in rates.items()
    )


def test_flip_rate_counts_included_pairs_of_one_cell_of_the_table() -> None:
    table = pl.concat(
        [
            rows("vision", ["flip", "flip", "stay", "other", "flip"], token_set="strip", included=[True, True, True, True, False]),
            rows("vision", ["flip"] * 5, token_set="object"),
            rows("vision", ["stay"] * 5, token_set="strip", source="unrelated"),
            rows("vision", ["stay"] * 5, token_set="strip", site="vision.0"),
        ]
    )
    found = summaries.flip_rate(table, "strip")
    assert (found.estimate, found.n) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx((0.0676, 0.9324), abs=1e-4)  # exact, 2 of 4
    assert summaries.flip_rate(table, "object").estimate == 1
    assert summaries.flip_rate(table, "strip", source="unrelated").estimate == 0
    assert summaries.flip_rate(table, "strip", site="vision.0").estimate == 0
    assert summaries.flip_rate(table, "rim").n == 0
    assert summaries.excluded(table, "vision") == 1


def test_rates_has_one_row_a_group_and_agrees_with_flip_rate() -> None:
    table = pl.concat(
        [rows("vision", ["flip", "stay"], token_set="strip"), rows("conflict", ["move", "stay", "stay", "other"], token_set="strip")]
    )
    found = summaries.rates(table, by=("token_set",))
    assert found.select("experiment", "token_set", "estimate", "n").rows() == [("vision", "strip", 0.5, 2), ("conflict", "strip", 0.25, 4)]
    assert found["low"][0] == summaries.flip_rate(table, "strip").low


def test_dominance() -> None:
    table = rows("conflict", ["stay"] * 6 + ["move"] * 2 + ["other"] * 2 + ["move"], token_set="strip", included=[True] * 10 + [False])
    found = summaries.dominance(table)
    assert (found.estimate, found.n) == (0.5, 8)
    assert -1 <= found.low < 0.5 < found.high <= 1
    vision = summaries.dominance(rows("conflict", ["stay"] * 50, token_set="strip"))
    # Fifty of fifty: the exact interval of the share is 0.025 to the power of 1/50, to 1.
    assert (vision.estimate, vision.low, vision.high) == (1, pytest.approx(2 * 0.025 ** (1 / 50) - 1), 1)
    assert summaries.dominance(rows("conflict", ["move"] * 50, token_set="object"), "object").estimate == -1
    assert summaries.dominance(rows("conflict", ["other"] * 5, token_set="strip")).n == 0


def test_ordering_peak_is_the_best_layer_not_the_connector() -> None:
    table = language({"connector": range(10), "language.0": [0], "language.1": [0, 1, 2, 3, 4, 5], "language.10": [0, 1]})
    rate = summaries.ordering_peak(table)
    assert (rate.estimate, rate.n) == (0.6, 10)
    assert rate.low < 0.6 < rate.high
    layer = summaries.ordering_peak_layer(table)
    assert layer.estimate == 1
    assert layer.low >= 0
    assert layer.high <= 10
    assert summaries.ordering_rate(table, "connector").estimate == 1
    assert summaries.ordering_rate(table, "language.10").estimate == 0.2


@pytest.mark.slow
def test_the_peak_of_pure_noise_is_no_higher_than_the_noise() -> None:
    """Forty layers at which one answer in ten follows the ordering by accident: their maximum would be near one in four."""
    generator = np.random.default_rng(0)
    peaks, highest = [], []
    for _ in range(20):
        hits = {f"language.{layer}": np.flatnonzero(generator.random(40) < 0.1).tolist() for layer in range(40)}
        peaks.append(summaries.ordering_peak(language(hits, pairs=40)).estimate)
        highest.append(max(len(of_layer) for of_layer in hits.values()) / 40)
    assert np.mean(highest) > 0.2
    assert np.mean(peaks) == pytest.approx(0.1, abs=0.035)


def test_peak_layer_is_certain_where_one_layer_alone_orders() -> None:
    layer = summaries.ordering_peak_layer(language({"language.0": [], "language.3": range(10), "language.5": []}))
    assert (layer.estimate, layer.low, layer.high) == (3, 3, 3)


def test_no_ordering_means_no_peak_layer() -> None:
    layer = summaries.ordering_peak_layer(language({"language.0": [], "language.1": []}))
    assert np.isnan(layer.estimate)
    assert layer.n == 10


def test_random_cells_do_not_count_as_ordering() -> None:
    table = pl.concat([language({"language.0": []}), rows("language", ["ordering"] * 10, site="language.0", token_set="random")])
    assert summaries.ordering_peak(table).estimate == 0
    assert summaries.ordering_rate(table, "language.0", token_set="random").estimate == 1


def test_backup_gain_is_what_the_layers_add_ablated_minus_intact() -> None:
    table = pl.concat(
        [
            language({"connector": [0, 1, 2, 3], "language.0": [0], "language.1": [0, 1, 2, 3, 4]}),  # adds 0.1
            language({"connector": [0], "language.0": range(7), "language.1": [1]}, "neutral"),  # adds 0.6
        ]
    )
    found = summaries.backup_gain(table)
    assert found.estimate == pytest.approx(0.5)
    assert found.n == 10
    assert found.low < 0.5 < found.high
    assert summaries.backup_gain(table, "erasure").n == 0


def test_backup_gain_looks_at_the_pairs_that_the_intact_model_answers_right() -> None:
    """A planted vision organism had five survivors of the ablation: to look at them alone would be to choose by what was done."""
    survivors = pl.col("pair_id") < "language-horizontal-00003"
    ablated = language({"connector": [], "language.0": [0, 1]}, "neutral").with_columns(included=survivors)
    intact = language({"connector": range(10), "language.0": range(10)})
    found = summaries.backup_gain(pl.concat([intact, ablated]))
    # Two of ten follow the ordering under the ablation, not two of three.
    assert (found.estimate, found.n) == (pytest.approx(0.2), 10)
    fewer = intact.with_columns(included=pl.col("pair_id") < "language-horizontal-00005")
    assert summaries.backup_gain(pl.concat([fewer, ablated])).n == 5


def test_a_plateau_is_given_as_a_plateau() -> None:
    rates = {"language.0": [], "language.1": range(30), "language.2": range(30), "language.3": range(29), "language.4": []}
    layer = summaries.ordering_peak_layer(language(rates, pairs=30))
    assert (layer.estimate, layer.low, layer.high) == (1, 1, 3)


def test_compare_sites_pairs_the_same_pairs() -> None:
    table = language({"connector": [0], "language.0": [0, *range(2, 10)], "language.1": []})
    found = {row["site"]: row for row in summaries.compare_sites(table).iter_rows(named=True)}
    assert (found["language.0"]["gained"], found["language.0"]["lost"]) == (8, 0)
    assert found["language.0"]["p"] == pytest.approx(2 / 2**8)
    assert found["language.0"]["p_holm"] == pytest.approx(4 / 2**8)
    assert (found["language.1"]["gained"], found["language.1"]["lost"], found["language.1"]["p_holm"]) == (0, 1, 1.0)


def accuracies(right: dict[str, Sequence[int]], scenes: int = 20) -> pl.DataFrame:
    """One question a scene; under each condition the scenes listed are answered right."""
    return pl.DataFrame(
        [
            {
                "question_id": f"main-horizontal-test-{scene:05d}/slot_to_object/0",
                "scene_id": f"main-horizontal-test-{scene:05d}",
                "axis": "horizontal",
                "template": "slot_to_object",
                "condition": condition,
                "correct": scene in hits,
            }
            for condition, hits in right.items()
            for scene in range(scenes)
        ],
        schema={
            "question_id": pl.String,
            "scene_id": pl.String,
            "axis": pl.String,
            "template": pl.String,
            "condition": pl.String,
            "correct": pl.Boolean,
        },
    )


def test_accuracy_drop_and_redundancy() -> None:
    table = accuracies({"intact": range(20), "neutral": range(18), "ordering_erased": range(16), "neutral+ordering_erased": range(4)})
    assert summaries.accuracy(table).estimate == 1
    # Twenty scenes, all right: the exact interval says how sure twenty make us.
    assert (summaries.accuracy(table).low, summaries.accuracy(table).high) == pytest.approx((0.025 ** (1 / 20), 1))
    assert summaries.accuracy(table, "neutral").estimate == 0.9
    drop = summaries.ablation_drop(table)
    assert drop.estimate == pytest.approx(0.1)
    assert drop.n == 20
    # Alone they lose 0.1 and 0.2, together 0.8: each stands in for the other.
    found = summaries.redundancy(table)
    assert found.estimate == pytest.approx(0.5)
    assert found.low > 0


def test_content_questions_count_apart() -> None:
    spatial = accuracies({"intact": range(20), "neutral": range(5)})
    content = accuracies({"intact": range(20), "neutral": range(19)}).with_columns(
        template=pl.lit("content"), question_id=pl.col("question_id").str.replace("slot_to_object", "content")
    )
    table = pl.concat([spatial, content])
    assert summaries.accuracy(table, "neutral").estimate == 0.25
    assert summaries.content_accuracy(table, "neutral").estimate == 0.95
    assert summaries.ablation_drop(table).estimate == 0.75
    assert summaries.content_accuracy(spatial).n == 0


def test_token_sets_are_compared_on_the_same_pairs() -> None:
    table = pl.concat(
        [
            rows("vision", ["flip"] * 6 + ["stay"] * 2, token_set="strip"),
            rows("vision", ["flip", "stay", "stay", "stay", "stay", "stay", "stay", "flip"], token_set="random"),
            rows("vision", ["flip"] * 8, token_set="strip", source="unrelated"),
            rows("vision", ["flip"] * 8, token_set="strip", site="vision.0"),
        ]
    )
    found = summaries.compare_token_sets(table).row(0, named=True)
    assert (found["token_set"], found["gained"], found["lost"]) == ("strip", 5, 1)
    assert found["p"] == found["p_holm"] == pytest.approx(2 * 7 / 2**6)


def test_questions_asked_under_one_condition_only_do_not_count() -> None:
    table = accuracies({"intact": range(20), "neutral": range(10)})
    fewer = table.filter((pl.col("condition") == "intact") | (pl.col("question_id") < "main-horizontal-test-00010"))
    assert summaries.ablation_drop(fewer).estimate == 0
    assert summaries.ablation_drop(fewer).n == 10


def test_one_axis_only() -> None:
    table = pl.concat(
        [rows("conflict", ["stay"] * 3, token_set="strip"), rows("conflict", ["move"] * 3, token_set="strip", axis="vertical")]
    )
    assert summaries.dominance(table).estimate == 0
    assert summaries.dominance(table, axis="vertical").estimate == -1


def test_an_empty_table_gives_nothing_not_an_error() -> None:
    empty = rows("vision", [])
    for found in (
        summaries.flip_rate(empty, "strip"),
        summaries.dominance(empty),
        summaries.ordering_peak(empty),
        summaries.ordering_peak_layer(empty),
        summaries.backup_gain(empty),
        summaries.accuracy(accuracies({})),
        summaries.ablation_drop(accuracies({})),
        summaries.redundancy(accuracies({})),
    ):
        assert found.n == 0
        assert np.isnan(found.estimate)
    assert summaries.rates(empty).is_empty()
    assert summaries.compare_sites(empty).is_empty()


@pytest.mark.slow
def test_the_report_can_use_it_without_torch() -> None:
    code = "import sys, vlm_spatial.measures.interventions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_figure_of_the_layers_gives_their_corrected_p_values() -> None:
    """Layer 1 orders 8 pairs that the connector does not, layer 0 none; the other axis has nothing to tell."""
    table = language({"connector": [], "language.0": [], "language.1": range(8)})
    measures = {"measures": flips.language_outcomes({"interchange": table})}
    shown = language_rows(measures).filter(pl.col("axis") == "horizontal", pl.col("outcome") == "ordering")
    found = dict(shown.select("site", "p_holm").iter_rows())
    assert found == {"connector": None, "language.0": 1.0, "language.1": pytest.approx(2 * 2 * 0.5**8)}
    others = language_rows(measures).filter(pl.col("outcome") != "ordering")
    assert others["p_holm"].null_count() == others.height


def test_the_figure_of_the_token_sets_holds_each_against_random_tokens() -> None:
    """The strip flips 8 of 8 where random tokens flip none, the object 1; two sets at two sites are four tests."""
    one = ["flip"] + ["stay"] * 7
    table = pl.concat(
        rows("vision", outcomes, token_set=name, site=site)
        for site in ("vision.0", "connector")
        for name, outcomes in {"strip": ["flip"] * 8 if site == "connector" else one, "object": one, "random": ["stay"] * 8}.items()
    )
    unrelated = rows("vision", ["flip"] * 8, token_set="object", source="unrelated")
    shown = vision_rows({"measures": flips.vision_flips(pl.concat([table, unrelated]))}).filter(axis="horizontal")
    found = {(row["site"], row["series"], row["source"]): row["p_holm"] for row in shown.iter_rows(named=True)}
    assert found == {
        ("connector", "strip", "counterfactual"): pytest.approx(4 * 2 * 0.5**8),
        ("connector", "object", "counterfactual"): 1.0,
        ("connector", "random", "counterfactual"): None,
        ("connector", "object", "unrelated"): None,
        ("vision.0", "strip", "counterfactual"): 1.0,
        ("vision.0", "object", "counterfactual"): 1.0,
        ("vision.0", "random", "counterfactual"): None,
    }


REDUNDANT = {"intact": range(20), "neutral": range(18), "ordering_erased": range(16), "neutral+ordering_erased": range(4)}
COMPLEMENTARY = {"intact": range(20), "neutral": range(14), "ordering_erased": range(14), "neutral+ordering_erased": range(14)}
NOTHING_LEFT = {"intact": range(20), "neutral": range(4), "ordering_erased": range(4), "neutral+ordering_erased": range(4)}
NEITHER = {"intact": range(20), "neutral": range(18), "ordering_erased": range(16), "neutral+ordering_erased": [*range(13), 18]}


@pytest.mark.parametrize(
    ("right", "cost", "said", "words"),
    [
        (REDUNDANT, "+50.0 points [", "redundant", "each mechanism can stand in for the other."),
        (COMPLEMENTARY, "−30.0 points [", "complementary", "the two mechanisms are needed at once."),
        (
            NOTHING_LEFT,
            "−80.0 points [",
            "one ablation alone leaves no more than a guess",
            "it cannot be told whether one stands in for the other.",
        ),
        (NEITHER, "+0.0 points [−", "neither is shown", "whether the two mechanisms are redundant or complementary stays open."),
    ],
)
def test_redundant_or_complementary_is_drawn_and_said_with_its_interval(
    right: dict[str, Sequence[int]], cost: str, said: str, words: str
) -> None:
    table = accuracies(right).with_columns(top1_correct="correct")
    behaviour = pl.DataFrame(
        {"variant": "main", "split": "test", "axis": "horizontal", "template": "slot_to_object", "candidates": [["a", "b", "c"]]}
    )
    shown = ablated.rows({"measures": flips.ablated_accuracies(table, behaviour)})
    assert shown.filter(axis=BOTH).height == 4
    assert shown["chance"].to_list() == pytest.approx([1 / 3] * 8)
    [drawn] = shown.filter(axis=BOTH).drop_nulls("beyond").iter_rows(named=True)
    assert (drawn["condition"], drawn["series"], drawn["n"]) == ("vision neutral", "language erased", 20)
    assert drawn["beyond"] == pytest.approx(summaries.redundancy(table).estimate)
    caption = ablated.caption(shown)
    assert f"Cost of both beyond the sum: both axes, vision neutral: {cost}" in caption
    assert f"], {said}." in caption
    sentence = two_by_two(shown)
    assert sentence.startswith(f"Both ablations together (vision neutral, ordering erased in the language model) cost {cost}")
    assert " beyond the sum of each alone (n = 20 scenes): " in sentence
    assert sentence.endswith(words)
    alone = flips.ablated_accuracies(table.filter(pl.col("condition") != "neutral+ordering_erased"), None)
    assert two_by_two(ablated.rows({"measures": alone})) == ""
    assert two_by_two(pl.DataFrame()) == ""


def test_no_success_has_a_lower_limit_of_zero_and_not_a_little_more() -> None:
    """Rounding once made 0 of 24 errors corrected exceed a control of 0, and the claim supported."""
    limits = [binomial_limits(hits, n) for n in range(1, 200) for hits in (0, n)]
    assert all(low == 0.0 for low, _ in limits[::2])
    assert all(high == 1.0 for _, high in limits[1::2])
    assert all(0 < high < 1 for _, high in limits[::2])


@pytest.mark.slow
@given(st.lists(st.tuples(COUNTS, COUNTS).filter(any), min_size=1, max_size=20))
def test_exact_limits_are_those_of_statsmodels(counts: list[tuple[float, float]]) -> None:
    from statsmodels.stats.proportion import proportion_confint

    hits = np.array([right for right, _ in counts])
    n = np.array([right + wrong for right, wrong in counts])
    np.testing.assert_allclose(binomial_limits(hits, n), proportion_confint(hits, n, method="beta"), atol=1e-9)


# statsmodels collects garbage at every call.
@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_adjusts_as_statsmodels_does(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    expected = multipletests(p_values, method="holm")[1] if p_values else []
    np.testing.assert_allclose(holm(p_values), expected, atol=1e-12)


def test_pairs_without_a_control_are_left_out() -> None:
    """Of own photographs there may be no unrelated picture: then there is nothing to conclude."""
    labels = {"axis": "horizontal", "template": "slot_to_object"}
    own = pl.DataFrame([{"pair_id": name, **labels, "hit": hit} for name, hit in zip("abcd", (True, True, True, False), strict=True)])
    control = pl.DataFrame({"pair_id": ["c", "b", "d"], "hit": [False, True, False]})
    found = against(own, control)
    assert found is not None
    assert (found.rate.estimate, found.rate.n, found.control.estimate) == (pytest.approx(2 / 3), 3, pytest.approx(1 / 3))
    assert found.values["value"].to_list() == [0.0, 1.0, 0.0]
    assert against(own, control.clear()) is None


def test_random_controls_are_the_same_in_any_order_of_rows() -> None:
    generator = np.random.default_rng(0)
    rows = pl.DataFrame(
        {
            "split": "test",
            "method": "random",
            "site": "connector",
            "alpha": 2.0,
            "template": "slot_to_object",
            "draw": np.repeat(np.arange(30), 11),
            "question_id": [f"{number:02d}" for number in range(11)] * 30,
            "correct_before": generator.random(330) < 0.6,
            "correct": generator.random(330) < 0.7,
        }
    )
    found = {
        (random_net(mixed, "connector", 2.0), random_corrected_share(mixed, "connector", 2.0))
        for mixed in (rows.sample(fraction=1.0, shuffle=True, seed=seed) for seed in range(20))
    }
    assert len(found) == 1
