"""Attention heads at the last token: dead and lone heads, all of them, one by hand; what the measures say of planted heads."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import synthetic_results as synthetic
from stage_inputs import job, make_reader
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.heads import HeadSweep, drawn_alike, ranked_first, sizes
from vlm_spatial.interventions.last_token import last_token_cases
from vlm_spatial.interventions.pairs_on_grid import Case, read_cases
from vlm_spatial.interventions.patch import InBlocks
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.measures.claims import judged
from vlm_spatial.measures.heads import few_heads, heads
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import HeadOutput, head_count, head_width
from vlm_spatial.models.heads import head_gradients, head_outputs
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.routes import routes
from vlm_spatial.statistics import binomial_limits

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"


def some_cases(dataset: Dataset, adapter: Adapter, count: int) -> list[Case]:
    return last_token_cases(dataset, read_cases(dataset, adapter, "language"))[:count]


def changes(table: pl.DataFrame, chosen: str) -> list[float]:
    return table.filter(chosen=chosen).select(pl.col("attribute_log_odds") - pl.col("attribute_log_odds_clean")).to_series().to_list()


def test_heads_are_ranked_and_drawn_by_hand() -> None:
    assert sizes(12) == [1, 2, 4, 8, 12]
    assert sizes(1) == [1]
    chosen = ranked_first(np.array([[0.1, 0.5], [0.5, -1.0], [0.4, 0.2]]), 3)
    assert chosen.tolist() == [[False, True], [True, False], [True, False]]
    drawn = [drawn_alike(chosen, np.random.default_rng(seed)) for seed in range(20)]
    assert all((each.sum(axis=1) == chosen.sum(axis=1)).all() for each in drawn)
    assert len({each.tobytes() for each in drawn}) > 1


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
@pytest.mark.slow
def test_dead_heads_do_nothing_and_a_lone_one_does_everything(tiny: Dataset, tmp_path: Path, family: str) -> None:
    """Heads whose slice of the output projection is zero, but for one; and all heads together are the source's own run."""
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    width, alive = head_width(adapter), (1, 1)
    with torch.no_grad():
        for layer, block in enumerate(adapter.language_blocks):
            # So large that a random model's answers depend on it.
            block.self_attn.o_proj.weight *= 20
            for head in range(head_count(adapter)):
                if (layer, head) != alive:
                    block.self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0
    cases = some_cases(tiny, adapter, 2)
    table = HeadSweep(PatchEngine(adapter), tiny, cases, ()).run(2, 0)
    single = table.filter(chosen="each")
    assert single.height == 2 * len(adapter.language_blocks) * head_count(adapter)
    lone = single.filter(layer=alive[0], head=alive[1])
    dead = single.join(lone, on=["layer", "head"], how="anti")
    assert dead.select((pl.col("attribute_log_odds") - pl.col("attribute_log_odds_clean")).abs().max()).item() < 1e-5
    assert min(map(abs, changes(lone, "each"))) > 1e-3
    assert changes(lone, "each") == pytest.approx(changes(table, "all"), abs=1e-5)
    every = table.filter(chosen="all")
    assert every["attribute_log_odds"].to_list() == pytest.approx(every["attribute_log_odds_source"].to_list(), abs=1e-5)


