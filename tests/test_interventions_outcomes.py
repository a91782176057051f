"""The plans of the experiments against symbolic models whose mechanism is known: what reads the place must be reported to, and so on."""

import numpy as np
import polars as pl
import pytest

from stage_inputs import make_scenes
from symbolic_models import GRID, NamedDataset, Reader, SymbolicEngine, by_code, by_place, by_strip
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.language import conflict_plan, exchangeable, language_plan
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.sweep import run_sweep
from vlm_spatial.interventions.vision import cells, vision_plan
from vlm_spatial.measures.interventions import objects_covered
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SceneTokens

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", params=["squares", "shapes", "objects"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NamedDataset:
    """Both axes; only pairs that ask for the object in a slot, which is all that the symbolic models understand."""
    opened = Dataset.open(make_scenes(tmp_path_factory.mktemp("scenes") / "tiny", request.param))
    return NamedDataset(opened.folder, opened.scenes, opened.questions, opened.pairs.filter(pl.col("template") == "slot_to_object"))


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "found"), [(by_code, "ordering"), (by_place, "content")])
def test_language_exchange_tells_code_from_place(dataset: NamedDataset, reader: Reader, found: str) -> None:
    engine = SymbolicEngine(dataset, reader)
    cases = exchangeable(read_cases(dataset, engine.adapter, "language"))
    assert cases
    table = run_sweep(engine, dataset, cases, language_plan(["language.0", "language.1"], seed=0))
    assert table["included"].all()
    assert set(table["axis"]) == {"horizontal", "vertical"}
    assert set(table.filter(pl.col("token_set") == "object")["outcome"]) == {found}
    assert set(table.filter(pl.col("token_set") == "random")["outcome"]) == {"stay"}
    assert table["layer"].to_list() == [0, 0, 1, 1] * len(cases)
    # The answer's logit is 5, all others 0.
    exchanged = table.filter(token_set="object")
    assert set(table["log_odds_clean"]) == set(table["content_log_odds_clean"]) == {-5.0}
    assert set(exchanged["log_odds"]) == {5.0 if found == "ordering" else 0.0}
    assert set(exchanged["content_log_odds"]) == {5.0 if found == "content" else 0.0}


@pytest.mark.parametrize(("reader", "found"), [(by_code, "stay"), (by_place, "move")])
def test_conflict_tells_code_from_place(dataset: NamedDataset, reader: Reader, found: str) -> None:
    engine = SymbolicEngine(dataset, reader)
    cases = exchangeable(read_cases(dataset, engine.adapter, "conflict"))
    assert cases
    table = run_sweep(engine, dataset, cases, conflict_plan(("object", "strip")))
    assert set(table["outcome"]) == {found}
    assert set(table["axis"]) == {"horizontal", "vertical"}
    assert (np.sign(table["log_odds"]) == (1 if found == "move" else -1)).all()


def test_vision_exchange_finds_a_layout_spread_over_the_strip(dataset: NamedDataset) -> None:
    engine = SymbolicEngine(dataset, by_strip, spread=True)
    cases = read_cases(dataset, engine.adapter, "vision")
    table = run_sweep(engine, dataset, cases, vision_plan(["connector"], ("object", "strip", "rim", "all"), ("counterfactual",), 0))
    assert set(table["axis"]) == {"horizontal", "vertical"}
    outcomes = {key[0]: set(group["outcome"]) for key, group in table.group_by("token_set")}
    assert outcomes == {"object": {"stay"}, "strip": {"flip"}, "rim": {"flip"}, "all": {"flip"}}


def test_vision_exchange_finds_a_layout_held_by_the_objects_alone(dataset: NamedDataset) -> None:
    engine = SymbolicEngine(dataset, by_place)
    cases = read_cases(dataset, engine.adapter, "vision")
    table = run_sweep(engine, dataset, cases, vision_plan(["connector"], ("object", "rim", "background"), ("counterfactual",), 0))
    outcomes = {key[0]: set(group["outcome"]) for key, group in table.group_by("token_set")}
    assert outcomes == {"object": {"flip"}, "rim": {"stay"}, "background": {"stay"}}


def test_pairs_that_the_model_gets_wrong_are_kept_but_not_included(dataset: NamedDataset) -> None:
    engine = SymbolicEngine(dataset, lambda state, tokens, slot: by_place(state, tokens, (slot + 1) % 3))
    cases = read_cases(dataset, engine.adapter, "conflict")
    table = run_sweep(engine, dataset, cases, conflict_plan(("object",)))
    assert table.height == len(cases)
    assert not table["included"].any()


