"""Whose residuals the answer follows: words in prompts, exact identities, an organism, and measures of planted answers."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import synthetic_results as synthetic
from stage_inputs import job, make_reader
from vlm_spatial.config.readout import ReadoutSettings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.crosswise import mirror_cases
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.erasure import Erased, fit_erasure_of_rows
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.patch import Patch
from vlm_spatial.interventions.readout import corrupt, groups_there, plan, run_readout, steering
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.interventions.spatial_ids import AtName, Fitted, half_of, matched_random, nearest_slots, parts_of, table_of
from vlm_spatial.interventions.token_groups import text_groups, word_position
from vlm_spatial.measures.claims import judged
from vlm_spatial.measures.readout import faithful, id_swap, scenes_of
from vlm_spatial.measures.readout import readout as measured
from vlm_spatial.measures.spatial_ids import spatial_ids
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import Begun
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.readout import readout
from vlm_spatial.stages.stage import Job
from vlm_spatial.statistics import binomial, binomial_p

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"
PICTURE = Image.new("RGB", (96, 96), "red")


def test_the_word_is_found_in_every_family(adapter: Adapter) -> None:
    words = ["red", "green", "blue"]
    prompt = "where is the green square ?"
    ids = adapter.tokens(PICTURE, prompt)[0][0]
    position = word_position(adapter, PICTURE, prompt, words)
    assert position is not None
    assert adapter.processor.tokenizer.decode(ids[position : position + 1]).strip() == "green"
    assert word_position(adapter, PICTURE, Begun(prompt, (3,)), words) == position
    # None, several, twice, and a part of a longer word.
    for other in ("what is left ?", "red or green ?", "green green ?", "the greenish square ?"):
        assert word_position(adapter, PICTURE, other, words) is None


def test_corrupted_pictures() -> None:
    image = Image.new("RGB", (40, 20), "red")
    assert corrupt(image, "grey", [0]).getcolors() == [(800, (128, 128, 128))]
    noise = [np.asarray(corrupt(image, "noise", [seed])) for seed in (0, 0, 1)]
    assert noise[0].shape == (20, 40, 3)
    assert (noise[0] == noise[1]).all()
    assert (noise[0] != noise[2]).mean() > 0.9


def ids_table(halves: list[dict[tuple[str, int], np.ndarray]]) -> pl.DataFrame:
    fitted = {
        (axis, 1 - half): Fitted(np.stack([[ids[axis, slot] for slot in range(3)]]), {})
        for half, ids in enumerate(halves)
        for axis in ("horizontal", "vertical")
    }
    return table_of(fitted, ["language.4"])


def test_directions_and_cosines_of_planted_ids() -> None:
    """Slots of an axis on one line; the other half's IDs are twice as long, and of one axis turned by 60 degrees."""
    turned = np.array([0.5, np.sqrt(0.75), 0, 0])
    lines = {"horizontal": np.array([1.0, 0, 0, 0]), "vertical": np.array([0, 0, 3.0, 0])}
    other = {"horizontal": 2 * turned, "vertical": 2 * lines["vertical"]}
    halves = [
        {(axis, slot): line * along for axis, line in of.items() for slot, along in enumerate([-2, 0.5, 1.5])} for of in (lines, other)
    ]
    table = ids_table(halves)
    assert table.height == 12
    assert set(table["layer"]) == {4}
    found = spatial_ids(table)
    cosines = {row["axis"]: (row["estimate"], row["control_estimate"]) for row in found.filter(measure="id_cosine").to_dicts()}
    # Of six ordered pairs of slots, four lie on different sides.
    assert cosines["vertical"] == pytest.approx((1, -1 / 3))
    assert cosines["horizontal"] == pytest.approx((0.5, -1 / 6))
    assert cosines["both axes"] == pytest.approx((0.75, -1 / 4))
    shares = {(row["axis"], row["condition"]): row["estimate"] for row in found.filter(measure="id_directions").to_dicts()}
    assert shares == pytest.approx(
        {
            ("vertical", "first 1"): 1,
            ("horizontal", "first 1"): 0.25,
            # The vertical axis has the longest IDs: the first direction is its own.
            ("both axes", "first 1"): 0.5,
            ("both axes", "first 2"): (1 + 0.25) / 2,
        }
    )


