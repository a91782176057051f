"""Multinomial logistic regression, fast: many problems over the same features, solved together, with numpy or on a GPU.

The objective is scikit-learn's (``sum of log losses + |W|² / (2 C)``, bias unpenalised). Each problem runs L-BFGS whose
initial metric is the Hessian at zero, ``XᵀX / classes + I / C``; its Cholesky factor makes some twenty iterations do the
work of hundreds, and one pass over the features serves all the problems. No step loops over problems; the one thing that
the host waits for in a round is which of them are done.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vlm_spatial.probes.arrays import Array, block_rows, cholesky_solver, namespace, on_host, solve

_MEMORY = 12
_ARMIJO = 1e-4
_NEGLIGIBLE = 1e-4


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
        x: ``[rows, features]``, each feature centred and scaled (weighted by the rows' counts, if they have any). A tensor is
            worked on where it lies.
        counts: how often each row stands in the data; 1 each if None.
    """

    def __init__(self, x: Float[Array, "rows features"], counts: Float[np.ndarray, " rows"] | None = None) -> None:
        xp = namespace(x)
        self._x = xp.asarray(x, dtype=xp.float32)
        self._back: Float[Array, "rank features"] | None = None
        if 2 * len(self._x) < self._x.shape[1]:
            # The solution lies in the span of the rows: far fewer rows than features means fewer unknowns.
            self._x, self._back = _reduced(self._x)
        weighted = self._x if counts is None else self._x * xp.asarray(counts, dtype=xp.float32, device=self._x.device)[:, None]
        self._gram = weighted.T @ self._x
        self._solvers: dict[tuple[float, int], Callable[[Array], Array]] = {}

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
        xp, device = namespace(self._x), self._x.device
        problems, _, classes = targets.shape
        y = xp.asarray(np.ascontiguousarray(targets.swapaxes(1, 2), dtype=np.float32), device=device)
        ridges = 1.0 / np.asarray(strengths, dtype=np.float64)
        state = _begin(xp, device, ridges, targets.sum(axis=(1, 2)), (classes, self._x.shape[1] + 1))
        points, values, converged = on_host(state.point).copy(), np.full(problems, np.inf), np.zeros(problems, dtype=bool)
        active, rounds = np.arange(problems), 0
        while len(active) and rounds < max_iterations:
            trial = state.point + state.step[:, None, None] * state.direction
            loss, gradient = self._evaluate(trial, y)
            state.advance(trial, loss, gradient, partial(self._precondition, ridges=ridges[active], rows=state.rows), rounds, tolerance)
            rounds += 1
            done = on_host(state.done)
            if done.any() or rounds == max_iterations:
                points[active], values[active], converged[active] = on_host(state.point), on_host(state.value), done
                left = np.flatnonzero(~done)
                state, y, active = state.among(left.tolist()), y[left.tolist()], active[left]
        weight = points[..., :-1]
        if self._back is not None:
            weight = on_host(xp.asarray(weight, device=device) @ self._back)
        return Fit(weight, points[..., -1], values, converged, rounds)

    def _evaluate(
        self, points: Float[Array, "problems classes parameters"], y: Float[Array, "problems classes rows"]
    ) -> tuple[Float[Array, " problems"], Float[Array, "problems classes parameters"]]:
        """Sum of log losses and its gradient, for all the problems in one pass over the rows."""
        xp = namespace(points)
        problems, classes, _ = points.shape
        weight = xp.asarray(points[..., :-1].reshape(problems * classes, -1), dtype=xp.float32)
        bias = xp.asarray(points[..., -1:], dtype=xp.float32)
        losses, gradient = 0.0, xp.zeros_like(points)
        step = block_rows(self._x)
        for start in range(0, len(self._x), step):
            x = self._x[start : start + step]
            target = y[..., start : start + step]
            scores = (weight @ x.T).reshape(problems, classes, len(x)) + bias
            scores -= xp.amax(scores, axis=1)[:, None]
            probability = xp.exp(scores)
            total = probability.sum(axis=1)
            rows = target.sum(axis=1)
            # The sum without its largest term, 1, keeps the losses of sure answers, which are far below single precision's unit.
            others = xp.where(scores < 0, probability, 0).sum(axis=1) + ((scores == 0).sum(axis=1) - 1)
            losses = losses + (rows * xp.log1p(others) - (target * scores).sum(axis=1)).sum(axis=1, dtype=xp.float64)
            residual = probability * (rows / total)[:, None] - target
            gradient[..., :-1] += (residual.reshape(problems * classes, -1) @ x).reshape(problems, classes, -1)
            gradient[..., -1] += residual.sum(axis=2, dtype=xp.float64)
        return losses, gradient

    def _precondition(
        self,
        g: Float[Array, "problems vectors classes parameters"],
        ridges: Float[np.ndarray, " problems"],
        rows: Float[Array, " problems"],
    ) -> Float[Array, "problems vectors classes parameters"]:
        xp = namespace(g)
        classes, features = g.shape[2], g.shape[3] - 1
        single, solved = xp.asarray(g[..., :-1], dtype=xp.float32), xp.empty_like(g)
        # Neighbours with one factor together: what a solve costs is reading it.
        bounds = [0, *(1 + np.flatnonzero(np.diff(ridges))).tolist(), len(ridges)]
        for start, stop in pairwise(bounds):
            part = self._solver(float(ridges[start]), classes)(single[start:stop].reshape(-1, features))
            solved[start:stop, ..., :-1] = part.reshape(solved[start:stop, ..., :-1].shape)
        solved[..., -1] = g[..., -1] * (classes / rows)[:, None, None]
        return solved

    def _solver(self, ridge: float, classes: int) -> Callable[[Array], Array]:
        key, added = (ridge, classes), ridge
        xp = namespace(self._gram)
        while key not in self._solvers:
            metric = self._gram / classes
            metric.reshape(-1)[:: len(metric) + 1] += added
            try:
                self._solvers[key] = cholesky_solver(metric)
            except xp.linalg.LinAlgError:
                # Collinear features: single precision needs more ridge. It shapes the steps, not the solution.
                added *= 10
        return self._solvers[key]