def test_random_cells_depend_on_seed_and_pair_alone(dataset: NamedDataset) -> None:
    engine = SymbolicEngine(dataset, by_place)
    first, second = read_cases(dataset, engine.adapter, "vision")[:2]
    drawn = cells(first, "random", 0)
    assert len(set(drawn)) == len(drawn) == len(cells(first, "strip", 0))
    np.testing.assert_array_equal(drawn, cells(first, "random", 0))
    assert list(drawn) != list(cells(first, "random", 1))
    assert list(drawn) != list(cells(second, "random", 0))


def test_matched_controls_avoid_what_they_are_held_against(dataset: NamedDataset) -> None:
    """Two of three strips cover most of any grid: random cells of that number hit most objects and flip most answers."""
    engine = SymbolicEngine(dataset, by_strip, spread=True)
    for case in read_cases(dataset, engine.adapter, "vision")[:12]:
        elsewhere = set(cells(case, "random_object", 0))
        assert len(elsewhere) == len(cells(case, "object", 0))
        assert not elsewhere & set(np.flatnonzero(case.tokens.objects.any(axis=0)))
        outside = set(cells(case, "random_strip", 0))
        assert outside == set(range(case.tokens.grid.size)) - set(cells(case, "strip", 0))


def test_the_table_says_how_much_of_objects_and_strips_a_set_covers(dataset: NamedDataset) -> None:
    engine = SymbolicEngine(dataset, by_strip, spread=True)
    cases = read_cases(dataset, engine.adapter, "vision")[:12]
    names = ["object", "strip", "rim", "background", "all", "random"]
    table = run_sweep(engine, dataset, cases, vision_plan(["connector"], names, ["counterfactual"], 0))
    sizes = {name: table.filter(token_set=name).sort("pair_id") for name in names}
    for name in ("object", "strip", "all"):
        np.testing.assert_array_equal(sizes[name]["object_tokens"], sizes["object"]["tokens"])
    for name in ("rim", "background"):
        assert sizes[name]["object_tokens"].sum() == 0
    np.testing.assert_array_equal(sizes["all"]["strip_tokens"], sizes["strip"]["tokens"])
    for case in cases:
        row = sizes["random"].row(by_predicate=pl.col("pair_id") == case.pair_id, named=True)
        drawn, objects = set(cells(case, "random", 0)), set(cells(case, "object", 0))
        assert row["object_tokens"] == len(drawn & objects)
        assert row["strip_tokens"] == len(drawn & set(cells(case, "strip", 0)))
    share = (sizes["random"]["object_tokens"] / sizes["object"]["tokens"]).mean()
    assert objects_covered(table) == pytest.approx(share)
    assert 0 < share < 1


def test_objects_on_unlike_cells_are_set_aside_and_counted(dataset: NamedDataset, capsys: pytest.CaptureFixture[str]) -> None:
    engine = SymbolicEngine(dataset, by_place)
    cases = read_cases(dataset, engine.adapter, "conflict")
    objects = cases[0].tokens.objects.copy()
    objects[cases[0].slots[0], :] = False
    objects[cases[0].slots[0], 0] = True
    odd = SceneTokens(GRID, objects, cases[0].tokens.strips)
    bent = cases[0].__class__(**{**cases[0].__dict__, "tokens": odd, "counterfactual_tokens": odd})
    assert exchangeable([bent, *cases[1:]]) == cases[1:]
    assert f"1 of {len(cases)} conflict pairs set aside" in capsys.readouterr().err


def test_hypotheses_that_agree_are_refused(dataset: NamedDataset) -> None:
    engine = SymbolicEngine(dataset, by_place)
    same = pl.struct(
        *[
            pl.col("hypotheses").struct.field("stay").alias(name) if name == "move" else pl.col("hypotheses").struct.field(name)
            for name in ("stay", "flip", "ordering", "content", "move")
        ]
    )
    wrong = Dataset(dataset.folder, dataset.scenes, dataset.questions, dataset.pairs.with_columns(hypotheses=same))
    with pytest.raises(UserError, match=r"pair conflict-.*hypotheses"):
        read_cases(wrong, engine.adapter, "conflict")