def test_noise_is_no_direction_and_a_single_slot_has_no_control() -> None:
    """The other half's IDs lie on one line alone; and of slot 0 alone both halves have an ID."""
    plane = {(axis, slot): np.eye(4)[slot] - 1 / 3 for axis in ("horizontal", "vertical") for slot in range(3)}
    line = {key: np.eye(4)[0] * (key[1] - 1) for key in plane}
    found = spatial_ids(ids_table([plane, line]).filter(axis="horizontal")).filter(measure="id_directions", axis="horizontal")
    assert found["condition"].to_list() == ["first 1"]
    single = ids_table([plane, plane]).filter((pl.col("slot") == 0) | ((pl.col("half") == 0) & (pl.col("slot") == 1)))
    [cosine] = spatial_ids(single).filter(measure="id_cosine").to_dicts()
    assert (cosine["axis"], cosine["estimate"], cosine["control_estimate"], cosine["n"]) == ("both axes", pytest.approx(1), None, 2)


def test_an_id_that_one_half_lacks_does_not_count() -> None:
    half = {(axis, slot): np.eye(4)[slot] - 0.5 for axis in ("horizontal", "vertical") for slot in range(3)}
    lacking = half | {("vertical", slot): np.full(4, np.nan) for slot in range(3)}
    table = ids_table([half, lacking])
    assert table.filter(axis="vertical")["half"].unique().to_list() == [0]
    found = spatial_ids(table).filter(measure="id_cosine")
    assert found.select("axis", "n").rows() == [("both axes", 3), ("horizontal", 3)]
    assert spatial_ids(table.clear()).is_empty()


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
def test_of_random_models(tiny: Dataset, tmp_path: Path, family: str) -> None:
    """After the last layer the answer's tokens give the source's answer, exactly, and others nothing; a plain pass agrees."""
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    depth = len(adapter.language_blocks)
    sites = [f"language.{layer}" for layer in range(depth)]
    cases = [case for case in read_cases(tiny, adapter, "vision", unrelated=True) if case.template != "slot_to_object"][:2]
    plans = [plan(("image", "question", "word", "answer"), ("grey",), sites, depth, True) for _ in cases]
    engine = PatchEngine(adapter)
    table = run_readout(engine, tiny, cases, plans, 0)
    last = table.filter(site=sites[-1])
    by_group = {group: rows["margin"].to_list() for (group,), rows in last.group_by("group")}
    assert by_group["answer"] == pytest.approx(last.filter(group="answer")["margin_source"].to_list(), abs=1e-5)
    for group in ("image", "question"):
        assert by_group[group] == pytest.approx(last.filter(group=group)["margin_clean"].to_list(), abs=1e-5)
    assert set(last["group"]) == {"image", "question", "answer", "word.target", "word.reference"}
    # Everything between image and answer, of all layers, in one plain hooked pass over the grey picture.
    case = cases[0]
    [run] = case.runs({scene: tiny.image(scene) for scene in case.shown})
    grey = Image.new("RGB", run.clean.image.size, (128, 128, 128))
    pair = type(run)("grey", type(run.clean)(grey, run.clean.prompt), {"original": run.clean})
    question = text_groups(adapter, grey, case.prompt)["question"]
    [logits] = run_plain(adapter, [pair], [[Patch(0, site, source="original", to_positions=question) for site in sites]])
    scores = case.reader.log_probabilities(logits[None])
    [row] = table.filter(pair_id=case.pair_id, picture="grey", group="question").iter_rows(named=True)
    assert row["margin"] == pytest.approx(case.reader.log_odds(scores, case.counterfactual_answer, case.clean_answer), abs=1e-4)
    bare = case.reader.log_probabilities(adapter.run(adapter.prepare([grey], [case.prompt]))[0])
    [row] = table.filter(pl.col("group").is_null(), pair_id=case.pair_id).iter_rows(named=True)
    assert row["margin"] == pytest.approx(case.reader.log_odds(bare, case.counterfactual_answer, case.clean_answer), abs=1e-4)