def _reduced(x: Float[Array, "rows features"]) -> tuple[Float[Array, "rows rank"], Float[Array, "rank features"]]:
    """Coordinates of the rows in an orthonormal basis of their span, and that basis."""
    xp = namespace(x)
    wide = xp.asarray(x, dtype=xp.float64)
    values, vectors = xp.linalg.eigh(wide @ wide.T)
    kept = values > values[-1] * 1e-10
    if not bool(kept.any()):
        return xp.zeros_like(x[:, :1]), xp.zeros_like(wide[:1])
    scale = xp.sqrt(values[kept])
    return xp.asarray(vectors[:, kept] * scale, dtype=xp.float32), (vectors[:, kept] / scale).T @ wide


def _begin(
    xp: Any, device: Any, ridges: Float[np.ndarray, " problems"], rows: Float[np.ndarray, " problems"], shape: tuple[int, int]
) -> "_State":
    """All problems at zero, where no gradient is known yet."""
    problems, parameters = len(ridges), shape[0] * shape[1]

    def filled(value: float, *more: int) -> Array:
        return xp.full((problems, *more), value, dtype=xp.float64, device=device)

    return _State(
        ridge=xp.asarray(ridges, device=device),
        rows=xp.asarray(rows, dtype=xp.float64, device=device),
        point=filled(0.0, *shape),
        gradient=filled(0.0, *shape),
        direction=filled(0.0, *shape),
        value=filled(np.inf),
        first=filled(np.inf),
        slope=filled(0.0),
        step=filled(1.0),
        done=filled(0.0) > 0,
        moves=filled(0.0, _MEMORY, parameters),
        changes=filled(0.0, _MEMORY, parameters),
        conditioned=filled(0.0, _MEMORY, parameters),
        products=filled(0.0, _MEMORY, _MEMORY),
        scale=filled(1.0),
    )


