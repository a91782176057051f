"""What others do without probes: norms by hand, attention scaling against the plain pass, two factors chosen, broken answers counted."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from stage_inputs import make_reader
from vlm_spatial.amplification.baselines import (
    ADAPTIVE,
    Normed,
    attention_edits,
    choose_adaptive,
    rotary_settings,
    scaled,
    text_norm,
)
from vlm_spatial.amplification.edited import score_edited
from vlm_spatial.amplification.questions import sample_questions
from vlm_spatial.amplification.scoring import SCHEMA, score
from vlm_spatial.amplification.sweep import Sweep
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import InBlocks, PairRuns, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.measures.corrections import sweep as measured
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.amplification import baselines
from vlm_spatial.stages.stage import Job, section

pytestmark = pytest.mark.model


def asked_of(dataset: Dataset, limit: int) -> pl.DataFrame:
    """Questions with answers that an untouched model might have given."""
    questions = dataset.questions.filter(pl.col("split").is_in(["validation", "test"]), variant="main")
    answers = [[0.0] + [-1.0] * (len(candidates) - 1) for candidates in questions["candidates"]]
    behaviour = questions.with_columns(correct=pl.lit(value=True), log_probabilities=pl.Series(answers))
    return sample_questions(behaviour, dataset, limit, 0)


def test_norms_by_hand() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert torch.equal(Normed(10.0, 0.0)(values), values)
    assert Normed(10.0, 1.0)(values).tolist() == [[pytest.approx(6.0), pytest.approx(8.0)], [0.0, pytest.approx(10.0)]]
    assert Normed(10.0, 0.5)(values).norm(dim=-1).tolist() == pytest.approx([7.5, 5.5])


def test_attention_scaling_is_the_plain_pass_and_a_factor_of_one_nothing(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "gemma3"), device="cpu")
    asked = asked_of(tiny, 3)
    edits = attention_edits(adapter, [1.0, 2.0])
    table = score_edited(PatchEngine(adapter), tiny, asked, lambda _question: edits, "attention")
    assert dict(table.schema) == SCHEMA
    assert table.height == 2 * asked.height
    row = asked.row(0, named=True)
    reader = AnswerReader.of(adapter, row["candidates"], row["template"])
    run = Run(tiny.image(row["scene_id"]), row["prompt"])
    clean = adapter.run(adapter.prepare([run.image], [run.prompt]))[0]
    edited = run_plain(adapter, [PairRuns("one", run)], [InBlocks(0, scaled(adapter, run, 2.0))])
    for factor, logits in ((1.0, clean), (2.0, edited)):
        found = table.filter(question_id=row["question_id"], alpha=factor)["log_probabilities"].item().to_numpy()
        assert found == pytest.approx(reader.log_probabilities(logits), abs=1e-5)
    assert not torch.allclose(clean, edited, atol=1e-4)


def test_the_norm_is_that_of_the_questions_tokens(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "gemma3"), device="cpu")
    one = asked_of(tiny, 1).head(1)
    image, prompt = tiny.image(one["scene_id"].item()), one["prompt"].item()
    ids, cells = adapter.tokens(image, prompt)
    table = adapter.model.get_input_embeddings()
    expected = np.mean([table(ids[0, at]).detach().norm().item() for at in range(int(cells.max()) + 1, ids.shape[1])])
    assert text_norm(adapter, tiny, one) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.slow
def test_rotary_positions_of_the_vision_encoder_turn_faster(family: str, tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    # Random weights hardly look at places; larger ones do.
    for block in adapter.vision_blocks:
        block.attn.qkv.weight.data *= 30
    asked = asked_of(tiny, 3)
    table = score(Sweep(adapter), tiny, asked, rotary_settings(adapter, tiny, asked, [0.0, 99.0], 6.0), "rotary")
    row = asked.row(0, named=True)
    reader = AnswerReader.of(adapter, row["candidates"], row["template"])
    prepared = adapter.prepare([tiny.image(row["scene_id"])], [row["prompt"]])
    clean = adapter.run(prepared)[0]

    # By hand, on the module's output: angles of each frequency, for rows and columns of patches, twice.
    def faster(module: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor], _output: object) -> tuple[torch.Tensor, torch.Tensor]:
        own = module.inv_freq.tolist()
        turned = torch.tensor([value * (1 + 99 * (number / len(own)) ** 6) for number, value in enumerate(own)])
        half = torch.cat([inputs[1][:, axis, None].float() * turned for axis in (0, 1)], dim=-1)
        return torch.cat([half, half], dim=-1).cos(), torch.cat([half, half], dim=-1).sin()

    handle = adapter.model.get_submodule("model.visual.rotary_pos_emb").register_forward_hook(faster)
    edited = adapter.run(prepared)[0]
    handle.remove()
    assert float((clean - edited).abs().max()) > 0.01
    for alpha, logits in ((0.0, clean), (99.0, edited)):
        found = table.filter(question_id=row["question_id"], alpha=alpha)["log_probabilities"].item().to_numpy()
        assert found == pytest.approx(reader.log_probabilities(logits), abs=1e-4)
    # Nothing is left behind.
    assert torch.equal(adapter.run(prepared)[0], clean)


def test_a_vision_encoder_without_rotary_positions_is_left_out(tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "gemma3"), device="cpu")
    assert rotary_settings(adapter, tiny, asked_of(tiny, 1), [99.0], 6.0) == []
    assert "the vision encoder of gemma3 has no rotary positions; left out" in capsys.readouterr().err


def planted(split: str) -> pl.DataFrame:
    """Ten questions: unsure ones are right at 0.5 alone, sure ones at 2 alone; both but for one of each are right before."""
    rows = []
    for number in range(10):
        unsure = number < 5
        for alpha in (0.5, 2.0):
            rows.append(
                {
                    "question_id": f"{split}{number}",
                    "scene_id": f"{split}{number}",
                    "split": split,
                    "axis": "horizontal",
                    "template": "slot_to_object",
                    "site": "language",
                    "method": "attention",
                    "draw": 0,
                    "alpha": alpha,
                    "correct": unsure == (alpha == 0.5),
                    "correct_before": number not in (0, 9),
                    "confidence_before": 0.4 + 0.05 * number,
                    "confidence": 0.7,
                    "brier_before": 0.3,
                    "brier": 0.3,
                }
            )
    return pl.DataFrame(rows)


def test_the_two_factors_are_chosen_on_validation_and_broken_answers_are_counted() -> None:
    chosen = choose_adaptive(planted("validation"))
    assert chosen is not None
    assert (chosen.below, chosen.above) == (0.5, 2.0)
    assert 0.6 < chosen.threshold <= 0.65
    test = chosen.rows(planted("test"))
    assert test["correct"].all()
    assert test["method"].unique().to_list() == [ADAPTIVE]
    assert choose_adaptive(planted("validation").clear()) is None
    found = measured(pl.concat([planted("validation"), planted("test"), chosen.rows(planted("validation")), test]))
    rows = found.filter(axis="both axes", measure="net_accuracy")
    counted = ("errors", "corrected", "broken", "chosen")
    counts = {(row["correction"], row["alpha"]): tuple(row[name] for name in counted) for row in rows.iter_rows(named=True)}
    # At 0.5 the first error is corrected, four sure ones are broken; ties go to the factor nearest 1.
    assert counts["attention", 0.5] == (2, 1, 4, True)
    assert counts["attention", 2.0] == (2, 1, 4, False)
    assert counts[ADAPTIVE, chosen.threshold] == (2, 2, 0, True)


@pytest.mark.slow
def test_the_stage_adds_them_where_they_are_asked_for(tiny: Dataset, tmp_path: Path) -> None:
    adapter = load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu")
    asked = asked_of(tiny, 3)
    settings = AmplificationSettings(attention_factors=(0.5, 2.0), norm_alphas=(0.0, 1.0), rotary_alphas=(99.0,))
    methods = pl.concat(baselines(Sweep(adapter), tiny, asked, settings, 0)).group_by("method").len()
    each = asked.height
    assert dict(methods.iter_rows()) == {"attention": 2 * each, ADAPTIVE: each, "norm": 2 * each, "rotary": each}
    assert all(table.is_empty() for table in baselines(Sweep(adapter), tiny, asked, AmplificationSettings(), 0))
    with pytest.raises(UserError, match=r"stage\.attention_factors\.0"):
        section(Job({"stage": {"attention_factors": [0.0]}}, {}, {}), AmplificationSettings)