@pytest.mark.slow
def test_an_organism_looks_at_the_image(tiny: Dataset) -> None:
    adapter = load_adapter(ORGANISMS / "natural-gemma3", device="cpu")
    cases = read_cases(tiny, adapter, "vision", unrelated=True)
    depth = len(adapter.language_blocks)
    plans = [plan(("image", "answer"), ("grey",), ["language.0", f"language.{depth - 1}"], depth, True) for _ in cases]
    table = run_readout(PatchEngine(adapter), tiny, cases, plans, 0)
    found = measured(table).filter(axis="both axes", measure="flip_rate", source="counterfactual")
    rates = {(row["token_set"], row["site"]): row["estimate"] for row in found.iter_rows(named=True)}
    assert rates["image", "language.0"] > 0.8
    assert rates["answer", f"language.{depth - 1}"] == 1.0
    assert rates["image", f"language.{depth - 1}"] == 0.0
    unrelated = measured(table).filter(axis="both axes", measure="flip_rate", source="unrelated")
    assert unrelated["estimate"].max() < 0.5  # type: ignore[operator]


def test_slots_are_taken_apart_from_objects_by_hand() -> None:
    """Unbalanced, and exact: two objects with parts of their own, three slots that sum to zero."""
    of_object = {"red": np.array([5.0, 1.0]), "blue": np.array([-2.0, 7.0])}
    of_slot = np.array([[1.0, 0.0], [0.0, -3.0], [-1.0, 3.0]])
    rows = [("red", 0), ("red", 1), ("red", 1), ("blue", 1), ("blue", 2)]
    values = np.stack([of_object[name] + of_slot[slot] for name, slot in rows])
    names, slots = [name for name, _ in rows], np.array([slot for _, slot in rows])
    parts = parts_of(values, names, slots)
    assert parts is not None
    assert parts[0] == pytest.approx(of_slot)
    assert {name: part.tolist() for name, part in parts[1].items()} == {name: pytest.approx(part) for name, part in of_object.items()}
    # Each residual, without its object's part, is nearest to the ID of its own slot.
    for value, (name, slot) in zip(values, rows, strict=True):
        one = AtName("question", "scene", name, slot, value[None])
        assert nearest_slots(one, parts[1][name][None], parts[0][None]) == [slot]
    # Where each object stands in one slot, object and slot cannot be told apart; of two slots, the third has no ID.
    assert parts_of(values[[0, 4]], ["red", "blue"], np.array([0, 2])) is None
    two = parts_of(values[:3], names[:3], slots[:3])
    assert two is not None
    assert np.isnan(two[0][2]).all()
    assert two[0][:2] == pytest.approx(np.array([[0.5, 1.5], [-0.5, -1.5]]))
    assert [half_of(name, ["green", "blue", "red"]) for name in ("blue", "green", "red")] == [0, 1, 0]
    drawn = matched_random(np.array([3.0, 4.0]), np.random.default_rng(0))
    assert np.linalg.norm(drawn) == pytest.approx(5.0)