@dataclass
class _State:
    """L-BFGS of all problems that are not done: where each stands, its next direction, and its memory of steps.

    A step that the memory keeps is scaled so that move and change have the product 1; an unused place holds zeros, which add nothing.

    Attributes:
        rows: how many rows count in a problem.
        value, first: of the objective, now and at the start.
        slope: of the objective along the direction.
        step: along the direction, of the next trial.
        moves, changes, conditioned: ``[problems, memory, parameters]``, moves of the point, changes of the gradient with them, and these
            after the initial metric.
        products: ``[problems, memory, memory]``, of moves and changes.
        scale: of the initial metric.
    """

    ridge: Float[Array, " problems"]
    rows: Float[Array, " problems"]
    point: Float[Array, "problems classes parameters"]
    gradient: Float[Array, "problems classes parameters"]
    direction: Float[Array, "problems classes parameters"]
    value: Float[Array, " problems"]
    first: Float[Array, " problems"]
    slope: Float[Array, " problems"]
    step: Float[Array, " problems"]
    done: Bool[Array, " problems"]
    moves: Float[Array, "problems memory parameters"]
    changes: Float[Array, "problems memory parameters"]
    conditioned: Float[Array, "problems memory parameters"]
    products: Float[Array, "problems memory memory"]
    scale: Float[Array, " problems"]

    def among(self, problems: list[int]) -> "_State":
        """Some of the problems."""
        return _State(**{part.name: getattr(self, part.name)[problems] for part in fields(self)})

    def advance(
        self,
        trial: Float[Array, "problems classes parameters"],
        loss: Float[Array, " problems"],
        gradient: Float[Array, "problems classes parameters"],
        precondition: Callable[[Array], Array],
        number: int,
        tolerance: float,
    ) -> None:
        """Each problem takes its trial point if that decreases the objective enough, and otherwise halves its step."""
        xp = namespace(trial)
        value = loss + self.ridge / 2 * (trial[..., :-1] ** 2).sum(axis=(1, 2))
        gradient[..., :-1] += self.ridge[:, None, None] * trial[..., :-1]
        taken = value <= self.value + _ARMIJO * self.step * self.slope
        moved, change = trial - self.point, gradient - self.gradient
        curvature = (moved * change).sum(axis=(1, 2))
        kept = taken & xp.isfinite(self.first) & (curvature > 1e-10 * (change**2).sum(axis=(1, 2)))
        solved = precondition(xp.stack([gradient, change], axis=1))
        self._remember(number % _MEMORY, kept, moved, change, solved[:, 1], curvature)
        direction, slope = self._direction(number % _MEMORY, gradient, solved[:, 0])
        spoiled = slope >= 0
        # Rounding has spoiled the memory: begin again from the preconditioned gradient.
        self._forget(taken & spoiled)
        direction = xp.where(spoiled[:, None, None], -solved[:, 0], direction)
        slope = (gradient * direction).sum(axis=(1, 2))

        def updated(new: Array, old: Array) -> Array:
            return xp.where(taken.reshape(-1, *[1] * (len(new.shape) - 1)), new, old)

        self.first = xp.where(xp.isfinite(self.first), self.first, value)
        self.point, self.gradient, self.direction = (
            updated(trial, self.point),
            updated(gradient, self.gradient),
            updated(direction, self.direction),
        )
        self.value, self.slope, self.step = updated(value, self.value), updated(slope, self.slope), xp.where(taken, 1.0, self.step / 2)
        converged = -self.slope / 2 <= tolerance * xp.maximum(self.value, _NEGLIGIBLE * self.first)
        # Single precision cannot resolve the decrease of a smaller step: this is the minimum.
        self.done = (taken & converged) | (self.step < 1e-4)

    def _remember(self, place: int, kept: Array, moved: Array, change: Array, conditioned: Array, curvature: Array) -> None:
        """Keep a step of the ``kept`` problems in ``place``; of the others that place is empty from now on."""
        xp = namespace(moved)
        size = xp.sqrt(xp.where(kept, curvature, 1.0))[:, None]
        for memory, new in ((self.moves, moved), (self.changes, change), (self.conditioned, conditioned)):
            memory[:, place] = xp.where(kept[:, None], new.reshape(len(new), -1) / size, 0.0)
        self.products[:, :, place] = _times(self.moves, self.changes[:, place])
        stretch = (self.changes[:, place] * self.conditioned[:, place]).sum(axis=1)
        self.scale = xp.where(kept, 1 / xp.where(kept, stretch, 1.0), self.scale)

    def _forget(self, problems: Bool[Array, " problems"]) -> None:
        xp = namespace(problems)
        for memory in (self.moves, self.changes, self.conditioned, self.products):
            memory *= ~problems[:, None, None]
        self.scale = xp.where(problems, 1.0, self.scale)

    def _direction(self, latest: int, gradient: Array, conditioned: Array) -> tuple[Array, Array]:
        """The two-loop recursion around the preconditioner, whose loops are two triangular systems."""
        xp = namespace(gradient)
        age = (latest - xp.arange(_MEMORY, device=gradient.device)) % _MEMORY
        upper = xp.where(age[:, None] > age, self.products, xp.eye(_MEMORY, dtype=xp.float64, device=gradient.device))
        g, p = gradient.reshape(len(gradient), -1), conditioned.reshape(len(gradient), -1)
        shares = solve(upper, _times(self.moves, g))
        q = self.scale[:, None] * (p - _times(self.conditioned.mT, shares))
        shares = solve(upper.mT, shares - _times(self.changes, q))
        direction = -(q + _times(self.moves.mT, shares)).reshape(gradient.shape)
        return direction, (gradient * direction).sum(axis=(1, 2))


def _times(matrix: Float[Array, "problems n m"], vector: Float[Array, "problems m"]) -> Float[Array, "problems n"]:
    return (matrix @ vector[..., None])[..., 0]
