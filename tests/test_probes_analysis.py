"""The experiment on worlds whose answer is known."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from probe_worlds import (
    GRID,
    SIZE,
    MemoryStore,
    World,
    constant,
    content_code,
    layout_code,
    noise,
    nothing,
    object_code,
    position_code,
    world,
)
from vlm_spatial.amplification.corrections import slot_directions
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.measures.probes import verdicts
from vlm_spatial.probes.analysis import Analysis, analyse
from vlm_spatial.probes.fitting import Rows, fit_probes, one_hot
from vlm_spatial.probes.layout import group, word_numbers
from vlm_spatial.probes.published import fit_published
from vlm_spatial.probes.scores import SCHEMA, exchanged
from vlm_spatial.statistics import clustered_mean, clustered_share, difference_of_sums
from vlm_spatial.tokens import scene_tokens

pytestmark = pytest.mark.unit

SITES = {
    "vision.0": layout_code,
    "vision.1": position_code,
    "connector": object_code,
    "language.0": content_code,
    "language.1": nothing,
    "language.2": constant,
}
SETTINGS = ProbesSettings(strip_map_scenes=4)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore(world(), SITES)


@pytest.fixture(scope="module")
def found(store: MemoryStore) -> Analysis:
    return analyse(store, store.world, SETTINGS, seed=0)


def score(
    analysis: Analysis, site: str, token_set: str, kind: str = "logistic", trained: str = "decorrelated", scored: str = "decorrelated"
) -> dict:
    where = {"site": site, "kind": kind, "token_set": token_set, "trained_on": trained, "scored_on": scored}
    return analysis.table.row(by_predicate=pl.all_horizontal(*[pl.col(k) == v for k, v in where.items()]), named=True)


def verdict(row: dict) -> str:
    [found] = verdicts(pl.DataFrame([row], schema=SCHEMA))
    return str(found)


@pytest.mark.slow
def test_layout_in_the_background_is_found_and_not_put_down_to_position(found: Analysis) -> None:
    row = score(found, "vision.0", "background")
    assert row["accuracy"] > 0.97
    assert verdict(row) == "supported"
    assert row["control"] == "other_scene"
    assert row["position_share"] < 0.9
    assert row["selectivity"] > 0.5


@pytest.mark.slow
def test_a_pure_position_code_earns_no_credit(found: Analysis) -> None:
    main = score(found, "vision.1", "background", trained="main", scored="main")
    assert main["accuracy"] > 0.9
    assert main["position_share"] > 0.95
    assert main["blank_share"] > 0.95
    assert verdict(main) != "supported"
    decorrelated = score(found, "vision.1", "background")
    assert verdict(decorrelated) != "supported"
    assert decorrelated["position_share"] > 0.97


def test_the_exchange_control_is_the_mean_over_all_other_scenes() -> None:
    generator = np.random.default_rng(0)
    predicted, right = generator.integers(0, 3, (2, 7, 5))
    mask = generator.random((7, 5)) < 0.6
    mask[1:, 4] = False
    mask[0, 4] = True
    expected = np.zeros(7)
    for scene, cell in np.argwhere(mask):
        others = [s for s in range(7) if s != scene and mask[s, cell]]
        expected[scene] += np.mean(predicted[others, cell] == right[scene, cell]) if others else 1 / 3
    np.testing.assert_allclose(exchanged(predicted, right, mask, 3), expected)


@pytest.mark.slow
def test_half_position_half_layout_is_told_apart() -> None:
    """Half of the features are a place code, half a layout code that is absent from half of the scenes."""
    made = world(decorrelated=(120, 40, 120))

    def mixed(row: dict, generator: np.random.Generator) -> np.ndarray:
        silent = generator.random() < 0.5
        layout = noise(generator) if silent else layout_code(row, generator)
        return np.concatenate([layout, position_code(row, generator)], axis=1)

    found = analyse(MemoryStore(made, {"connector": mixed}), made, SETTINGS, seed=0)
    row = score(found, "connector", "background")
    assert verdict(row) == "supported"
    assert 0.6 < row["position_share"] < 0.99
    other = score(found, "connector", "background", kind="other_scene")
    share = (other["accuracy"] - row["chance"]) / (row["accuracy"] - row["chance"])
    assert row["position_share"] == pytest.approx(share)


def test_a_layout_code_is_silent_on_the_blank_canvas(found: Analysis) -> None:
    assert score(found, "vision.0", "background", trained="main", scored="main")["blank_share"] < 0.3


def test_a_code_on_objects_only_is_not_in_the_background(found: Analysis) -> None:
    assert score(found, "connector", "object")["accuracy"] > 0.97
    background = score(found, "connector", "background")
    assert abs(background["accuracy"] - background["chance"]) < 0.1
    assert verdict(background) == "refuted"
    assert background["position_share"] is None


def test_content_is_told_from_slot_by_the_control_task(found: Analysis) -> None:
    assert score(found, "language.0", "object", kind="control_task")["accuracy"] > 0.97
    assert score(found, "language.0", "object")["selectivity"] < -0.4


@pytest.mark.parametrize("token_set", ["object", "background"])
def test_noise_and_shuffled_labels_stay_at_chance(found: Analysis, token_set: str) -> None:
    assert abs(score(found, "language.1", token_set)["accuracy"] - 1 / 3) < 0.12
    assert abs(score(found, "vision.0", token_set, kind="shuffled", trained="main", scored="main")["accuracy"] - 1 / 3) < 0.25


@pytest.mark.parametrize("kind", ["centroid", "difference"])
def test_the_simpler_rivals_read_a_plain_code_as_well(found: Analysis, kind: str) -> None:
    assert score(found, "vision.0", "background", kind=kind)["accuracy"] > 0.9


def test_a_score_is_the_plain_share_and_its_interval_that_of_the_statistics_module(store: MemoryStore, found: Analysis) -> None:
    probe = found.probes["main"]["horizontal", "vision.0"]
    scenes = store.scenes.filter((pl.col("variant") == "main") & (pl.col("split") == "test"))
    labelled = group(store.world, scenes, GRID, word_numbers(store.scenes), 3)
    values = np.concatenate([v for _, v in store.batches("vision.0", labelled.scene_ids, 100)])
    mask = labelled.objects < 0
    right = (probe.predict(values) == labelled.strips)[mask]
    interval = clustered_share(right, [str(scene) for scene in np.nonzero(mask)[0]])
    row = score(found, "vision.0", "background", trained="main", scored="main")
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((interval.estimate, interval.low, interval.high))
    assert row["n"] == len(mask)


def test_a_difference_of_sums_over_single_units_is_that_of_the_units() -> None:
    generator = np.random.default_rng(0)
    hits, others = (generator.random(400) < share for share in (0.8, 0.5))
    units = [str(unit) for unit in range(400)]
    expected, _ = clustered_mean(hits.astype(float) - others, units)
    found = difference_of_sums(hits, others, np.ones(400))
    assert found.estimate == pytest.approx(expected.estimate)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.01)
    # Where both are right everywhere, the interval still has a width, and it shrinks with the number of scenes.
    widths = [difference_of_sums(tokens, tokens, tokens).high for tokens in (np.full(10, 6.0), np.full(100, 6.0))]
    assert 0.02 < widths[1] < widths[0] / 5


def test_constant_features_are_said_to_be_inconclusive(found: Analysis) -> None:
    rows = found.table.filter(pl.col("site") == "language.2")
    assert rows["accuracy"].null_count() == rows.height
    assert set(verdicts(rows)) == {"inconclusive"}
    assert "no feature varies" in rows["note"][0]
    assert "no feature varies" in found.inconclusive["main"]["horizontal/language.2"]
    assert ("horizontal", "language.2") not in found.probes["main"]


@pytest.mark.slow
def test_each_scene_is_read_once_a_site_in_bounded_batches(store: MemoryStore, found: Analysis) -> None:
    del found
    fresh = MemoryStore(store.world, SITES)
    analyse(fresh, store.world, SETTINGS, seed=0)
    assert len(fresh.asked) == len(set(fresh.asked))
    assert sum(site == "connector" for site, _ in fresh.asked) == store.scenes.height
    assert fresh.largest <= 32


@pytest.mark.slow
def test_same_seed_same_result(store: MemoryStore, found: Analysis) -> None:
    again = analyse(store, store.world, SETTINGS, seed=0)
    assert again.table.equals(found.table)
    assert again.strip_map.equals(found.strip_map)
    assert again.geometry.equals(found.geometry)


def test_the_strip_map_holds_every_cell_of_the_scenes_kept(found: Analysis) -> None:
    maps = found.strip_map.filter(pl.col("site") == "vision.0")
    assert maps.height == SETTINGS.strip_map_scenes * GRID.size
    assert (maps["predicted"] == maps["slot"]).mean() > 0.97
    np.testing.assert_allclose(np.array(maps["probability"].to_list()).sum(axis=1), 1, atol=1e-5)
    assert (maps["token"] == maps["row"] * GRID.cols + maps["col"]).all()
    indices = found.geometry.filter((pl.col("measure") == "strip_index") & (pl.col("other") == "decorrelated"))
    by_site = dict(zip(indices["site"], indices["estimate"], strict=True))
    assert by_site["vision.0"] > 0.9
    assert abs(by_site["connector"]) < 0.15


def world_with(change: pl.Expr) -> World:
    plain = world()
    return World(plain.scenes.filter(change))


DEGENERATE = {
    "fewer scenes than slots": (
        ~((pl.col("variant") == "main") & (pl.col("split") == "train") & (pl.col("scene_id").str.slice(-5).cast(pl.Int32) >= 2)),
        "2 training scenes for 3 slots",
    ),
    "no training scenes": (~((pl.col("variant") == "main") & (pl.col("split") == "train")), "0 training scenes for 3 slots"),
    "no validation scenes": (~((pl.col("variant") == "main") & (pl.col("split") == "validation")), "slot 0, 1, 2 in the validation split"),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.slow
def test_scenes_too_few_are_said_plainly_and_never_scored(case: str) -> None:
    change, words = DEGENERATE[case]
    made = world_with(change)
    found = analyse(MemoryStore(made, {"connector": layout_code}), made, SETTINGS, seed=0)
    rows = found.table.filter(pl.col("trained_on") == "main")
    assert rows["accuracy"].null_count() == rows.height > 0
    assert set(verdicts(rows)) == {"inconclusive"}
    assert rows["note"].str.contains(words).all()
    assert words in found.inconclusive["main"]["horizontal/connector"]
    assert not found.probes["main"]
    assert found.strip_map.height == 0
    assert score(found, "connector", "background")["accuracy"] > 0.9


def test_a_class_missing_from_the_training_split_is_named() -> None:
    made = world()

    # Objects of slot 2 are reported by no token: their boxes are hidden from the label tables of the training split.
    class Hidden(World):
        def tokens(self, scene_id, grid):
            tokens = super().tokens(scene_id, grid)
            return replace(tokens, objects=tokens.objects & (np.arange(3) < 2)[:, None]) if "train" in scene_id else tokens

    hidden = Hidden(made.scenes)
    found = analyse(MemoryStore(hidden, {"connector": layout_code}), hidden, SETTINGS, seed=0)
    assert "no object token of slot 2 in the training split" in found.inconclusive["main"]["horizontal/connector"]
    assert found.table.filter(pl.col("kind") == "logistic")["accuracy"].is_null().all()


def test_activations_that_are_not_finite_are_refused() -> None:
    made = world()

    def broken(row: dict, generator: np.random.Generator) -> np.ndarray:
        del row
        values = noise(generator)
        values[:, 0] = np.inf
        return values

    found = analyse(MemoryStore(made, {"connector": broken}), made, SETTINGS, seed=0)
    assert "not finite" in found.inconclusive["main"]["horizontal/connector"]


@pytest.mark.slow
def test_single_objects_are_scored_on_their_own_slot() -> None:
    made = world()
    rows = []
    for index in range(9):
        slot = index % 3
        left = 10.0 + 40 * slot
        rows.append(
            {
                "scene_id": f"single-horizontal-test-{index:05d}",
                "axis": "horizontal",
                "variant": "single",
                "split": "test",
                "boxes": [[left, 40.0, left + 20, 60.0]],
                "objects": ["red"],
                "slots": [slot],
            }
        )
    scenes = pl.concat([made.scenes, pl.DataFrame(rows, schema=made.scenes.schema)])
    both = World(scenes)
    found = analyse(MemoryStore(both, {"connector": position_code}), both, SETTINGS, seed=0)
    single = found.table.filter(pl.col("scored_on") == "single")
    assert set(single["token_set"]) == {"object"}
    assert score(found, "connector", "object", trained="main", scored="single")["accuracy"] > 0.97
    assert SIZE == 120


def of_two(made: World) -> World:
    """The same scenes without their middle object; the others stand in the outer slots."""
    kept = [pl.col(name).list.gather([0, 2]) for name in ("boxes", "objects", "slots")]
    return World(made.scenes.filter(pl.col("variant") != "blank").with_columns(kept))


def outer_code(row: dict, generator: np.random.Generator) -> np.ndarray:
    """Every cell knows which of the two strips it lies in."""
    values = 0.3 * noise(generator)
    values[:, [0, 2]] += scene_tokens([tuple(b) for b in row["boxes"]], GRID, SIZE, SIZE, row["axis"]).strips.T * 3.0
    return values


@pytest.mark.slow
def test_scenes_of_two_objects_are_told_apart_by_two_slots() -> None:
    """A layout code is found, content and noise are not; nothing is ever put into the slot that no scene has."""
    made = of_two(world())
    found = analyse(MemoryStore(made, {"connector": outer_code, "language.0": nothing}), made, SETTINGS, seed=0)
    for token_set in ("object", "background", "strip"):
        row = score(found, "connector", token_set)
        assert row["accuracy"] > 0.97
        assert 0.4 < row["chance"] < 0.62
        assert score(found, "connector", token_set, kind="shuffled")["accuracy"] < 0.9
        assert abs(score(found, "language.0", token_set)["accuracy"] - 0.5) < 0.1
    assert set(found.strip_map["predicted"]) == {0, 2}
    for site in ("connector", "language.0"):
        probe = found.probes["main"]["horizontal", site]
        assert len(probe.subspace()) == len(probe.mean_subspace()) == len(probe.shuffled_subspace()) == 1
        directions = slot_directions(probe.class_mean, probe.subspace())
        assert np.allclose(directions[1], 0, atol=1e-6)
        assert np.allclose(directions[0], -directions[2], atol=1e-6)


def test_an_absent_slot_changes_no_probe() -> None:
    """The probe of slots 0 and 2 among three is that of two classes."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 120)
    x = (generator.normal(size=(120, 6)) + 2 * labels[:, None] * np.eye(6)[0]).astype(np.float32)
    fits = [
        fit_probes(Rows(x.copy(), targets, 60), Rows(x, targets, 60), [0.1, 1.0], {"shuffled": targets[::-1]})
        for targets in (one_hot(labels, 2), one_hot(2 * labels, 3))
    ]
    published = [fit_published(x, targets, np.random.default_rng(1)) for targets in (one_hot(labels, 2), one_hot(2 * labels, 3))]
    for two, three in [*((fits[0][kind], fits[1][kind]) for kind in fits[0]), tuple(published)]:
        assert np.allclose(two.weight, three.weight[[0, 2]])
        assert np.array_equal(2 * two.predict(x), three.predict(x))
        assert np.allclose(three.predict_proba(x)[:, 1], 0)
        assert len(two.subspace()) == len(three.subspace()) == 1
