"""Attention knockout: token groups by hand, what is closed, what the measures say of planted damages, and of an organism."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import synthetic_results as synthetic
from stage_inputs import job, make_reader
from vlm_spatial.config.routes import TEXT_ROUTES, RouteName
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.edited_runs import windows
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.patch import InBlocks, PairRuns, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.interventions.route_names import ROUTES
from vlm_spatial.interventions.routes import Closing, closings, edits_of_closing, positions_of, run_routes
from vlm_spatial.interventions.token_groups import text_groups
from vlm_spatial.measures.claims import judged
from vlm_spatial.measures.routes import ALL_LAYERS, fallback, knockouts, text_mediated_share
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import Knockout
from vlm_spatial.models.inputs import Begun
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.routes import routes
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"
PICTURE = Image.new("RGB", (96, 96), "red")


def test_groups_are_the_image_the_question_and_what_the_template_writes(adapter: Adapter) -> None:
    """Read off the decoded tokens, in every family."""
    prompt = "which object is on the left ?"
    groups = text_groups(adapter, PICTURE, prompt)
    ids = adapter.tokens(PICTURE, prompt)[0][0]
    tokenizer = adapter.processor.tokenizer
    said = tokenizer.decode(ids[groups["question"]])
    # Where the template writes nothing behind the question, its last token answers.
    asked = prompt if len(groups["tail"]) else prompt[:-1]
    assert asked.replace(" ", "") in said.replace(" ", "")
    assert "left" not in tokenizer.decode(ids[groups["answer"]])
    assert groups["answer"].tolist() == [*groups["tail"], *groups["last"]]
    assert groups["last"].tolist() == [len(ids) - 1]
    # One stretch after the other: no token behind the image is in no group, so none is a detour.
    behind = np.concatenate([groups["image"], groups["question"], groups["answer"]])
    assert behind.tolist() == list(range(groups["image"][0], len(ids)))
    begun = text_groups(adapter, PICTURE, Begun(prompt, (3,)))
    # What is begun answers; where the template writes nothing, the question's last token no longer does.
    assert begun["answer"].tolist() == [*groups["tail"], *(groups["last"] if len(groups["tail"]) else []), len(ids)]
    asked_for = [*groups["question"], *([] if len(groups["tail"]) else groups["last"])]
    assert begun["question"].tolist() == asked_for


def test_a_prompt_without_a_question_is_refused(adapter_of: Callable[[str], Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_of("llava")
    monkeypatch.setattr("vlm_spatial.interventions.token_groups._OTHERS", ("what is left ?",))
    with pytest.raises(UserError, match="token group 'question' has no token here"):
        text_groups(adapter, PICTURE, "what is left ?")


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(4, [(0, 0), (1, 1), (2, 2), (3, 3)]), (5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)]), (8, [(0, 1), (1, 2), (2, 3)])],
)
def test_windows(depth: int, expected: list[tuple[int, int]]) -> None:
    assert windows(depth)[: len(expected)] == expected
    assert windows(28)[:3] == [(0, 4), (0, 6), (0, 8)]
    assert len(windows(28)) == 14


def test_every_route_of_the_configuration_is_known_and_has_a_control() -> None:
    assert set(ROUTES) == set(TEXT_ROUTES) | {"between_slots", "background_to_objects"}
    plan = closings(TEXT_ROUTES, windows(4), 4, controls=True)
    for route in TEXT_ROUTES:
        kinds = {(closing.keys, closing.form) for closing in plan if closing.route == route}
        assert kinds == {("all", "renormalised"), ("all", "value_zero"), ("random" if ROUTES[route].has_random else "half", "renormalised")}


def test_what_is_closed(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    cases = read_cases(tiny, adapter, "vision")
    case = next(case for case in cases if case.template == "relation_to_object")
    [run] = case.runs({scene: tiny.image(scene) for scene in case.shown})
    groups = positions_of(adapter, run, case)
    cells = PatchEngine(adapter).layout(run.clean).cells_at

    def closed(route: RouteName, keys: str = "all") -> list[Knockout]:
        made = edits_of_closing(Closing(route, keys, "renormalised", 0, 2), groups, [0, 0])  # type: ignore[arg-type]
        assert all(isinstance(edit, Knockout) for edit in made)
        return made  # type: ignore[return-value]

    [edit] = closed("object_to_answer")
    assert edit.keys.tolist() == cells[case.tokens.objects[case.slots[0]]].tolist()
    assert edit.queries.tolist() == groups["answer"].tolist()
    [random] = closed("object_to_answer", "random")
    assert len(random.keys) == len(edit.keys)
    assert not set(random.keys) & set(edit.keys)
    assert set(random.keys) <= set(cells)
    [half] = closed("image_to_question", "half")
    assert len(half.keys) == len(groups["image"]) // 2
    [named] = closed("reference_to_question")
    words = {"red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink", "brown", "gray", "black", "white"}
    contents = list(tiny.row(case.clean_scene)["objects"])  # type: ignore[call-overload]
    [word] = [word for word in contents if word in case.prompt] or words
    assert named.keys.tolist() == cells[case.tokens.objects[contents.index(word)]].tolist()
    assert len(closed("image_to_both")) == 2
    # Inside the image every strip loses both others, and a cell keeps its own strip.
    for edit in closed("between_slots"):
        assert not set(edit.queries) & set(edit.keys)
    without = next(case for case in cases if case.template == "slot_to_object")
    [run] = without.runs({scene: tiny.image(scene) for scene in without.shown})
    assert edits_of_closing(Closing("reference_to_question", "all", "renormalised", 0, 2), positions_of(adapter, run, without), [0]) == []


def test_a_standing_route_closed_again_changes_nothing(tiny: Dataset, tmp_path: Path) -> None:
    """Exactly, in the plain pass; and pairs are judged under what stands closed."""
    adapter = load_adapter(make_reader(tmp_path / "reader", "gemma3"), device="cpu")
    case = read_cases(tiny, adapter, "vision")[0]
    runs = case.runs({scene: tiny.image(scene) for scene in case.shown})
    groups = positions_of(adapter, runs[0], case)
    last = len(adapter.language_blocks) - 1
    [standing] = edits_of_closing(Closing("image_to_question", "all", "renormalised", 0, last), groups, [0])
    [window] = edits_of_closing(Closing("image_to_question", "all", "renormalised", 1, 1), groups, [0])
    once = run_plain(adapter, runs, [InBlocks(0, standing)])
    assert (run_plain(adapter, runs, [(InBlocks(0, standing), InBlocks(0, window))]) == once).all()
    table = run_routes(
        PatchEngine(adapter), tiny, [case], closings(("image_to_question",), [(1, 1)], last + 1, controls=False), ("image_to_question",), 0
    )
    assert table["relative_probability"].abs().max() < 1e-4  # type: ignore[operator]
    assert set(table["condition"]) == {"image_to_question"}
    assert table["margin"].to_list() == pytest.approx(table["margin_clean"].to_list(), abs=1e-5)


@pytest.mark.slow
def test_the_stage_writes_its_table_and_refuses_masks_under_flash_attention(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make_reader(tmp_path / "reader", "qwen2_vl")
    asked = job(
        reader,
        tiny.folder,
        tmp_path,
        "table",
        {"enabled": True, "pairs": 2, "routes": ["image_to_answer", "object_to_question"], "heads": False},
    )
    asked = Job(asked.settings, asked.inputs, {**asked.outputs, "heads": tmp_path / "heads.parquet"})
    routes(asked)
    table = pl.read_parquet(asked.outputs["table"])
    # Two axes, two pairs; three windows and all layers, each with its control, and values removed.
    assert table.height == 2 * 2 * 2 * (4 * 2 + 1)
    assert table["candidate_mass"].is_between(0, 1).all()
    assert table.filter(keys="half")["positions"].max() == table.filter(route="image_to_answer", keys="all")["positions"].max() // 2  # type: ignore[operator]

    def flashy(**_: object) -> Adapter:
        adapter = load_adapter(reader, device="cpu")
        adapter.model.config._attn_implementation_internal = "flash_attention_2"
        monkeypatch.setattr(adapter.model, "forward", lambda *_, **__: pytest.fail("the model ran"))
        return adapter

    monkeypatch.setattr("vlm_spatial.stages.routes.load_adapter", flashy)
    with pytest.raises(UserError, match="attention 'flash_attention_2' cannot take"):
        routes(asked)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"stage\.routes\.0"):
        routes(Job({**asked.settings, "stage": {"routes": ["image_to_nowhere"]}}, asked.inputs, asked.outputs))


@pytest.mark.slow
def test_closing_a_route_to_text_costs_less_than_a_tenth_of_a_full_pass(tmp_path: Path) -> None:
    """Counted in blocks that run, on 256 cells as at the published size: the plan of every such route, its controls included."""
    reader = make_reader(tmp_path / "reader", "qwen2_vl")
    processing = reader / "preprocessor_config.json"
    written = json.loads(processing.read_text(encoding="utf-8"))
    processing.write_text(json.dumps(written | {"size": {"shortest_edge": 256**2, "longest_edge": 256**2}}), encoding="utf-8")
    adapter = load_adapter(reader, device="cpu")
    picture, prompt = PICTURE.resize((256, 256)), "Is the red square on the left, in the middle or on the right?"
    assert adapter.grid(256, 256).size == 256
    groups = text_groups(adapter, picture, prompt)
    depth, length = len(adapter.language_blocks), groups["last"][0] + 1
    names: tuple[RouteName, ...] = ("image_to_question", "image_to_answer", "question_to_answer", "image_to_both")
    plan = closings(names, windows(depth), depth, controls=True)
    engine, runs = PatchEngine(adapter), [PairRuns("pair", Run(picture, prompt))]
    computed: list[int] = []
    handles = [
        block.register_forward_hook(lambda _block, inputs, _output: computed.append(inputs[0].shape[0] * inputs[0].shape[1]))
        for block in adapter.language_blocks
    ]
    edits = [tuple(InBlocks(0, edit) for edit in edits_of_closing(closing, groups, [0])) for closing in plan]
    # Once for a layout, its masks are worked out.
    engine.clean(runs)
    whole, costs = length * (depth - 1) + 1, {}
    for closing, edit in zip(plan, edits, strict=True):
        computed.clear()
        engine.run(runs, [edit])
        # The untouched run's keys and values are computed once in a call, for all edits in it.
        costs[closing] = (sum(computed) - whole) / (length * depth) / len(edit)
    for handle in handles:
        handle.remove()
    # One route is one edit, two routes closed at once are several. Where values alone are removed, rows run once more.
    assert all(0 < cost <= 0.1 for cost in costs.values()), costs
    assert np.mean(list(costs.values())) <= 0.05


def test_measures_of_planted_damages() -> None:
    table = synthetic.routes()
    share, _, p, _ = text_mediated_share(table)
    # 23 and 5 of 46 on either axis.
    assert share.estimate == pytest.approx(23 / 28)
    assert p < 0.001
    # Where one route loses nothing, its share is 0 and may be more.
    alone, *_ = text_mediated_share(table.with_columns(right_after=pl.col("right_after") | pl.col("route").eq("image_to_answer")))
    assert (alone.estimate, alone.high) == (1.0, 1.0)
    assert 0.7 < alone.low < 0.95
    surplus, p, _ = fallback(table)
    assert surplus.estimate == pytest.approx((37 - 23 - 5) / 46)
    assert p < 0.05
    rows = knockouts(table)
    found = rows.filter(axis="both axes", site=ALL_LAYERS, condition="closed")
    assert found.filter(measure="damage", token_set="image_to_both")["estimate"].item() == pytest.approx(37 / 46)
    assert found.filter(measure="broken", token_set="image_to_both")["estimate"].item() == pytest.approx(37 / 46)
    assert found.filter(measure="recovery", token_set="question_to_answer")["estimate"].item() == pytest.approx(32 / 46)
    assert rows.filter(site="language.2", measure="damage", token_set="image_to_both", axis="both axes")["n"].item() == 92
    verdicts = dict(judged({"routes": table}).filter(experiment="claims").select("measure", "verdict").iter_rows())
    assert verdicts["object_to_question_needed"] == "supported"
    assert verdicts["object_to_answer_needed"] == "refuted"
    assert verdicts["text_mediated_share"] == "supported"
    assert verdicts["fallback"] == "supported"
    assert "fallback" not in set(judged({})["measure"])


def test_a_share_of_two_small_damages_is_not_given() -> None:
    table = synthetic.routes().with_columns(right_after=pl.col("route").is_in(["image_to_both"]).not_())
    share, *_ = text_mediated_share(table)
    assert np.isnan(share.estimate)
    assert fallback(table)[0].estimate == pytest.approx(1.0)


@pytest.mark.slow
def test_an_organism_needs_the_object_and_no_random_tokens(tiny: Dataset) -> None:
    adapter = load_adapter(ORGANISMS / "natural-gemma3", device="cpu")
    depth = len(adapter.language_blocks)
    plan = closings(("object_to_answer", "image_to_both"), [], depth, controls=True)
    table = run_routes(PatchEngine(adapter), tiny, read_cases(tiny, adapter, "vision"), plan, (), 0)
    damage = table.filter("included", form="renormalised").group_by("route", "keys").agg(pl.col("right_after").not_().mean())
    found = {(route, keys): value for route, keys, value in damage.iter_rows()}
    assert found["object_to_answer", "all"] >= 0.4
    assert found["object_to_answer", "random"] == 0
    assert found["image_to_both", "all"] >= 0.4


@pytest.mark.parametrize(("closed", "opened"), [("image_to_question", "image_to_answer"), ("image_to_answer", "image_to_question")])
@pytest.mark.slow
def test_where_one_route_stands_closed_the_other_is_the_only_one(tiny: Dataset, closed: RouteName, opened: RouteName) -> None:
    """Planted by a standing mask: what the model still answers right came the other way. Closing the closed one again changes nothing."""
    adapter = load_adapter(ORGANISMS / "natural-qwen2_vl", device="cpu")
    depth = len(adapter.language_blocks)
    plan = closings((closed, opened, "image_to_both"), [], depth, controls=False)
    table = run_routes(PatchEngine(adapter), tiny, read_cases(tiny, adapter, "vision"), plan, (closed,), 0).filter("included")
    assert table["pair_id"].n_unique() >= 2
    lost = {route: 1 - right for route, right in table.group_by("route").agg(pl.col("right_after").mean()).iter_rows()}
    assert lost[closed] == 0
    assert table.filter(route=closed)["relative_probability"].abs().max() < 1e-4  # type: ignore[operator]
    # Without any route, an answer is a guess: that of a clean scene or of its counterfactual, but not of both.
    assert lost[opened] == lost["image_to_both"] > 0
    both = table.filter(route="image_to_both").sort("pair_id")["margin"].to_list()
    assert table.filter(route=opened).sort("pair_id")["margin"].to_list() == pytest.approx(both, abs=1e-4)
