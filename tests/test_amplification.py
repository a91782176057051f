"""Corrections against hand-computed values and geometry; outcomes against hand-counted tables."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlm_spatial.amplification.answers import answered
from vlm_spatial.amplification.corrections import (
    NormMatched,
    Oracle,
    Projection,
    joint_basis,
    slot_directions,
    turned,
)
from vlm_spatial.amplification.deploy import Correction
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.subspaces import random_basis
from vlm_spatial.measures import amplification as outcomes
from vlm_spatial.measures.calibration import calibration
from vlm_spatial.statistics import binomial, calibration_error, calibration_gaps

pytestmark = pytest.mark.model

VALUES = arrays(np.float64, (5, 1, 6), elements=st.floats(-10, 10))


def test_projection_scales_only_the_subspace() -> None:
    basis = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    moved = Projection(basis, 3.0)(torch.tensor([[1.0, 2.0, 5.0]]))
    assert moved.tolist() == [[3.0, 6.0, 5.0]]


def test_a_centred_projection_leaves_the_mean_token_where_it_is() -> None:
    basis, centre = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([10.0, -4.0, 7.0])
    moved = Projection(basis, 3.0, centre)(torch.tensor([[10.0, -4.0, 7.0], [11.0, -4.0, 5.0]]))
    assert moved.tolist() == [[10.0, -4.0, 7.0], [13.0, -4.0, 5.0]]


@given(values=VALUES, alpha=st.floats(-3, 15), seed=st.integers(0, 99))
@settings(deadline=None)
def test_controls_of_the_centred_form_move_each_token_exactly_as_far(values: np.ndarray, alpha: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    basis, other, centre = random_basis(2, 6, generator), random_basis(2, 6, generator), generator.normal(0, 1, 6)
    tokens = torch.tensor(values)
    reference = (Projection(basis, alpha, centre)(tokens) - tokens).norm(dim=-1)
    for control in (NormMatched(basis, other, alpha, centre=centre), NormMatched(basis, basis, alpha, complement=True, centre=centre)):
        assert np.allclose(reference, (control(tokens) - tokens).norm(dim=-1), atol=1e-6)


@given(values=VALUES, alpha=st.floats(-3, 15), seed=st.integers(0, 99))
@settings(deadline=None)
def test_controls_move_each_token_exactly_as_far(values: np.ndarray, alpha: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    basis, other = random_basis(2, 6, generator), random_basis(2, 6, generator)
    tokens = torch.tensor(values)
    reference = (Projection(basis, alpha)(tokens) - tokens).norm(dim=-1)
    control = (NormMatched(basis, other, alpha)(tokens) - tokens).norm(dim=-1)
    outside = NormMatched(basis, basis, alpha, complement=True)(tokens) - tokens
    moved = values.astype(float).any(axis=-1)[..., None]  # a zero token has no direction
    assert np.allclose(reference[moved[..., 0]], control[moved[..., 0]], atol=1e-6)
    assert np.allclose(outside @ torch.tensor(basis).T, 0, atol=1e-6)


@given(values=VALUES)
@settings(deadline=None)
def test_the_neutral_alpha_is_bit_identical(values: np.ndarray) -> None:
    basis = random_basis(2, 6, np.random.default_rng(0))
    tokens = torch.tensor(values)
    neutral = [
        Projection(basis, 1.0),
        NormMatched(basis, basis, 1.0),
        Oracle(np.ones((3, 6)), np.array([0, 0, 1, 1, 2]), 0.0),
    ]
    for correction in neutral:
        assert torch.equal(correction(tokens), tokens)


def test_oracle_adds_each_cells_own_direction() -> None:
    moved = Oracle(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 0]), 2.0)(torch.zeros(2, 1, 2))
    assert moved.tolist() == [[[0.0, 2.0]], [[2.0, 0.0]]]


def test_oracle_leaves_padding_alone() -> None:
    moved = Oracle(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([-1, 0, 1, -1]), 2.0)(torch.ones(4, 1, 2))
    assert moved.tolist() == [[[1.0, 1.0]], [[3.0, 1.0]], [[1.0, 3.0]], [[1.0, 1.0]]]


def test_slot_directions_sum_to_zero_and_stay_inside() -> None:
    generator = np.random.default_rng(1)
    basis = random_basis(2, 8, generator)
    directions = slot_directions(generator.standard_normal((3, 8)), basis)
    assert np.allclose(directions.sum(axis=0), 0)
    assert np.allclose(directions @ basis.T @ basis, directions)


def test_turned_directions_keep_their_lengths_and_angles_and_lie_elsewhere() -> None:
    generator = np.random.default_rng(1)
    basis, other = random_basis(2, 8, generator), random_basis(2, 8, generator)
    directions = slot_directions(generator.standard_normal((3, 8)), basis)
    moved = turned(directions, basis, other)
    assert np.allclose(moved @ moved.T, directions @ directions.T)
    assert np.allclose(moved @ other.T @ other, moved)
    assert not np.allclose(moved @ basis.T @ basis, moved, atol=0.1)


def test_joint_basis_drops_what_two_subspaces_share() -> None:
    first = np.eye(5)[:2]
    joint = joint_basis([first, np.eye(5)[1:3]])
    assert joint.shape == (3, 5)
    assert np.allclose(joint @ joint.T, np.eye(3))


def _rows(method: str, split: str, alpha: float, before: str, after: str, draw: int = 0) -> pl.DataFrame:
    """One row a question; ``before`` and ``after`` hold 1 for right, 0 for wrong."""
    return pl.DataFrame(
        {
            "question_id": [f"{split}{i}" for i in range(len(before))],
            "scene_id": [f"{split}{i}" for i in range(len(before))],
            "split": split,
            "template": "slot_to_object",
            "site": "connector",
            "method": method,
            "draw": draw,
            "alpha": alpha,
            "correct": [c == "1" for c in after],
            "correct_before": [c == "1" for c in before],
            "confidence_before": 0.9,
            "confidence": [0.8 if c == "1" else 0.6 for c in after],
            "brier_before": [0.1 if c == "1" else 1.5 for c in before],
            "brier": [0.2 if c == "1" else 1.0 for c in after],
        }
    )


def test_alpha_is_chosen_on_validation_and_counted_on_test() -> None:
    table = pl.concat(
        [
            _rows("projection", "validation", 1.0, "0001", "0001"),
            _rows("projection", "validation", 2.0, "0001", "0111"),
            _rows("projection", "validation", 4.0, "0001", "1011"),
            _rows("projection", "test", 2.0, "000111", "110011"),
            _rows("projection", "test", 4.0, "000111", "111111"),
            _rows("random", "test", 2.0, "000111", "100111", draw=0),
            _rows("random", "test", 2.0, "000111", "000111", draw=1),
        ]
    )
    assert outcomes.choose(table, "projection") == ("connector", 2.0)  # the tie goes to the milder one
    chosen = outcomes.chosen_outcome(table, "projection")
    assert chosen is not None
    assert (chosen.errors, chosen.corrected, chosen.broken, chosen.n) == (3, 2, 1, 6)
    assert chosen.net.estimate == pytest.approx(1 / 6)
    assert chosen.p_value == pytest.approx(1.0)  # 2 against 1 discordant
    assert outcomes.random_corrected_share(table, "connector", 2.0).estimate == pytest.approx(1 / 6)
    holm = outcomes.curve(table).filter(split="test", method="projection").sort("alpha")
    assert holm["p_value"].to_list() == pytest.approx([1.0, 0.25])  # 3 against 0: 2 * 0.5**3
    assert holm["p_holm"].to_list() == pytest.approx([1.0, 0.5])


def test_questions_of_one_scene_count_as_one_where_they_agree() -> None:
    rows = _rows("projection", "test", 2.0, "0" * 40, "1" * 20 + "0" * 20)
    alone = outcomes.outcome(rows)
    together = outcomes.outcome(rows.with_columns(scene_id=pl.Series([f"s{i // 10}" for i in range(40)])))
    assert alone.corrected_share.estimate == together.corrected_share.estimate == 0.5
    # Four scenes that are wholly right or wrong: as much as four independent questions say.
    four = binomial(2, 4)
    assert together.corrected_share.low < four.low + 0.01
    assert together.corrected_share.high > four.high - 0.01
    assert alone.corrected_share.low > 0.33
    assert together.net.high - together.net.low > 2 * (alone.net.high - alone.net.low)
    assert (together.p_value, together.n, together.net.n) == (alone.p_value, 40, 40)


def test_calibration_by_hand() -> None:
    rows = _rows("projection", "test", 2.0, "1100", "1110")
    found = calibration(rows)
    # Before: half are right at confidence 0.9. After: three right at 0.8, one wrong at 0.6.
    assert found.error_before.estimate == pytest.approx(0.4)
    assert found.error_after.estimate == pytest.approx((3 * 0.2 + 0.6) / 4)
    assert found.error_change.estimate == pytest.approx(0.3 - 0.4)
    assert found.brier_change.estimate == pytest.approx((3 * 0.2 + 1.0) / 4 - (2 * 0.1 + 2 * 1.5) / 4)
    assert found.error_change.low <= found.error_change.estimate <= found.error_change.high
    assert found.brier_change.n == 4


def test_calibration_error_agrees_with_bins_counted_one_by_one() -> None:
    generator = np.random.default_rng(0)
    confidence, correct = generator.uniform(size=500), generator.random(500) < 0.6
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1)
        expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    doubled = calibration_gaps(confidence, correct, np.full((1, 500), 2.0))
    assert np.abs(doubled).sum() == pytest.approx(expected)


def test_answer_of_candidates() -> None:
    given = answered([np.log(2.0), np.log(1.0), np.log(1.0)], ["red", "green", "blue"], "blue")
    assert given.predicted == "red"
    assert given.confidence == pytest.approx(0.5)
    assert given.answer_probability == pytest.approx(0.25)
    assert given.brier == pytest.approx(0.5**2 + 0.25**2 + 0.75**2)


def test_choices_of_each_dataset() -> None:
    one = pl.concat([_rows("projection", "validation", alpha, "00", after) for alpha, after in ((1.0, "00"), (2.0, "10"), (4.0, "11"))])
    other = _rows("projection", "validation", 2.0, "00", "10")
    found = outcomes.choices({"b": other, "a": one})
    assert found.rows() == [("a", "projection", "connector", 4.0), ("b", "projection", "connector", 2.0)]


def test_nothing_to_choose_from() -> None:
    empty = _rows("projection", "test", 1.0, "11", "11")
    assert outcomes.choose(empty, "projection") is None
    assert outcomes.chosen_outcome(empty, "projection") is None


class Gemma3ForConditionalGeneration(torch.nn.Sequential):
    """A model's class is known by its name; in Gemma 3 the whole output of a module is the visual tokens'."""


def test_correction_file_round_trip_and_refusals(tmp_path) -> None:
    basis = random_basis(2, 4, np.random.default_rng(0)).astype(np.float32)
    path = tmp_path / "correction.safetensors"
    Correction(basis, 2.0, "0", "connector", "Gemma3ForConditionalGeneration", "abc").save(path)
    loaded = Correction.load(path)
    model = Gemma3ForConditionalGeneration(torch.nn.Linear(4, 4))
    x = torch.randn(3, 4)
    plain = model(x)
    with loaded.applied_to(model):
        corrected = model(x)
    assert torch.allclose(corrected, plain + (plain @ torch.tensor(basis).T) @ torch.tensor(basis))
    assert torch.equal(model(x), plain)
    centre = np.arange(4, dtype=np.float32)
    Correction(basis, 2.0, "0", "connector", "Gemma3ForConditionalGeneration", "abc", centre).save(path)
    with Correction.load(path).applied_to(model):
        inside = (plain - torch.tensor(centre)) @ torch.tensor(basis).T @ torch.tensor(basis)
        assert torch.allclose(model(x), plain + inside, atol=1e-5)
    with pytest.raises(UserError, match="cannot be applied to Linear"), loaded.applied_to(model[0]):
        pass
    narrow = Gemma3ForConditionalGeneration(torch.nn.Linear(4, 3))
    with pytest.raises(UserError, match="width 4 at 0, whose output has width 3"), loaded.applied_to(narrow):
        narrow(x)
    with pytest.raises(UserError, match="alpha"):
        Correction(basis, float("nan"), "0", "connector", "Gemma3ForConditionalGeneration", "abc")
    Correction(basis, 2.0, "0", "connector", "Sequential", "abc").save(path)
    with pytest.raises(UserError, match=r"correction\.safetensors: is of architecture Sequential.*supported are Gemma3"):
        Correction.load(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="vlm-spatial amplify"):
        Correction.load(path)
