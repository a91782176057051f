"""The solver against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vlm_spatial.probes.solver import LogisticSolver

pytestmark = pytest.mark.unit

CASES = {
    "overlapping": (1500, 40, 0.1),
    "between": (1200, 60, 0.5),
    "separable": (900, 50, 8.0),
    "more features than rows": (150, 200, 0.5),
    "far more features than rows": (100, 400, 0.5),
}


def problem(rows: int, features: int, distance: float, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Strongly correlated features, as activations have."""
    generator = np.random.default_rng(rows + features)
    y = generator.integers(0, classes, rows)
    spread = np.arange(1, features + 1) ** -0.7
    x = generator.normal(size=(rows, features)) * spread @ np.linalg.qr(generator.normal(size=(features, features)))[0]
    x = x + (generator.normal(size=(classes, features)) * distance / np.sqrt(features))[y]
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float) -> float:
    scores = x.astype(float) @ weight.T + bias
    shift = scores.max(1, keepdims=True)
    losses = np.log(np.exp(scores - shift).sum(1)) + shift[:, 0] - scores[np.arange(len(y)), y]
    return float(losses.sum() + (weight**2).sum() / (2 * strength))


def reference(x: np.ndarray, y: np.ndarray, strength: float, weights: np.ndarray | None = None) -> LogisticRegression:
    """scikit-learn carried to its minimum: at its default tolerance it stops early on separable data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=strength, tol=1e-9, max_iter=20000).fit(x.astype(float), y, weights)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scikit_learn_at_every_strength(case: str) -> None:
    x, y = problem(*CASES[case])
    strengths = np.array([0.01, 0.1, 1.0, 10.0])
    fit = LogisticSolver(x).fit(np.repeat(np.eye(3)[y][None], 4, axis=0), strengths)
    assert fit.converged.all()
    for index, strength in enumerate(strengths):
        known = reference(x, y, strength)
        ours = objective(x, y, fit.weight[index], fit.bias[index], strength)
        theirs = objective(x, y, known.coef_, known.intercept_, strength)
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert fit.objective[index] == pytest.approx(ours, rel=1e-4)
        predicted = (x @ fit.weight[index].T + fit.bias[index]).argmax(1)
        assert (predicted == known.predict(x.astype(float))).mean() >= 0.995


def test_repeated_features_and_weak_regularisation_are_no_obstacle() -> None:
    x, y = problem(800, 30, 0.3)
    x = np.concatenate([x] * 8, axis=1)
    for strength in (1.0, 1e4):
        fit = LogisticSolver(x).fit(np.eye(3)[y][None], np.array([strength]))
        known = reference(x, y, strength)
        assert fit.objective[0] == pytest.approx(objective(x, y, known.coef_, known.intercept_, strength), rel=1e-4)


def test_problems_solved_together_are_those_solved_alone() -> None:
    x, y = problem(*CASES["between"])
    targets = np.stack([np.eye(3)[y], np.eye(3)[np.random.default_rng(1).permutation(y)]])
    together = LogisticSolver(x).fit(targets, np.array([0.1, 10.0]))
    for index, strength in enumerate([0.1, 10.0]):
        alone = LogisticSolver(x).fit(targets[index : index + 1], np.array([strength]))
        assert alone.objective[0] == pytest.approx(together.objective[index], rel=1e-5)


def test_counts_stand_for_repeated_rows() -> None:
    x, y = problem(60, 8, 0.5)
    times = np.random.default_rng(0).integers(0, 5, size=60)
    mean = np.average(x, axis=0, weights=times)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=times))
    z = (x - mean) / scale
    fit = LogisticSolver(z, times).fit((np.eye(3)[y] * times[:, None])[None], np.array([1.0]))
    known = reference(np.repeat(z, times, axis=0), np.repeat(y, times), 1.0)
    np.testing.assert_allclose(fit.weight[0], known.coef_, atol=2e-2)
    assert objective(np.repeat(z, times, axis=0), np.repeat(y, times), fit.weight[0], fit.bias[0], 1.0) == pytest.approx(
        objective(np.repeat(z, times, axis=0), np.repeat(y, times), known.coef_, known.intercept_, 1.0), rel=1e-4
    )


def test_weights_of_wide_data_lie_in_the_span_of_the_rows() -> None:
    x, y = problem(*CASES["far more features than rows"])
    weight = LogisticSolver(x).fit(np.eye(3)[y][None], np.array([1.0])).weight[0]
    coefficients = np.linalg.lstsq(x.T.astype(float), weight.T, rcond=None)[0]
    np.testing.assert_allclose(x.T @ coefficients, weight.T, atol=1e-4)
    np.testing.assert_allclose(weight.sum(axis=0), 0, atol=1e-5)
