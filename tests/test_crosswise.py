"""The crosswise and mirror sweeps: planted mechanisms come out, cells are those that the words say, every patch is the plain run's."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import ImageOps
from torch.utils.flop_counter import FlopCounterMode

from stage_inputs import job, make_reader, make_store, run_ablation
from symbolic_models import NamedDataset, SymbolicEngine, by_code, by_place
from vlm_spatial.interventions.crosswise import crosswise_blocks, crosswise_cases, crosswise_plan, mirror_cases, mirror_plan, mirrored_cells
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.pairs_on_grid import Case, read_cases
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.interventions.sweep import run_sweep
from vlm_spatial.measures import crosswise as measures
from vlm_spatial.measures import recovery
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.interchange import interchange
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"
SETS = ("object", "strip", "rim", "random_object", "random_strip")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes") / "squares"
    settings = {
        "kind": "squares",
        "scenes": {"train": 1, "validation": 1, "test": 1},
        "variants": {"decorrelated": {"train": 1, "validation": 1, "test": 1}, "single": 1},
        "pairs": {"vision": 18, "language": 1, "conflict": 1},
    }
    scenes(Job({"dataset": settings, "name": "squares", "seed": 0}, {}, {"folder": folder}))
    return Dataset.open(folder)


def swept(dataset: Dataset, organism: str, sites: list[str], sets: tuple[str, ...]) -> dict[tuple[str, str], pl.DataFrame]:
    """Included rows by site and token set."""
    adapter = load_adapter(ORGANISMS / organism, device="cpu")
    cases = crosswise_cases(read_cases(dataset, adapter, "vision"))
    table = run_sweep(PatchEngine(adapter), dataset, cases, crosswise_plan(sites, sets, 0)).filter("included")  # type: ignore[arg-type]
    assert table["pair_id"].n_unique() >= 30
    return {(str(site), str(chosen)): group for (site, chosen), group in table.group_by("site", "token_set")}


def flipped(rows: pl.DataFrame) -> float:
    return (rows["outcome"] == "flip").to_numpy().mean()


@pytest.mark.slow
def test_a_language_model_that_orders_by_place_has_no_code_at_the_connector(dataset: Dataset) -> None:
    """Its vision tokens are the same in every slot: exchanging equal cells changes nothing, exactly; two layers on they hold the order."""
    found = swept(dataset, "language-0", ["connector", "language.1"], ("object", "strip", "rim"))
    for token_set in ("object", "strip", "rim"):
        rows = found["connector", token_set]
        assert flipped(rows) == 0
        assert abs(recovery.recovery(rows).estimate) <= 0.01
    assert flipped(found["language.1", "object"]) >= 0.9
    assert recovery.recovery(found["language.1", "object"]).estimate >= 0.9


@pytest.mark.slow
def test_a_code_spread_over_the_strip_moves_with_the_strip_alone(dataset: Dataset) -> None:
    found = swept(dataset, "strip-0", ["connector"], SETS)
    rates = {token_set: flipped(rows) for (_, token_set), rows in found.items()}
    assert rates["strip"] >= 0.9
    assert rates["rim"] >= 0.9
    assert rates["object"] <= 0.2
    assert rates["random_object"] <= 0.2
    assert rates["random_strip"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("organism", ["vision-0", "object-0", "object_code-0"])
def test_a_code_of_the_objects_moves_with_the_objects(dataset: Dataset, organism: str) -> None:
    found = swept(dataset, organism, ["connector", "language.1"], SETS)
    rates = {token_set: flipped(rows) for (site, token_set), rows in found.items() if site == "connector"}
    assert rates["object"] >= 0.9
    assert rates["strip"] >= 0.9
    assert rates["rim"] <= 0.1
    assert rates["random_object"] == rates["random_strip"] == 0
    # The models stay within their candidates, so probabilities tell the same story as flips.
    moved = measures.with_probabilities(found["connector", "strip"])
    assert (moved["candidate_mass"] > 0.9).all()
    assert moved["probability_flip"].to_numpy().mean() > 0.9
    assert moved["probability_stay"].to_numpy().mean() < 0.1
    # The objects' organism has handed its code on by layer 1, that of the whole vision tower in half of the pairs.
    assert flipped(found["language.1", "strip"]) == pytest.approx(0.5 if organism == "vision-0" else 0, abs=0.1)


@pytest.mark.slow
def test_the_mirror_image_gives_the_same_verdicts(dataset: Dataset) -> None:
    for organism, expected in {"vision-0": 1.0, "language-0": 0.0}.items():
        adapter = load_adapter(ORGANISMS / organism, device="cpu")
        cases = mirror_cases(dataset, read_cases(dataset, adapter, "vision"))
        assert {case.axis for case in cases} == {"horizontal"}
        table = run_sweep(PatchEngine(adapter), dataset, cases, mirror_plan(["connector"], ("object", "strip", "all"))).filter("included")
        assert table["pair_id"].n_unique() >= 5
        assert {flipped(group) for _, group in table.group_by("token_set")} == {expected}


def test_mirror_answers_are_those_of_the_turned_picture(dataset: Dataset) -> None:
    adapter = load_adapter(ORGANISMS / "vision-0", device="cpu")
    seen = set()
    for case in mirror_cases(dataset, read_cases(dataset, adapter, "vision")):
        row = dataset.row(case.clean_scene)
        objects: list[str] = list(row["objects"])  # type: ignore[call-overload]
        words = ["left", "middle", "right"]
        ask = words if case.template == "object_to_slot" else objects
        asked = case.slots[0]
        assert asked in (0, 2)
        assert (case.hypotheses["stay"], case.hypotheses["flip"]) == (ask[asked], ask[2 - asked])
        seen.add(case.template)
    assert seen == {"slot_to_object", "object_to_slot", "relation_to_object"}


@pytest.mark.parametrize(("reader", "outcomes"), [(by_code, {"flip"}), (by_place, {"stay"})])
def test_an_answer_flips_if_it_is_read_from_the_code(tiny: Dataset, reader, outcomes: set[str]) -> None:  # type: ignore[no-untyped-def]
    named = NamedDataset(tiny.folder, tiny.scenes, tiny.questions, tiny.pairs.filter(template="slot_to_object"))
    engine = SymbolicEngine(named, reader)
    cases = crosswise_cases(read_cases(named, engine.adapter, "vision"))
    assert cases
    table = run_sweep(engine, named, cases, crosswise_plan(["connector"], ("object", "rim"), 0))
    assert set(table.filter(token_set="object")["outcome"]) == outcomes
    assert set(table.filter(token_set="rim")["outcome"]) == {"stay"}


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
@pytest.mark.slow
def test_every_exchange_is_the_plain_run_with_the_blocks_laid_crosswise(tiny: Dataset, tmp_path: Path, family: str) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    cases = read_cases(tiny, adapter, "vision")
    for chosen, plan in (
        (crosswise_cases(cases)[:2], crosswise_plan(["connector", "language.0"], SETS, 0, "place")),
        (mirror_cases(tiny, cases)[:2], mirror_plan(["connector", "language.0"], ("object", "all"))),
    ):
        images = {scene: tiny.image(scene) for case in chosen for scene in case.shown}
        runs = [run for case in chosen for run in case.runs(images)]
        patches = [exchange.patch(number) for number, case in enumerate(chosen) for exchange in plan(case)]
        assert patches
        expected = run_plain(adapter, runs, patches)
        found = PatchEngine(adapter).run(runs, patches)
        assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5

    # By hand: what stands at slot i and slot j of the other picture, laid on slot j and slot i.
    case = crosswise_cases(cases)[0]
    first, second = (np.flatnonzero(case.tokens.objects[slot]) for slot in case.slots)
    prepared = [adapter.prepare([tiny.image(scene)], [case.prompt]) for scene in (case.clean_scene, case.counterfactual_scene)]
    other = adapter.run(prepared[1], capture=["language.0"])[1]["language.0"]

    def crosswise(values):  # type: ignore[no-untyped-def]
        edited = values.clone()
        edited[:, first], edited[:, second] = other[:, second], other[:, first]
        return edited

    expected = adapter.run(prepared[0], edits={"language.0": crosswise})[0]
    runs = case.runs({scene: tiny.image(scene) for scene in case.shown})
    found = PatchEngine(adapter).run(runs, [exchange.patch(0) for exchange in crosswise_plan(["language.0"], ("object",), 0)(case)])
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_the_mirrored_source_shows_the_mirrored_picture(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    case = mirror_cases(tiny, read_cases(tiny, adapter, "vision"))[0]
    image = tiny.image(case.clean_scene)
    source = case.runs({case.clean_scene: image})[0].sources["counterfactual"]
    assert np.array_equal(np.asarray(source.image), np.asarray(ImageOps.mirror(image)))
    grid = TokenGrid(2, 3)
    assert mirrored_cells(np.arange(6), grid).tolist() == [2, 1, 0, 5, 4, 3]


def _case(tiny: Dataset, grid: TokenGrid) -> Case:
    asking = Dataset(tiny.folder, tiny.scenes, tiny.questions, tiny.pairs.filter(template="slot_to_object"))
    engine = SymbolicEngine(asking, by_place, grid=grid)
    return next(case for case in crosswise_cases(read_cases(asking, engine.adapter, "vision")) if case.axis == "horizontal")


def test_cells_of_the_sets(tiny: Dataset) -> None:
    case = _case(tiny, TokenGrid(16, 16))
    blocks = {name: crosswise_blocks(case, name, 0, "offset") for name in SETS}  # type: ignore[arg-type]
    objects = np.any(case.tokens.objects, axis=0)
    first, second = case.slots
    for name in ("object", "strip", "rim", "random_object"):
        one, other = blocks[name]
        assert case.tokens.strips[first][one].all()
        assert case.tokens.strips[second][other].all()
        assert len(one) == len(other) == len(set(one)) == len(set(other))
    assert set(blocks["object"][0]) | set(blocks["rim"][0]) == set(blocks["strip"][0])
    assert not objects[np.concatenate([*blocks["rim"], *blocks["random_object"]])].any()
    assert len(blocks["random_object"][0]) == len(blocks["object"][0])
    outside = np.concatenate(blocks["random_strip"])
    assert not (case.tokens.strips[first] | case.tokens.strips[second])[outside].any()
    assert len(set(outside)) == len(outside)
    # The draw is the pair's own, so that a second run makes the same one.
    again = crosswise_blocks(case, "random_object", 0, "offset")
    assert all(np.array_equal(a, b) for a, b in zip(again, blocks["random_object"], strict=True))


def test_strips_of_unlike_width_are_matched_by_their_own_first_cell(tiny: Dataset) -> None:
    """Columns 0–1 | 2–4 | 5–6 of a 2 × 7 grid: by place, columns 0 and 1 meet columns 2 and 3."""
    case = _case(tiny, TokenGrid(16, 16))
    strips = np.zeros((3, 14), dtype=bool)
    objects = np.zeros((3, 14), dtype=bool)
    for slot, (start, stop, centre) in enumerate([(0, 2, 1), (2, 5, 2), (5, 7, 6)]):
        for row in range(2):
            strips[slot, row * 7 + start : row * 7 + stop] = True
        objects[slot, centre] = True
    tokens = type(case.tokens)(TokenGrid(2, 7), objects, strips)
    case = type(case)(**{**case.__dict__, "tokens": tokens, "counterfactual_tokens": tokens, "slots": (0, 1)})
    first, second = crosswise_blocks(case, "strip", 0, "place")
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {0: 2, 1: 3, 7: 9, 8: 10}
    first, second = crosswise_blocks(case, "strip", 0, "offset")
    # Slot 0's object stands in its second column, slot 1's in its first: only these columns correspond.
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {1: 2, 8: 9}
    first, second = crosswise_blocks(case, "rim", 0, "place")
    # Neither the cell of an object nor the one that would take its place.
    assert dict(zip(first.tolist(), second.tolist(), strict=True)) == {7: 9, 8: 10}


@pytest.mark.slow
def test_a_patch_costs_at_most_0_45_full_passes(dataset: Dataset) -> None:
    """Counted in floating-point operations, the untouched runs of a pair shared among its patches."""
    adapter = load_adapter(ORGANISMS / "natural-qwen2_vl", device="cpu")
    assert adapter.reach == "causal"
    cases = crosswise_cases(read_cases(dataset, adapter, "vision"))[::6]
    sites = ["connector", *(site for site in adapter.sites if site.startswith("language."))]
    prepared = adapter.prepare([dataset.image(cases[0].clean_scene)], [cases[0].prompt])
    with FlopCounterMode(display=False) as whole:
        adapter.run(prepared)
    with FlopCounterMode(display=False) as patched:
        table = run_sweep(PatchEngine(adapter), dataset, cases, crosswise_plan(sites, SETS, 0))
    assert table.height == len(cases) * len(sites) * len(SETS)
    assert patched.get_total_flops() / table.height <= 0.45 * whole.get_total_flops()


@pytest.mark.slow
def test_the_stages_hold_both_forms_and_the_ablated_one(tiny: Dataset, tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "reader", "qwen2_vl")
    stage = {
        "vision_sites": ["connector"],
        "token_sets": ["object"],
        "language_sites": ["connector"],
        "crosswise_sites": ["connector", "language.0"],
        "crosswise_sets": ["object", "strip"],
        "crosswise_match": "place",
    }
    interchange(job(reader, tiny.folder, tmp_path, "table", stage))
    table = pl.read_parquet(tmp_path / "table.parquet")
    crossed = table.filter(experiment="crosswise")
    assert set(crossed["match"]) == {"place"}
    assert crossed.group_by("site", "token_set").len()["len"].n_unique() == 1
    assert set(table.filter(experiment="mirror")["token_set"]) == {"object", "strip", "all"}
    assert table.filter(experiment="vision")["match"].null_count() == table.filter(experiment="vision").height
    told = measures.with_probabilities(crossed.filter(pl.col("clean_predicted") != pl.col("counterfactual_predicted")))
    assert ((told["probability_stay"] + told["probability_flip"]).to_numpy() <= told["candidate_mass"].to_numpy() + 1e-6).all()
    odds = (told["probability_flip"] / told["probability_stay"]).log()
    right = told["included"]
    np.testing.assert_allclose(odds.filter(right).to_numpy(), told["log_odds"].filter(right).to_numpy(), atol=1e-4)
    inputs = make_store(reader, tiny.folder, tmp_path)
    tables = run_ablation(
        reader, tiny.folder, tmp_path, {"questions": 3, "fit_scenes": 4, "crosswise_sets": ["object"]}, ["connector"], **inputs
    )
    ablated = tables["sweep"].filter(experiment="crosswise")
    intact = tables["interchange"].filter(experiment="crosswise", token_set="object")
    for condition in ("erasure", "neutral"):
        keys = ["pair_id", "site", "token_set"]
        assert ablated.filter(condition=condition).select(keys).rows() == intact.select(keys).rows()


def test_recovery_is_a_ratio_of_sums_and_not_clamped() -> None:
    rows = pl.DataFrame(
        {
            "included": [True, True, True, False],
            "log_odds_clean": [-1.0, -3.0, -0.1, -1.0],
            "log_odds_source": [1.0, 5.0, 0.1, 1.0],
            "log_odds": [-2.0, 9.0, 50.0, 50.0],
        }
    )
    # (−1 + 12) / (2 + 8): the third pair's runs hardly differ, the fourth is not included.
    found = recovery.recovery(rows)
    assert (found.estimate, found.n) == (pytest.approx(1.1), 2)


def _flips(rates: dict[int, int], pairs: int = 20) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "pair_id": f"p{pair:02d}",
                "experiment": "crosswise",
                "condition": "intact",
                "token_set": "strip",
                "site": "connector" if layer < 0 else f"language.{layer}",
                "layer": None if layer < 0 else layer,
                "included": True,
                "outcome": "flip" if pair < flips else "stay",
            }
            for layer, flips in rates.items()
            for pair in range(pairs)
        ]
    )


def test_the_last_layer_that_flips_most_answers() -> None:
    table = _flips({-1: 20, 0: 20, 1: 18, 2: 2, 10: 0})
    last = measures.last_layer(table)
    assert (last.estimate, last.low, last.high, last.n) == (1, 1, 1, 20)
    assert measures.last_layer(_flips({-1: 20, 0: 1, 1: 0})).estimate == -1
    assert np.isnan(measures.last_layer(_flips({-1: 2, 0: 1, 1: 0})).estimate)
    assert measures.last_layer(table, "object").n == 0
    assert measures.highest_flip_rate(table, "strip").estimate == 1
    assert measures.flip_rate(table, "strip", site="language.1").estimate == 0.9
