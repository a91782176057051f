"""The last-token sweep: its two exact identities in every family, and where an organism reads the picture."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stage_inputs import SETTINGS, make_reader
from vlm_spatial.config.interchange import InterchangeSettings
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.last_token import EMBEDDING, last_token_cases, last_token_plan
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.interventions.sweep import run_sweep
from vlm_spatial.measures.flips import last_token_outcomes
from vlm_spatial.measures.last_token import carried, layers
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.questions import SLOT_WORDS
from vlm_spatial.stages.interchange import planned_sweeps
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"


def test_the_source_asks_for_the_other_slot_of_another_picture(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    cases = last_token_cases(tiny, read_cases(tiny, adapter, "language"))
    assert len(cases) == 8
    for case in cases:
        clean, source = (list(tiny.row(scene)["objects"]) for scene in (case.clean_scene, case.counterfactual_scene))  # type: ignore[call-overload]
        asked, other = case.slots
        assert case.hypotheses == {"stay": clean[asked], "ordinal": clean[other], "attribute": source[other]}
        assert case.counterfactual_answer == source[other]
        assert SLOT_WORDS[case.axis][asked] in case.prompt  # type: ignore[index]
        assert SLOT_WORDS[case.axis][other] in case.counterfactual_prompt  # type: ignore[index]


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
@pytest.mark.slow
def test_the_first_entry_changes_nothing_and_the_last_block_everything(tiny: Dataset, tmp_path: Path, family: str) -> None:
    """Both prompts end in the same token, whose embedding is the same; after the last block only the head follows."""
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    engine = PatchEngine(adapter)
    cases = last_token_cases(tiny, read_cases(tiny, adapter, "language"))[:3]
    runs = [run for case in cases for run in case.runs({scene: tiny.image(scene) for scene in case.shown})]
    last = f"language.{len(adapter.language_blocks) - 1}"
    for site in (EMBEDDING, "language.0", last):
        patches = [exchange.patch(number) for number, case in enumerate(cases) for exchange in last_token_plan(adapter, tiny, [site])(case)]
        found = engine.run(runs, patches)
        plain = run_plain(adapter, runs, patches)
        assert float((found - plain).abs().max() / plain.abs().max()) <= 1e-5
        clean = engine.clean(runs)
        sources = [run.sources["counterfactual"] for run in runs]
        there = np.concatenate([adapter.run(adapter.prepare([run.image], [run.prompt]))[0] for run in sources])
        if site == EMBEDDING:
            np.testing.assert_allclose(found.numpy(), clean.numpy(), atol=1e-5)
        elif site == last:
            np.testing.assert_allclose(found.numpy(), there, atol=1e-5)
        # Otherwise both identities would hold of a patch that does nothing.
        assert np.abs(there - clean.numpy()).max() > 1e-3


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
@pytest.mark.slow
def test_the_question_taken_at_the_entry_is_the_other_question_asked_of_the_own_picture(tiny: Dataset, tmp_path: Path, family: str) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    engine = PatchEngine(adapter)
    cases = last_token_cases(tiny, read_cases(tiny, adapter, "language"))[:3]
    runs = [run for case in cases for run in case.runs({scene: tiny.image(scene) for scene in case.shown})]
    last = f"language.{len(adapter.language_blocks) - 1}"
    plan = last_token_plan(adapter, tiny, [EMBEDDING, last], ("question", "tail"))
    exchanges = [(number, exchange) for number, case in enumerate(cases) for exchange in plan(case)]
    assert {exchange.token_set for _, exchange in exchanges} >= {"question"}
    found = engine.run(runs, [exchange.patch(number) for number, exchange in exchanges]).numpy()
    clean = engine.clean(runs).numpy()
    for (number, exchange), logits in zip(exchanges, found, strict=True):
        case, own = cases[number], runs[number].clean
        asked = adapter.run(adapter.prepare([own.image], [case.counterfactual_prompt]))[0][0].numpy()
        # The tail is the chat template's, the same in both; after the last block nothing is read from either.
        expected = asked if exchange.token_set == "question" and exchange.site == EMBEDDING else clean[number]
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        assert np.abs(asked - clean[number]).max() > 1e-3


@pytest.mark.slow
def test_groups_are_measured_apart_and_the_claims_are_of_the_last_position(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    cases = last_token_cases(tiny, read_cases(tiny, adapter, "language"))
    both, alone = (
        run_sweep(PatchEngine(adapter), tiny, cases, last_token_plan(adapter, tiny, ["language.0", "language.1"], groups))
        for groups in (("last", "question"), ("last",))
    )
    assert set(last_token_outcomes(both)["token_set"]) == set(layers(both)["token_set"]) | {"last", "question"} == {"last", "question"}
    ours, whole = carried(both), carried(alone)
    assert ours.pairs == whole.pairs
    np.testing.assert_array_equal(ours.ordinal, whole.ordinal)
    assert last_token_outcomes(both).filter(token_set="last").equals(last_token_outcomes(alone))


@pytest.mark.slow
def test_an_organism_answers_as_the_source_in_the_end(tiny: Dataset) -> None:
    adapter = load_adapter(ORGANISMS / "natural-qwen2_vl", device="cpu")
    depth = len(adapter.language_blocks)
    sites = [EMBEDDING, *(f"language.{layer}" for layer in range(depth))]
    table = run_sweep(
        PatchEngine(adapter), tiny, last_token_cases(tiny, read_cases(tiny, adapter, "language")), last_token_plan(adapter, tiny, sites)
    )
    assert table.filter(site=EMBEDDING)["layer"].null_count() == table.filter(site=EMBEDDING).height
    assert set(table["tokens"]) == {1}
    kept = table.filter("included")
    assert kept["pair_id"].n_unique() >= 6
    assert set(kept.filter(site=EMBEDDING)["outcome"]) == {"stay"}
    assert set(kept.filter(site=f"language.{depth - 1}")["outcome"]) == {"attribute"}
    rates = last_token_outcomes(table).filter(axis="both axes")
    total = rates.group_by("site").agg(pl.col("estimate").sum())
    assert total["estimate"].to_list() == pytest.approx([1.0] * len(sites))


@pytest.mark.slow
def test_pairs_of_five_contents_end_as_the_source_too(tmp_path: Path) -> None:
    """As published: the source asks for the other side of the same middle object. Its picture's answer is the last block's."""
    dataset = {**SETTINGS, "axes": ["horizontal"], "pairs": {"vision": 0, "language": 1, "conflict": 0, "last_token": 6}}
    scenes(Job({"dataset": dataset, "name": "five", "seed": 0}, {}, {"folder": tmp_path / "five"}))
    five = Dataset.open(tmp_path / "five")
    adapter = load_adapter(ORGANISMS / "natural-qwen2_vl", device="cpu")
    depth = len(adapter.language_blocks)
    settings = InterchangeSettings(vision_sites=("connector",), token_sets=("object",), displaced_pairs=0)
    [sweep] = [sweep for sweep in planned_sweeps(adapter, five, settings, 0) if sweep.name == "last-token"]
    assert {case.template for case in sweep.cases} == {"relation_to_object"}
    sites = [EMBEDDING, f"language.{depth - 1}"]
    table = run_sweep(PatchEngine(adapter), five, sweep.cases, last_token_plan(adapter, five, sites)).filter("included")
    assert table.height >= 6
    assert set(table.filter(site=EMBEDDING)["outcome"]) == {"stay"}
    assert set(table.filter(site=sites[1])["outcome"]) == {"attribute"}
