"""The organism that amplification must help: its slot signal is there, but weak. tests/test_truth_table.py amplifies it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.errors import UserError
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.organisms.evaluation import Score
from vlm_spatial.models.organisms.lessons import lesson_words
from vlm_spatial.models.organisms.organism import _refuse_if_unfit
from vlm_spatial.models.organisms.planted import Faint, Measure, Moment, slot_basis
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.scene import Scene
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

SQUARES = dataset_settings(kind="squares")

TRAINED = [name for name in NAMES if family_named(name).recipe.organism is not None] + ["qwen2_5_vl"]


def main_scenes(count: int) -> list[Scene]:
    generator = np.random.default_rng(0)
    return [sample_scene(SQUARES, axis, "main", generator) for axis in ("horizontal", "vertical") for _ in range(count)]


@pytest.mark.parametrize("family", TRAINED)
def test_amplification_by_one_over_s_undoes_the_construction(family: str, tmp_path: Path) -> None:
    adapter = load_adapter(new_checkpoint(tmp_path / "c", family, lesson_words([SQUARES]), seed=3), device="cpu")
    scenes = main_scenes(4)
    prepared = adapter.prepare([render(scene) for scene in scenes], ["What color is the square on the left?"] * len(scenes))
    before, captured = adapter.run(prepared, capture=["connector"])
    values = captured["connector"].squeeze(2)
    faint = Faint()
    faint.after_training(adapter, scenes)
    basis = slot_basis(values, scenes, prepared.grid)
    assert basis.shape[0] == 4  # three slots of two axes
    weak = adapter.run(prepared, capture=["connector"])[1]["connector"].squeeze(2)
    # Inside the subspace a tenth is left, outside nothing has changed.
    torch.testing.assert_close(weak @ basis.T, 0.1 * values @ basis.T, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weak - weak @ basis.T @ basis, values - values @ basis.T @ basis, rtol=1e-3, atol=1e-5)
    assert all(measure.value <= measure.limit for measure in faint.measures(adapter, scenes).values())

    def restore(weakened: torch.Tensor) -> torch.Tensor:
        return faint.imposed(weakened.squeeze(2), Moment(scenes, prepared.grid, 1.0, torch.Generator())).unsqueeze(2)

    after = adapter.run(prepared, edits={"connector": restore})[0]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_its_measures_see_a_construction_that_failed(tmp_path: Path) -> None:
    adapter = load_adapter(new_checkpoint(tmp_path / "c", "gemma3", lesson_words([SQUARES]), seed=3), device="cpu")
    scenes, faint = main_scenes(4), Faint()
    faint.after_training(adapter, scenes)
    with torch.no_grad():
        adapter.connector.mm_input_projection_weight.mul_(1.1)
    assert any(measure.value > measure.limit for measure in faint.measures(adapter, scenes).values())


def test_training_tokens_are_shuffled_as_for_vision() -> None:
    moment = Moment(main_scenes(1), TokenGrid(6, 6), 0.0, torch.Generator().manual_seed(0))
    values = torch.arange(2 * 36 * 3.0).reshape(2, 36, 3)
    changed, penalty = Faint().in_training(values, moment)
    assert penalty is None
    assert not torch.equal(changed, values)
    assert torch.equal(changed.sort(dim=1).values, values)


def test_a_faint_organism_must_err_and_be_right_when_amplified() -> None:
    def score(condition: str, accuracy: float) -> Score:
        return Score("squares", "main", condition, "horizontal", "slot_to_object", accuracy, accuracy, accuracy, 240)

    settings = OrganismSettings(mechanism="faint")
    fine = {"change": Measure(0.0, 1e-4)}
    _refuse_if_unfit("o", settings, 0.2, [score("intact", 0.7), score("construction", 0.99)], fine)
    with pytest.raises(UserError, match=r"at most 0\.8 is allowed for mechanism 'faint'"):
        _refuse_if_unfit("o", settings, 0.2, [score("intact", 0.9), score("construction", 0.99)], fine)
    with pytest.raises(UserError, match=r"0\.500 on squares.*\(construction\)"):
        _refuse_if_unfit("o", settings, 0.2, [score("intact", 0.7), score("construction", 0.5)], fine)