def test_a_vector_that_is_added_at_the_name(tiny: Dataset, tmp_path: Path) -> None:
    """By hand: a hook on the block that adds it there. And no vector, no change."""
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    case = next(case for case in read_cases(tiny, adapter, "vision") if case.template == "object_to_slot")
    vectors = np.random.default_rng(0).standard_normal((1, 3, adapter.width))
    ids = {(axis, 0): Fitted(vectors * factor, {}) for axis, factor in (("horizontal", 3.0), ("vertical", 0.0))}
    made = steering(case, ["language.1"], ids, 0, ReadoutSettings(id_alphas=(0.5, 2.0), id_draws=2, id_norms=(), id_erased=False), 0)
    asked = [(one.group, one.source, one.alpha, one.draw) for one in made]
    assert asked == [
        ("word", "id", 0.5, None),
        ("word", "id", 2.0, None),
        *(("word", "random", 2.0, draw) for draw in (0, 1)),
        ("word", "other_axis", 2.0, None),
        ("first", "id", 2.0, None),
    ]
    table = run_readout(PatchEngine(adapter), tiny, [case], [made], 0)
    other = table.filter(source="other_axis") if case.axis == "horizontal" else table.filter(source="id", group="word.target")
    assert other["margin"].to_list() == pytest.approx(other["margin_clean"].to_list(), abs=1e-5)
    image = tiny.image(case.clean_scene)
    position = word_position(adapter, image, case.prompt, list(tiny.row(case.clean_scene)["objects"]))  # type: ignore[call-overload]
    of_case = ids[case.axis, 0].slots[0]
    step = torch.tensor(of_case[case.slots[1]] - of_case[case.slots[0]]).float()

    def add(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, position] += 2.0 * step
        return output

    handle = adapter.language_blocks[1].register_forward_hook(add)
    scores = case.reader.log_probabilities(adapter.run(adapter.prepare([image], [case.prompt]))[0])
    handle.remove()
    [row] = table.filter(source="id", group="word.target", alpha=2.0).iter_rows(named=True)
    assert row["margin"] == pytest.approx(case.reader.log_odds(scores, case.counterfactual_answer, case.clean_answer), abs=1e-4)


def test_steps_as_long_as_five_residuals_and_the_slot_removed(tiny: Dataset, tmp_path: Path) -> None:
    """By hand, on the block's output at the name: five norms along the difference of the IDs; and LEACE as an affine map in float64."""
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    case = next(case for case in read_cases(tiny, adapter, "vision") if case.template == "object_to_slot")
    generator = np.random.default_rng(0)
    slots = np.arange(60) % 3
    vectors = generator.standard_normal((1, 3, adapter.width))
    erasure = fit_erasure_of_rows(generator.standard_normal((60, adapter.width)) + vectors[0][slots], slots)
    ids = {(case.axis, 0): Fitted(vectors, {}, [erasure])}
    made = steering(case, ["language.1"], ids, 0, ReadoutSettings(id_draws=3, id_alphas=(1.0,)), 0)
    table = run_readout(PatchEngine(adapter), tiny, [case], [made], 0)
    assert table.filter(source="id_norms").select("experiment", "alpha", "draw").rows() == [("steer", 5.0, None)]
    assert table.filter(source="random_norms")["draw"].to_list() == [0, 1, 2]
    erased = table.filter(experiment="erase")
    assert erased.select("source", "alpha", "draw").rows() == [("id", None, None), *(("random", None, draw) for draw in range(3))]
    image = tiny.image(case.clean_scene)
    position = word_position(adapter, image, case.prompt, list(tiny.row(case.clean_scene)["objects"]))  # type: ignore[call-overload]
    step = vectors[0][case.slots[1]] - vectors[0][case.slots[0]]

    def by_norms(x: np.ndarray) -> np.ndarray:
        return np.asarray(x + 5 * np.sqrt((x**2).sum()) * step / np.sqrt((step**2).sum()))

    def without(x: np.ndarray) -> np.ndarray:
        left, right, mean = (part.double().numpy() for part in (erasure.left, erasure.right, erasure.mean))
        return np.asarray(x - left @ (right @ (x - mean)))

    for rows, by_hand in ((table.filter(source="id_norms"), by_norms), (erased.filter(source="id"), without)):

        def change(_module: torch.nn.Module, _inputs: object, output: torch.Tensor, by_hand: Any = by_hand) -> torch.Tensor:
            output = output.clone()
            output[0, position] = torch.as_tensor(by_hand(output[0, position].double().numpy())).to(output)
            return output

        handle = adapter.language_blocks[1].register_forward_hook(change)
        scores = case.reader.log_probabilities(adapter.run(adapter.prepare([image], [case.prompt]))[0])
        handle.remove()
        [row] = rows.iter_rows(named=True)
        assert row["margin"] == pytest.approx(case.reader.log_odds(scores, case.counterfactual_answer, case.clean_answer), abs=1e-4)
        assert abs(row["margin"] - row["margin_clean"]) > 1e-3


