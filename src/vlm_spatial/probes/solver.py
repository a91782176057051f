"""Multinomial logistic regression, fast: many problems over the same features, solved together.

The objective is scikit-learn's (``sum of log losses + |W|² / (2 C)``, bias unpenalised). Each problem runs L-BFGS whose
initial metric is the Hessian at zero, ``XᵀX / classes + I / C``; its Cholesky factor makes some twenty iterations do the
work of hundreds, and one pass over the features serves all the problems.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

_MEMORY = 12
_ARMIJO = 1e-4
_NEGLIGIBLE = 1e-4
# Rows handled at once fit a core's cache, so that scores and gradient read the features from memory only once.
_BLOCK_BYTES = 1 << 21


@dataclass(frozen=True)
class Fit:
    """Solutions of ``problems`` regressions.

    Attributes:
        weight: ``[problems, classes, features]``, rows of a problem sum to zero over the classes.
        bias: ``[problems, classes]``.
        objective: value reached, a problem.
        converged: whether the predicted decrease fell below the tolerance within the iterations allowed.
    """

    weight: Float[np.ndarray, "problems classes features"]
    bias: Float[np.ndarray, "problems classes"]
    objective: Float[np.ndarray, " problems"]
    converged: Bool[np.ndarray, " problems"]
    iterations: int


class LogisticSolver:
    """Solves any number of multinomial logistic regressions on one matrix of standardised features.

    Args:
        x: ``[rows, features]``, each feature centred and scaled (weighted by the rows' counts, if they have any).
        counts: how often each row stands in the data; 1 each if None.
    """

    def __init__(self, x: Float[np.ndarray, "rows features"], counts: Float[np.ndarray, " rows"] | None = None) -> None:
        self._x = np.ascontiguousarray(x, dtype=np.float32)
        self._back: Float[np.ndarray, "rank features"] | None = None
        if 2 * len(self._x) < self._x.shape[1]:
            # The solution lies in the span of the rows: far fewer rows than features means fewer unknowns.
            self._x, self._back = _reduced(self._x)
        weighted = self._x if counts is None else self._x * np.asarray(counts, dtype=np.float32)[:, None]
        self._gram = weighted.T @ self._x
        self._factors: dict[tuple[float, int], tuple[np.ndarray, bool]] = {}

    def fit(
        self,
        targets: Float[np.ndarray, "problems rows classes"],
        strengths: Float[np.ndarray, " problems"],
        *,
        tolerance: float = 1e-6,
        max_iterations: int = 500,
    ) -> Fit:
        """Solve one problem for each entry of ``targets``.

        Args:
            targets: how often each row has each class: one-hot rows for plain labels.
            strengths: inverse regularisation ``C``, as scikit-learn's.
            tolerance: stop when the predicted decrease is this share of the objective, or of a ten-thousandth of its first value
                (below which a probe is sure and right everywhere, and its last digits mean nothing).
        """
        problems, _, classes = targets.shape
        features = self._x.shape[1]
        y = np.ascontiguousarray(np.moveaxis(targets, 2, 0), dtype=np.float32)
        states = [_State(np.zeros((classes, features + 1)), 1.0 / float(c), float(targets[p].sum())) for p, c in enumerate(strengths)]
        active = list(range(problems))
        rounds = 0
        while active and rounds < max_iterations:
            trials = np.stack([states[p].trial() for p in active], axis=1)
            losses, gradients = self._evaluate(trials, y[:, active])
            for position, p in enumerate(active):
                state = states[p]
                if state.accept(losses[position], gradients[:, position]):
                    state.choose_direction(self._factor(state.ridge, classes))
                    state.converged = state.predicted_decrease <= tolerance * max(state.value, _NEGLIGIBLE * state.first)
            active = [p for p in active if not states[p].converged and not states[p].stuck]
            rounds += 1
        weight = np.stack([s.point[:, :-1] for s in states])
        return Fit(
            weight=weight if self._back is None else weight @ self._back,
            bias=np.stack([s.point[:, -1] for s in states]),
            objective=np.array([s.value for s in states]),
            converged=np.array([s.converged or s.stuck for s in states]),
            iterations=rounds,
        )

    def _evaluate(
        self, points: Float[np.ndarray, "classes problems parameters"], y: Float[np.ndarray, "classes problems rows"]
    ) -> tuple[Float[np.ndarray, " problems"], Float[np.ndarray, "classes problems parameters"]]:
        """Sum of log losses and its gradient, for all the problems in one pass over the rows."""
        classes, problems, parameters = points.shape
        weight = points[..., :-1].reshape(classes * problems, -1).astype(np.float32)
        bias = points[..., -1, None].astype(np.float32)
        losses = np.zeros(problems)
        gradient = np.zeros((classes, problems, parameters))
        step = max(256, _BLOCK_BYTES // (4 * max(1, parameters)))
        for start in range(0, len(self._x), step):
            x = self._x[start : start + step]
            target = y[..., start : start + step]
            scores = (weight @ x.T).reshape(classes, problems, len(x)) + bias
            scores -= scores.max(axis=0)
            probability = np.exp(scores)
            total = probability.sum(axis=0)
            rows = target.sum(axis=0)
            # The sum without its largest term, 1, keeps the losses of sure answers, which are far below single precision's unit.
            others = np.where(scores < 0, probability, 0).sum(axis=0) + ((scores == 0).sum(axis=0) - 1)
            losses += (rows * np.log1p(others) - (target * scores).sum(axis=0)).sum(axis=1, dtype=np.float64)
            residual = probability * (rows / total) - target
            gradient[..., :-1] += (residual.reshape(classes * problems, -1) @ x).reshape(classes, problems, -1)
            gradient[..., -1] += residual.sum(axis=2, dtype=np.float64)
        return losses, gradient

    def _factor(self, ridge: float, classes: int) -> tuple[np.ndarray, bool]:
        key = (ridge, classes)
        if key not in self._factors:
            added = ridge
            while key not in self._factors:
                metric = self._gram / classes
                metric.flat[:: len(metric) + 1] += added
                try:
                    self._factors[key] = cho_factor(metric, overwrite_a=True, check_finite=False)
                except LinAlgError:
                    # Collinear features: single precision needs more ridge. It shapes the steps, not the solution.
                    added *= 10
        return self._factors[key]


def _reduced(x: Float[np.ndarray, "rows features"]) -> tuple[Float[np.ndarray, "rows rank"], Float[np.ndarray, "rank features"]]:
    """Coordinates of the rows in an orthonormal basis of their span, and that basis."""
    wide = x.astype(np.float64)
    values, vectors = eigh(wide @ wide.T)
    kept = values > max(values[-1], 0) * 1e-10
    if not kept.any():
        return np.zeros((len(x), 1), dtype=np.float32), np.zeros((1, x.shape[1]))
    scale = np.sqrt(values[kept])
    return (vectors[:, kept] * scale).astype(np.float32), (vectors[:, kept] / scale).T @ wide


class _State:
    """One problem's L-BFGS: current point, memory of steps, and the trial being evaluated."""

    def __init__(self, start: Float[np.ndarray, "classes parameters"], ridge: float, rows: float) -> None:
        self.point = start
        self.ridge = ridge
        self.rows = rows
        self.value = np.inf
        self.first = np.inf
        self.gradient = np.zeros_like(start)
        self.direction = np.zeros_like(start)
        self.slope = 0.0
        self.step = 1.0
        self.memory: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=_MEMORY)
        self.converged = False
        self.stuck = False

    @property
    def predicted_decrease(self) -> float:
        return -self.slope / 2

    def trial(self) -> Float[np.ndarray, "classes parameters"]:
        return self.point + self.step * self.direction

    def accept(self, loss: float, gradient: Float[np.ndarray, "classes parameters"]) -> bool:
        """Take the trial point if it decreases the objective enough, otherwise halve the step."""
        point = self.trial()
        value = float(loss) + self.ridge / 2 * float((point[:, :-1] ** 2).sum())
        if value > self.value + _ARMIJO * self.step * self.slope:
            self.step /= 2
            # Single precision cannot resolve a smaller decrease: this is the minimum.
            self.stuck = self.step < 1e-4
            return False
        gradient = gradient.copy()
        gradient[:, :-1] += self.ridge * point[:, :-1]
        if np.isfinite(self.first):
            moved, change = point - self.point, gradient - self.gradient
            curvature = float((moved * change).sum())
            if curvature > 1e-10 * float((change**2).sum()):
                self.memory.append((moved, change, curvature))
        else:
            self.first = value
        self.point, self.value, self.gradient, self.step = point, value, gradient, 1.0
        return True

    def choose_direction(self, factor: tuple[np.ndarray, bool]) -> None:
        """The two-loop recursion around the preconditioner."""
        q = self.gradient.copy()
        shares = []
        for moved, change, curvature in reversed(self.memory):
            share = float((moved * q).sum()) / curvature
            q -= share * change
            shares.append(share)
        if self.memory:
            _, change, curvature = self.memory[-1]
            # Both in one call: what a solve costs is reading the factor.
            q, conditioned = self._precondition(np.stack([q, change]), factor)
            q *= curvature / float((change * conditioned).sum())
        else:
            q = self._precondition(q[None], factor)[0]
        for (moved, change, curvature), share in zip(self.memory, reversed(shares), strict=True):
            q += (share - float((change * q).sum()) / curvature) * moved
        self.direction = -q
        self.slope = float((self.gradient * self.direction).sum())
        if self.slope >= 0:
            # Rounding has spoiled the memory: begin again from the preconditioned gradient.
            self.memory.clear()
            self.direction = -self._precondition(self.gradient[None], factor)[0]
            self.slope = float((self.gradient * self.direction).sum())

    def _precondition(
        self, g: Float[np.ndarray, "vectors classes parameters"], factor: tuple[np.ndarray, bool]
    ) -> Float[np.ndarray, "vectors classes parameters"]:
        vectors, classes, parameters = g.shape
        flat = g[..., :-1].reshape(vectors * classes, parameters - 1)
        solved = np.empty_like(g)
        solved[..., :-1] = cho_solve(factor, flat.T.astype(np.float32), check_finite=False).T.reshape(vectors, classes, parameters - 1)
        solved[..., -1] = g[..., -1] * classes / self.rows
        return solved
