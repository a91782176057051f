"""Strip index, geometry, baselines and fitting on data made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_spatial.probes.baselines import cell_features, cell_means, control_task
from vlm_spatial.probes.fitting import Rows, fit_probes, one_hot
from vlm_spatial.probes.geometry import compare, content_subspace
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.strips import strip_index
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.unit

GRID = TokenGrid(6, 9)


def columns(rows: int = 6, cols: int = 9) -> np.ndarray:
    return np.eye(3)[np.tile(np.arange(cols) * 3 // cols, (rows, 1))].reshape(-1, 3)


def test_perfect_strips_have_index_one_along_their_axis_only() -> None:
    assert strip_index(columns(), GRID, "horizontal") == pytest.approx(1)
    assert strip_index(columns(), GRID, "vertical") < 0
    turned = columns().reshape(6, 9, 3).transpose(1, 0, 2).reshape(-1, 3)
    assert strip_index(turned, TokenGrid(9, 6), "vertical") == pytest.approx(1)


def test_noise_has_index_about_zero_and_is_unbiased() -> None:
    maps = np.random.default_rng(0).dirichlet(np.ones(3), size=(4000, GRID.size))
    for axis in ("horizontal", "vertical"):
        values = strip_index(maps, GRID, axis)
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values)) + 2e-3


def test_blobs_lie_between_noise_and_strips_and_noise_lowers_the_index() -> None:
    blobs = np.full((6, 9, 3), 1 / 3)
    for slot, row in enumerate((0, 3, 4)):
        blobs[row : row + 2, 3 * slot : 3 * slot + 2] = np.eye(3)[slot]
    assert 0.02 < strip_index(blobs.reshape(-1, 3), GRID, "horizontal") < 0.6
    generator = np.random.default_rng(1)
    mixed = [strip_index((1 - s) * columns() + s * generator.dirichlet(np.ones(3), GRID.size), GRID, "horizontal") for s in (0.1, 0.4, 0.8)]
    assert 1 > mixed[0] > mixed[1] > mixed[2] > 0


def test_a_flat_map_has_no_index() -> None:
    assert np.isnan(strip_index(np.full((GRID.size, 3), 1 / 3), GRID, "horizontal"))
    assert np.isnan(strip_index(columns(1, 9), TokenGrid(1, 9), "horizontal"))


def test_padding_does_not_count() -> None:
    """A map on a larger canvas has the index of its picture, whatever surrounds it."""
    generator = np.random.default_rng(2)
    pictures = 0.5 * columns() + 0.5 * generator.dirichlet(np.ones(3), size=(2, GRID.size))
    canvas, inside = generator.dirichlet(np.ones(3), size=(2, 9, 9)), np.zeros((2, 9, 9), dtype=bool)
    for scene, top in enumerate((0, 2)):
        canvas[scene, top : top + 6] = pictures[scene].reshape(6, 9, 3)
        inside[scene, top : top + 6] = True
    for axis in ("horizontal", "vertical"):
        found = strip_index(canvas.reshape(2, 81, 3), TokenGrid(9, 9), axis, inside.reshape(2, 81))
        assert found == pytest.approx(strip_index(pictures, GRID, axis))


@given(st.integers(0, 10_000))
def test_the_index_does_not_depend_on_which_slot_is_which(seed: int) -> None:
    generator = np.random.default_rng(seed)
    maps = generator.dirichlet(np.ones(3), size=GRID.size) + columns()
    order = generator.permutation(3)
    assert strip_index(maps, GRID, "horizontal") == pytest.approx(float(strip_index(maps[:, order], GRID, "horizontal")))


def test_angles_between_known_planes() -> None:
    axes = np.eye(5)
    tilted = np.stack([axes[0], np.cos(0.3) * axes[1] + np.sin(0.3) * axes[2]])
    found = compare(axes[:2], tilted)
    np.testing.assert_allclose(found.angles, [0, np.degrees(0.3)], atol=1e-6)
    assert found.overlap == pytest.approx((1 + np.cos(0.3) ** 2) / 2)
    assert compare(axes[:2], axes[3:]).overlap == pytest.approx(0, abs=1e-12)


def test_random_subspaces_overlap_as_chance_says() -> None:
    generator = np.random.default_rng(0)
    pairs = [[np.linalg.qr(generator.normal(size=(20, 2)))[0].T for _ in range(2)] for _ in range(800)]
    assert np.mean([compare(*pair).overlap for pair in pairs]) == pytest.approx(compare(*pairs[0]).chance, rel=0.07)


def test_content_is_freed_of_the_slot_it_stands_in_most() -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(0, 4, 4000)
    # Word 0 stands nearly always in slot 0.
    slots = np.where((words == 0) & (generator.random(4000) < 0.9), 0, generator.integers(0, 3, 4000))
    x = 0.01 * generator.normal(size=(4000, 10))
    x[np.arange(4000), slots] += 5
    x[np.arange(4000), 3 + words] += 1
    slot_plane = np.linalg.qr((np.eye(10)[:3] - np.eye(10)[:3].mean(0))[:2].T)[0].T
    content = content_subspace(x, words, slots, rank=2)
    assert content is not None
    assert compare(slot_plane, content).overlap < 0.01
    assert content_subspace(x, np.zeros(4000, dtype=int), slots, rank=2) is None


def test_cell_features_name_row_and_column() -> None:
    features = cell_features(TokenGrid(2, 3))
    assert features.tolist()[4] == [0, 1, 0, 1, 0]
    assert len(np.unique(features, axis=0)) == 6


def test_cell_means_are_means_of_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(12, 20, 3), dtype=np.uint8)
    found = cell_means(Image.fromarray(pixels), TokenGrid(3, 4))
    expected = pixels.reshape(3, 4, 4, 5, 3).mean(axis=(1, 3)).reshape(12, 3) / 255
    np.testing.assert_allclose(found, expected, atol=1 / 255)


def test_the_control_task_is_balanced_and_fixed_by_its_seed() -> None:
    labels = control_task(8, range(3), np.random.default_rng(0))
    assert sorted(np.bincount(labels)) == [2, 3, 3]
    np.testing.assert_array_equal(labels, control_task(8, range(3), np.random.default_rng(0)))


def test_the_strength_is_the_best_on_validation() -> None:
    """Labels of the training rows are half noise: a weak regularisation learns them by heart."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 300)
    x = generator.normal(size=(300, 80)).astype(np.float32)
    x[:, :3] += 2 * np.eye(3)[y]
    wrong = np.where(generator.random(90) < 0.6, generator.integers(0, 3, 90), y[:90])
    validation = Rows(x[90:], one_hot(y[90:], 3), 70)

    def fitted(*strengths: float) -> Probe:
        return fit_probes(Rows(x[:90].copy(), one_hot(wrong, 3), 30), validation, strengths, {})["logistic"]

    chosen = fitted(1e-3, 1e-2, 1e3)
    accuracies = {s: fitted(s).score(x[90:], y[90:]) for s in (1e-3, 1e-2, 1e3)}
    assert accuracies[chosen.strength] == max(accuracies.values()) > accuracies[1e3]


def test_rivals_equal_their_definitions() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 200)
    x = (generator.normal(size=(200, 6)) + 1.5 * generator.normal(size=(3, 6))[y]).astype(np.float32)
    probes = fit_probes(Rows(x.copy(), one_hot(y, 3), 60), Rows(x, one_hot(y, 3), 60), (1.0,), {})
    z = (x - x.mean(0)) / x.std(0)
    means = np.stack([z[y == k].mean(0) for k in range(3)])
    nearest = ((z[:, None] - means) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(probes["centroid"].predict(x), nearest)
    scores = []
    for k in range(3):
        rest = z[y != k].mean(0)
        direction = means[k] - rest
        scores.append((z - (means[k] + rest) / 2) @ direction / (direction @ direction))
    np.testing.assert_array_equal(probes["difference"].predict(x), np.argmax(scores, axis=0))
    np.testing.assert_allclose(probes["logistic"].class_mean, np.stack([x[y == k].mean(0) for k in range(3)]), rtol=1e-4)