def test_after_the_removal_no_slot_is_told_and_its_control_goes_as_far() -> None:
    generator = np.random.default_rng(1)
    slots = np.arange(600) % 3
    of_slot = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [-3.0, -3.0, 0, 0]])
    mixing = generator.standard_normal((4, 4))
    values = generator.standard_normal((600, 4)) @ mixing + of_slot[slots]
    erasure = fit_erasure_of_rows(values, slots)
    x = torch.as_tensor(values).float()
    erased = Erased(erasure)(x, x)

    def spread(rows: torch.Tensor) -> float:
        means = np.stack([rows.numpy()[slots == slot].mean(axis=0) for slot in range(3)])
        return float(np.linalg.norm(means - means.mean(axis=0)))

    assert spread(x) > 4
    assert spread(erased) < 0.05
    # What is left varies: two of four dimensions are gone.
    assert np.linalg.matrix_rank(np.cov(erased.numpy().T), tol=1e-2) == 2
    other = np.array([[0.0, 0, 1, 0], [0, 0, 0, 1]])
    control = Erased(erasure, other)(x, x)
    assert (control - x).norm(dim=-1).numpy() == pytest.approx((erased - x).norm(dim=-1).numpy(), rel=1e-4)
    assert torch.equal((control - x)[:, :2], torch.zeros(600, 2))
    # Towards the mean, not away from it.
    assert (((control - x) * (x - erasure.mean))[:, 2:].sum(dim=-1) <= 1e-6).all()
    # Fewer rows than features: what no row tells stays.
    few = fit_erasure_of_rows(np.pad(values[:9], ((0, 0), (0, 20))), slots[:9])
    stranger = torch.zeros(1, 24)
    stranger[0, 10] = 7.0
    assert Erased(few)(stranger, stranger)[0, 4:].tolist() == stranger[0, 4:].tolist()


@pytest.mark.slow
def test_residuals_of_the_mirrored_picture(tiny: Dataset, tmp_path: Path) -> None:
    """Of pairs on the horizontal axis that ask about an outer object. By hand: a plain pass over the picture turned round."""
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    vision = [case for case in read_cases(tiny, adapter, "vision") if case.template == "object_to_slot"]
    mirrored = mirror_cases(tiny, vision)
    assert mirrored
    assert {case.axis for case in mirrored} == {"horizontal"}
    cases = [*vision, *mirrored]
    plans = [plan(("word",), (), ["language.0"], 2, unrelated=False) for _ in cases]
    table = run_readout(PatchEngine(adapter), tiny, cases, plans, 0)
    turned = table.filter(source="mirror")
    # At the word after one layer, and at the question in all layers.
    assert turned.height == 2 * len(mirrored)
    assert table.height == 2 * len(cases)
    case = mirrored[0]
    image = tiny.image(case.clean_scene)
    other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    position = word_position(adapter, image, case.prompt, list(tiny.row(case.clean_scene)["objects"]))  # type: ignore[call-overload]
    held = []
    handle = adapter.language_blocks[0].register_forward_hook(lambda _block, _inputs, output: held.append(output.clone()))
    source = case.reader.log_probabilities(adapter.run(adapter.prepare([other], [case.prompt]))[0])
    handle.remove()

    def swap(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, position] = held[0][0, position]
        return output

    handle = adapter.language_blocks[0].register_forward_hook(swap)
    scores = case.reader.log_probabilities(adapter.run(adapter.prepare([image], [case.prompt]))[0])
    handle.remove()
    [row] = turned.filter(pair_id=case.pair_id, group="word.target").iter_rows(named=True)
    places = ["left", "middle", "right"]
    assert places.index(case.clean_answer) + places.index(case.counterfactual_answer) == 2
    odds = [case.reader.log_odds(each, case.counterfactual_answer, case.clean_answer) for each in (scores, source)]
    assert [row["margin"], row["margin_source"]] == pytest.approx(odds, abs=1e-4)
    # The pair's own source is another one.
    [own] = table.filter(pair_id=case.pair_id, source="counterfactual", group="word.target").iter_rows(named=True)
    assert own["margin_source"] != pytest.approx(row["margin_source"], abs=1e-4)


