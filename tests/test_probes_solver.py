"""The solver against scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vlm_spatial.errors import UserError
from vlm_spatial.models.on_device import set_up_cuda
from vlm_spatial.probes import solver
from vlm_spatial.probes.arrays import Array, device_for, enough_memory, placed
from vlm_spatial.probes.solver import LogisticSolver

pytestmark = pytest.mark.unit

CASES = {
    "overlapping": (1500, 40, 0.1),
    "between": (1200, 60, 0.5),
    "separable": (900, 50, 8.0),
    "more features than rows": (150, 200, 0.5),
    "far more features than rows": (100, 400, 0.5),
}


# Arrays of numpy, and tensors, which a GPU computes with, on the CPU.
KINDS = {"numpy": lambda x: x, "torch": torch.from_numpy}


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scikit_learn_at_every_strength(case: str, kind: str) -> None:
    x, y = problem(*CASES[case])
    strengths = np.array([0.01, 0.1, 1.0, 10.0])
    fit = LogisticSolver(KINDS[kind](x)).fit(np.repeat(np.eye(3)[y][None], 4, axis=0), strengths)
    assert fit.converged.all()
    for index, strength in enumerate(strengths):
        known = reference(x, y, strength)
        ours = objective(x, y, fit.weight[index], fit.bias[index], strength)
        theirs = objective(x, y, known.coef_, known.intercept_, strength)
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert fit.objective[index] == pytest.approx(ours, rel=1e-4)
        predicted = (x @ fit.weight[index].T + fit.bias[index]).argmax(1)
        assert (predicted == known.predict(x.astype(float))).mean() >= 0.995


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_features_and_weak_regularisation_are_no_obstacle(kind: str) -> None:
    x, y = problem(800, 30, 0.3)
    x = np.concatenate([x] * 8, axis=1)
    for strength in (1.0, 1e4):
        fit = LogisticSolver(KINDS[kind](x)).fit(np.eye(3)[y][None], np.array([strength]))
        known = reference(x, y, strength)
        assert fit.objective[0] == pytest.approx(objective(x, y, known.coef_, known.intercept_, strength), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_problems_solved_together_are_those_solved_alone(case: str, kind: str) -> None:
    """They end after different numbers of rounds; two of them share a strength."""
    x, y = problem(*CASES[case])
    shuffled = [np.eye(3)[np.random.default_rng(seed).permutation(y)] for seed in (1, 2)]
    targets, strengths = np.stack([np.eye(3)[y], *shuffled]), np.array([10.0, 0.1, 0.1])
    together = LogisticSolver(KINDS[kind](x)).fit(targets, strengths)
    rounds = []
    for index in range(3):
        alone = LogisticSolver(KINDS[kind](x)).fit(targets[index : index + 1], strengths[index : index + 1])
        assert alone.objective[0] == pytest.approx(together.objective[index], rel=1e-4)
        size = np.abs(alone.weight[0]).max()
        np.testing.assert_allclose(together.weight[index], alone.weight[0], atol=0.01 * size)
        rounds.append(alone.iterations)
    assert len(set(rounds)) > 1


def two_loops(gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]], metric: np.ndarray) -> np.ndarray:
    """Nocedal and Wright, Numerical Optimization, algorithm 7.4, with the initial metric scaled by the last pair."""
    q, shares = gradient.copy(), []
    for move, change in reversed(pairs):
        shares.append(move @ q / (move @ change))
        q = q - shares[-1] * change
    last = pairs[-1]
    q = metric * q * (last[0] @ last[1]) / (last[1] @ (metric * last[1]))
    for (move, change), share in zip(pairs, reversed(shares), strict=True):
        q = q + (share - change @ q / (move @ change)) * move
    return -q


@pytest.mark.parametrize("rounds", [3, 12, 30])
def test_the_direction_is_that_of_the_two_loop_recursion(rounds: int) -> None:
    """Of a quadratic; the second problem takes only some of the steps, so its places in memory are partly empty."""
    generator = np.random.default_rng(rounds)
    shape, size = (3, 5), 15
    curvature, metric = generator.uniform(0.1, 10, size), generator.uniform(0.5, 2, size)
    state = solver._begin(np, "cpu", np.ones(2), np.ones(2), shape)
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    for number in range(rounds):
        moved = generator.standard_normal((2, size))
        change = moved * curvature
        kept = np.array([True, number % 3 != 1])
        state._remember(number % 12, kept, moved, change, metric * change, (moved * change).sum(axis=1))
        for one, taken, pair in zip(pairs, kept, zip(moved, change, strict=True), strict=True):
            one.append(pair if taken else None)
    gradient = generator.standard_normal((2, size))
    direction, slope = state._direction((rounds - 1) % 12, gradient.reshape(2, *shape), (metric * gradient).reshape(2, *shape))
    for index in range(2):
        known = two_loops(gradient[index], [pair for pair in pairs[index][-12:] if pair], metric)
        np.testing.assert_allclose(direction[index].ravel(), known, rtol=1e-8, atol=1e-10)
        assert slope[index] == pytest.approx(gradient[index] @ known)


def test_a_gpu_finds_what_the_cpu_finds() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device to compare with")
    set_up_cuda()
    for case in CASES.values():
        x, y = problem(*case)
        targets, strengths = np.repeat(np.eye(3)[y][None], 4, axis=0), np.array([0.01, 0.1, 1.0, 10.0])
        here, there = (LogisticSolver(placed(x, device)).fit(targets, strengths) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(there.objective, here.objective, rtol=1e-4)
        for index in range(4):
            answers = [(x @ fit.weight[index].T + fit.bias[index]).argmax(1) for fit in (here, there)]
            assert (answers[0] == answers[1]).mean() >= 0.995


def test_no_step_takes_numbers_from_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device ``meta`` have no values, and refuse to be mixed with those of the CPU as a GPU's do."""

    def known(x: Array) -> np.ndarray:
        if isinstance(x, np.ndarray):
            return x
        assert x.device.type == "meta"
        return np.zeros(x.shape, dtype=bool if x.dtype == torch.bool else float)

    monkeypatch.setattr(solver, "on_host", known)
    x = torch.empty(60, 20, device="meta")
    with pytest.raises(RuntimeError, match="device"):
        x + torch.ones(60, 20)
    fit = LogisticSolver(x, np.ones(60)).fit(np.ones((3, 60, 3)), np.array([0.1, 1.0, 1.0]), max_iterations=14)
    assert fit.iterations == 14


def test_a_gpu_is_asked_for_only_where_it_pays() -> None:
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert device_for("auto", "auto", 64) == "cpu"
    assert device_for("auto", "cpu", 4096) == "cpu"
    assert device_for("cpu", "cuda", 4096) == "cpu"
    assert device_for("auto", "auto", 4096) == here
    if here == "cpu":
        with pytest.raises(
            UserError, match=r"probes\.device 'cuda': this machine has none that torch can use; set probes\.device to auto or cpu"
        ):
            device_for("cuda", "auto", 4096)


def test_too_little_memory_names_the_settings() -> None:
    with (
        pytest.raises(UserError, match=r"GPU's memory; set probes\.device to cpu, or store fewer activations\.tokens"),
        enough_memory("cuda"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


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