@pytest.mark.slow
def test_an_organism_by_hand(tiny: Dataset) -> None:
    """One head's patch and one mean ablation of all, with hooks of torch's own on the output projections; and what the measures say."""
    adapter = load_adapter(ORGANISMS / "natural-gemma3", device="cpu")
    cases = some_cases(tiny, adapter, 4)
    table = HeadSweep(PatchEngine(adapter), tiny, cases, ()).run(2, 0)
    assert table["included"].all()
    assert set(table.filter(chosen="all")["outcome"]) == {"attribute"}
    layer, head, width = 2, 1, head_width(adapter)
    blocks = list(adapter.language_blocks)
    clean, source = ([written(adapter, tiny, case, name) for case in cases] for name in ("clean", "counterfactual"))

    def logits(case: Case, laid: dict[int, dict[int, torch.Tensor]]) -> torch.Tensor:
        def put(of_layer: dict[int, torch.Tensor]):
            def hook(_module, inputs):
                for at, values in of_layer.items():
                    inputs[0][0, -1, at * width : (at + 1) * width] = values
                return inputs

            return hook

        handles = [blocks[at].self_attn.o_proj.register_forward_pre_hook(put(of_layer)) for at, of_layer in laid.items()]
        run = adapter.prepare([tiny.image(case.clean_scene)], [case.prompt])
        with torch.inference_mode():
            made = adapter.model(**run.inputs, use_cache=False).logits[0, -1].float()
        for handle in handles:
            handle.remove()
        return made

    [row] = table.filter(pair_id=cases[0].pair_id, chosen="each", layer=layer, head=head).iter_rows(named=True)
    scores = cases[0].reader.log_probabilities(logits(cases[0], {layer: {head: source[0][layer][head]}})[None])
    assert row["attribute_log_odds"] == pytest.approx(
        cases[0].reader.log_odds(scores, cases[0].hypotheses["attribute"], cases[0].hypotheses["stay"]), abs=1e-4
    )
    heads_of = range(head_count(adapter))
    alike = [number for number, case in enumerate(cases) if case.axis == cases[0].axis]
    mean = {at: {one: torch.stack([clean[n][at][one] for n in alike]).mean(dim=0) for one in heads_of} for at in range(len(blocks))}
    [row] = table.filter(pl.col("heads") == pl.col("model_heads"), pair_id=cases[0].pair_id, form="mean").iter_rows(named=True)
    assert row["candidate_mass"] == pytest.approx(np.exp(cases[0].reader.log_probabilities(logits(cases[0], mean)[None])).sum(), abs=1e-4)
    found = heads(table).filter(axis="both axes")
    effects = found.filter(measure="head_effect", outcome="attribute")
    assert effects.sort("estimate").select("site", "head").row(-1) == ("language.3", 1)
    assert effects.height == len(blocks) * head_count(adapter)
    assert found.filter(measure="outcome_rate", heads=12)["estimate"].to_list() == [1.0]


def written(adapter: Adapter, dataset: Dataset, case: Case, name: str) -> dict[int, list[torch.Tensor]]:
    """What each head of each layer writes at the last token, by hand."""
    found: dict[int, list[torch.Tensor]] = {}

    def keep(layer: int):
        return lambda _module, inputs: found.update({layer: list(inputs[0][0, -1].clone().split(head_width(adapter)))})

    handles = [block.self_attn.o_proj.register_forward_pre_hook(keep(layer)) for layer, block in enumerate(adapter.language_blocks)]
    scene, prompt = (case.clean_scene, case.prompt) if name == "clean" else (case.counterfactual_scene, case.counterfactual_prompt)
    adapter.run(adapter.prepare([dataset.image(scene)], [prompt]))
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
def test_gradients_are_small_differences(tiny: Dataset, tmp_path: Path, family: str) -> None:
    """Of two random heads, by a patch of a thousandth of the way; and the weights are left without gradients."""
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    case = some_cases(tiny, adapter, 1)[0]
    [run] = case.runs({scene: tiny.image(scene) for scene in case.shown})
    positions, width = np.array([-4, -1]), head_width(adapter)

    def measure(logits: torch.Tensor) -> torch.Tensor:
        return logits[5] - logits[7]

    # What was computed in inference mode before must not stand in the way.
    PatchEngine(adapter).clean([run])
    found = head_gradients(adapter, run.clean.image, run.clean.prompt, positions, measure)
    assert found.shape == (len(adapter.language_blocks), 2, head_count(adapter), width)
    assert all(parameter.grad is None for parameter in adapter.model.parameters())
    own = head_outputs(adapter, run.clean.image, run.clean.prompt, positions)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    for layer, head in ((0, 1), (1, 0)):
        moved = []
        for step in (-1e-2, 1e-2):
            values = (own + step * direction)[layer][:, [head]]
            moved.append(measure(run_plain(adapter, [run], [InBlocks(0, HeadOutput(layer, (head,), positions, values))])[0]))
        slope = float(moved[1] - moved[0]) / 2e-2
        assert float((found * direction)[layer, :, head].sum()) == pytest.approx(slope, rel=0.05, abs=2e-4)