def test_measures_of_planted_answers() -> None:
    table = synthetic.readout()
    found = measured(table).filter(axis="both axes")
    flips = found.filter(measure="flip_rate", source="counterfactual")
    rates = {(row["token_set"], row["site"]): row["estimate"] for row in flips.iter_rows(named=True)}
    assert (rates["image", "language.2"], rates["image", "language.3"], rates["question", "language.3"]) == (1.0, 0.0, 1.0)
    assert rates["question", "all layers"] == pytest.approx(41 / 46)
    assert found.filter(measure="recovery", site="all layers")["estimate"].item() == pytest.approx(41 / 46)
    right = found.filter(measure="accuracy").select("token_set", "estimate", "control_estimate").rows()
    assert right == [
        ("question", pytest.approx(32 / 46), pytest.approx(1 / 3)),
        ("untouched", pytest.approx(14 / 46), pytest.approx(1 / 3)),
    ]
    verdicts = dict(judged({"readout": table}).filter(experiment="claims").select("measure", "verdict").iter_rows())
    assert (verdicts["text_decides"], verdicts["text_suffices"]) == ("supported", "supported")
    assert verdicts["spatial_id_swap"] == "supported"
    swap = id_swap(table)
    assert swap is not None
    assert (swap.rate.estimate, swap.control.estimate) == (pytest.approx(28 / 46), pytest.approx(5 / 46))
    assert swap.difference.estimate == pytest.approx(23 / 46)
    steered = found.filter(measure="flip_rate", site="language.2", token_set="word.target")
    assert dict(steered.select("source", "estimate").iter_rows()) == pytest.approx({"id": 28 / 46, "random": 5 / 46, "other_axis": 0.0})
    # Of 40 right answers 36 are read at layer 2; of 24 wrong ones 20 agree with the answer, 4 with the truth.
    read = found.filter(site="language.2", source="id")
    assert read.filter(measure="id_accuracy")["estimate"].item() == 0.9
    on_errors = dict(read.filter(measure="id_on_errors").select("outcome", "estimate").iter_rows())
    assert on_errors == pytest.approx({"given": 5 / 6, "truth": 1 / 6})
    assert verdicts["id_faithful_on_errors"] == "supported"
    turned = table.with_columns(outcome=pl.lit("stay"), right_after=pl.col("pair_id").str.ends_with("0"))
    verdicts = dict(judged({"readout": turned}).filter(experiment="claims").select("measure", "verdict").iter_rows())
    assert {verdicts[name] for name in ("text_decides", "text_suffices", "spatial_id_swap")} == {"refuted"}


def test_what_the_removal_loses_is_counted_once_a_pair() -> None:
    """Of eight pairs two are set aside; the removal loses five of the others, random subspaces each in one of three draws."""
    pair = {"axis": "horizontal", "template": "object_to_slot", "experiment": "erase", "group": "word.target", "site": "language.1"}
    pair |= {
        "layer": 1,
        "alpha": None,
        "all_layers": False,
        "outcome": "other",
        "picture": "own",
        "candidates": ["left", "middle", "right"],
        "candidate_mass_clean": 0.9,
    }
    rows = [
        {
            **pair,
            "pair_id": str(number),
            "included": number < 6,
            "source": source,
            "draw": draw,
            "right_after": right,
            "candidate_mass": mass,
        }
        for number in range(8)
        for source, draw, right, mass in (
            ("id", None, number == 0, 0.9 if number else 0.1),
            *(("random", draw, draw != 1, 0.9) for draw in range(3)),
        )
    ]
    table = pl.DataFrame(rows, schema_overrides={"alpha": pl.Float64})
    found = measured(table).filter(axis="both axes", site="language.1")
    counts = {(row["source"], row["measure"]): (row["estimate"], row["n"], row["set_aside"]) for row in found.iter_rows(named=True)}
    assert counts == {
        ("id", "damage"): (pytest.approx(5 / 6), 6, 2),
        ("id", "broken"): (pytest.approx(1 / 6), 6, 2),
        ("random", "damage"): (pytest.approx(1 / 3), 6, 2),
        ("random", "broken"): (0.0, 6, 2),
    }
    assert set(found["condition"]) == {"slot removed"}


def test_the_question_has_to_be_right_more_often_than_a_guess_and_than_the_grey_picture_alone() -> None:
    """A guess about a relation is right in half of the cases; a model may answer from the question's words without the picture."""
    table = synthetic.readout()
    found = judged({"readout": table}).filter(experiment="claims", measure="text_suffices")
    assert found.select("control", "control_estimate").row(0) == ("a guess among the candidates", pytest.approx(1 / 3))
    relations = judged({"readout": table.with_columns(template=pl.lit("relation_to_object"))}).filter(measure="text_suffices")
    assert relations.filter(experiment="claims")["control_estimate"].item() == pytest.approx(1 / 2)
    # The same answers without the real picture's residuals.
    answers = pl.col("right_after").first().over("pair_id", "experiment")
    alone = table.with_columns(right_after=pl.when(experiment="sufficiency").then(answers).otherwise("right_after"))
    found = judged({"readout": alone}).filter(experiment="claims", measure="text_suffices")
    assert found.select("control", "difference", "verdict").row(0) == ("the grey picture alone", 0.0, "refuted")