@pytest.mark.slow
def test_heads_at_the_question_are_chosen_by_gradients(tiny: Dataset) -> None:
    adapter = load_adapter(ORGANISMS / "natural-qwen2_vl", device="cpu")
    cases = some_cases(tiny, adapter, 2)
    table = HeadSweep(PatchEngine(adapter), tiny, cases, ()).run(1, 0, question_heads=3)
    question = table.filter(group="question")
    single = question.filter(chosen="each")
    assert single.height == 2 * 6
    assert question.filter(chosen="all").height == 2
    every = table.filter(chosen="each", group="last")
    assert every["atp"].null_count() == 0
    found = heads(table).filter(axis="both axes", measure="atp_rank_correlation")
    assert set(found["token_set"]) == {"last", "question"}
    assert found.filter(token_set="last")["estimate"].item() > 0.3


def test_measures_of_planted_heads() -> None:
    table = synthetic.heads()
    found = heads(table).filter(axis="both axes")
    effect = {
        (row["site"], row["head"]): row["estimate"]
        for row in found.filter(measure="head_effect", outcome="attribute").iter_rows(named=True)
    }
    assert effect["language.4", 1] == pytest.approx(0.75)
    assert effect["language.3", 0] == pytest.approx(0.0)
    assert found.filter(measure="head_effect", outcome="ordinal", site="language.3", head=0)["estimate"].item() == pytest.approx(0.5)
    assert few_heads(table) == 1
    assert found.filter(measure="head_sparsity").select("estimate", "low", "high").row(0) == pytest.approx((1 / 12, 1 / 12, 1 / 12))
    rates = {(row["source"], row["heads"]): row["estimate"] for row in found.filter(measure="outcome_rate").iter_rows(named=True)}
    assert rates == pytest.approx({("ranked", 1): 40 / 46, ("random", 1): 0.1, ("ranked", 12): 1.0}, abs=0.02)
    [claim] = judged({"heads": table}).filter(experiment="claims", measure="head_sparsity").iter_rows(named=True)
    assert claim["verdict"] == "supported"
    # Heads ranked on halves: the first of 12 has the quantile 1.383 above it, so that n is lowered by 12 φ(1.383)² of itself at most.
    lowered = 92 / (1 + 12 * 0.15334**2)
    assert [claim["low"], claim["high"]] == pytest.approx([float(end) for end in binomial_limits(40 / 46 * lowered, lowered)], abs=1e-4)
    spread = table.with_columns(outcome=pl.when(chosen="ranked", heads=1).then(pl.lit("stay")).otherwise("outcome"))
    verdicts = dict(judged({"heads": spread}).filter(experiment="claims").select("measure", "verdict").iter_rows())
    assert verdicts["head_sparsity"] == "refuted"
    assert heads(spread).filter(axis="both axes", measure="head_sparsity")["estimate"].item() == 1.0


@pytest.mark.slow
def test_the_stage_writes_its_second_table_with_what_stands_closed_or_leaves_it_empty(tiny: Dataset, tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "reader", "qwen2_vl")
    settings = {"enabled": True, "pairs": 1, "routes": [], "head_draws": 1, "standing": ["image_to_question"]}
    for heads_too in (True, False):
        asked = job(reader, tiny.folder, tmp_path, "table", {**settings, "heads": heads_too})
        outputs = {**asked.outputs, "heads": tmp_path / "heads.parquet"}
        routes(type(asked)(asked.settings, asked.inputs, outputs))
        table = pl.read_parquet(outputs["heads"])
        assert table.is_empty() != heads_too
        if heads_too:
            assert set(table["condition"]) == {"image_to_question"}
            every = table.filter(chosen="all")
            assert every["attribute_log_odds"].to_list() == pytest.approx(every["attribute_log_odds_source"].to_list(), abs=1e-5)