def test_wrong_answers_of_one_scene_count_as_what_they_say_alike() -> None:
    read = synthetic.readout().filter(experiment="read")
    by_question = faithful(read)
    # The same 24 wrong answers, four a scene that agree.
    wrong = read.filter(~pl.col("right_after")).sort("site", "outcome").with_columns(number=pl.int_range(pl.len()).over("site"))
    scenes = wrong.with_columns(pair_id=pl.format("{}/object_to_slot", pl.col("number") // 4)).drop("number")
    by_scene = faithful(pl.concat([read.filter("right_after"), scenes]))
    assert by_question is not None
    assert by_scene is not None
    assert by_scene.rate.estimate == by_question.rate.estimate == pytest.approx(5 / 6)
    assert (by_question.rate.n, by_scene.rate.n) == (24, 24)
    assert by_question.difference.low > 0 > by_scene.difference.low
    assert by_scene.rate.low < by_question.rate.low - 0.1


def test_of_a_layer_that_was_chosen_pairs_count_for_less() -> None:
    generator = np.random.default_rng(0)
    pairs = {"axis": "horizontal", "template": "object_to_slot", "included": True, "alpha": 2.0}
    pairs |= {"experiment": "steer", "group": "word.target"}
    table = pl.DataFrame(
        [
            {**pairs, "pair_id": f"{pair:02d}", "site": f"language.{layer}", "source": source, "outcome": outcome}
            for layer in range(3)
            for source in ("id", "random")
            for pair, outcome in enumerate(generator.choice(["flip", "stay"], 40))
        ]
    )
    swap = id_swap(table)
    assert swap is not None
    exact = binomial(round(swap.rate.estimate * 40), 40)
    assert swap.alike < 40
    assert (swap.rate.estimate, swap.rate.n) == (exact.estimate, 40)
    assert swap.rate.low < exact.low


def test_the_p_of_a_claim_with_a_floor_tests_the_floor() -> None:
    table = synthetic.readout()
    # 27 of 46 pairs on either axis follow the other run, and none an unrelated picture: more than the control, not surely most.
    some = (pl.col("experiment") == "usage") & pl.col("all_layers") & (pl.col("source") == "counterfactual")
    half = table.with_columns(outcome=pl.when(some & (pl.col("pair_id").str.tail(5) >= "00027")).then(pl.lit("stay")).otherwise("outcome"))
    found = judged({"readout": half}).filter(experiment="claims", measure="text_decides").row(0, named=True)
    assert (found["estimate"], found["verdict"]) == (pytest.approx(27 / 46), "inconclusive")
    assert found["p"] == pytest.approx(binomial_p(54, 92, 0.5))


@pytest.mark.slow
def test_the_stage_writes_its_table_and_refuses_what_it_does_not_know(tiny: Dataset, tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "reader", "qwen2_vl")
    settings = {"enabled": True, "pairs": 1, "groups": ["image"], "corrupted": ["noise"], "sites": ["language.1"], "id_questions": 0}
    asked = job(reader, tiny.folder, tmp_path, "table", settings)
    readout(asked)
    # Two axes, one pair: one group at one layer, the question twice in all, and two of the noise.
    assert pl.read_parquet(asked.outputs["table"]).height == 2 * 5
    assert pl.read_parquet(asked.outputs["ids"]).is_empty()
    more = {"mirror": True, "id_questions": 18, "id_draws": 1, "id_alphas": [2.0], "pairs": 3, "groups": [], "corrupted": []}
    readout(Job({**asked.settings, "stage": {**settings, **more}}, asked.inputs, asked.outputs))
    steered = pl.read_parquet(asked.outputs["table"]).filter(experiment="steer")
    assert set(steered["template"]) == {"object_to_slot"}
    assert set(steered["source"]) == {"id", "random", "other_axis", "id_norms", "random_norms"}
    table = pl.read_parquet(asked.outputs["table"])
    assert set(table.filter(experiment="erase")["source"]) == {"id", "random"}
    assert set(table.filter(source="mirror")["axis"]) == {"horizontal"}
    ids = pl.read_parquet(asked.outputs["ids"])
    assert set(ids["site"]) == {"language.1"}
    for _, of_half in ids.group_by("axis", "half"):
        assert np.stack(of_half["vector"].to_list()).sum(axis=0) == pytest.approx(0, abs=1e-5)
    read = pl.read_parquet(asked.outputs["table"]).filter(experiment="read")
    assert set(read["axis"]) == {"horizontal", "vertical"}
    asks = Dataset.open(tiny.folder).questions.filter(template="object_to_slot", variant="main", split="test")
    known = read.join(asks.select("question_id", "scene_id", "answer"), left_on="pair_id", right_on="question_id")
    assert known.height == read.height > 0
    assert known["scene_id"].to_list() == scenes_of(known)
    assert ((known["id_read"] == known["answer"]) == (known["outcome"] == "truth")).all()
    assert ((known["predicted"] == known["answer"]) == known["right_after"]).all()
    for wrong, says in (
        ({"groups": ["text"]}, r"stage\.groups"),
        ({"corrupted": ["black"]}, r"stage\.corrupted"),
        ({"id_alphas": []}, "id_alphas: name at least one"),
        ({"sites": ["language.9"]}, "site 'language.9': this model has"),
        ({"sites": ["connector"]}, r"readout\.sites: connector holds visual tokens only"),
    ):
        with pytest.raises(UserError, match=says):
            readout(Job({**asked.settings, "stage": wrong}, asked.inputs, asked.outputs))


def test_a_group_that_no_question_has_is_left_out_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert groups_there(("word",), ["slot_to_object", "object_to_slot"]) == ("word",)
    assert groups_there(("image", "word"), ["slot_to_object"]) == ("image",)
    assert "readout.groups: word: no pair's question names an object" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"readout\.groups: word: .*object_to_slot.*; allowed without them are image, question and answer"):
        groups_there(("word",), ["slot_to_object"])
