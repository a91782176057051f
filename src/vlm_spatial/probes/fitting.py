"""From tokens and labels to probes: logistic regression, its simpler rivals, and the label controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from vlm_spatial.probes.arrays import Array, namespace, on_host
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.solver import LogisticSolver

# A feature whose spread is within single precision's rounding of its mean does not vary.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Rows:
    """Labelled activations of one split.

    Attributes:
        x: ``[rows, features]``, raw; a tensor is worked on where it lies.
        targets: ``[rows, classes]``, how often each row has each class (one-hot for plain tokens).
        scenes: how many scenes they come from.
    """

    x: Float[Array, "rows features"]
    targets: Float[np.ndarray, "rows classes"]
    scenes: int


NEVER = -1e9
"""Bias of a class that is never named."""


def of_all_classes(
    rows: Float[np.ndarray, "..."], there: Int[np.ndarray, " present"], classes: int, absent: float | None = None
) -> Float[np.ndarray, "..."]:
    """``rows`` of the classes that are ``there``, and for the others ``absent``, or the mean row, which adds no direction."""
    if len(there) == classes:
        return rows
    found = np.broadcast_to(rows.mean(axis=0) if absent is None else absent, (classes, *rows.shape[1:])).copy()
    found[there] = rows
    return found


def one_hot(labels: Int[np.ndarray, " rows"], classes: int) -> Float[np.ndarray, "rows classes"]:
    return np.eye(classes)[labels]


def why_inconclusive(train: Rows, validation: Rows, slots: Sequence[int] | None = None) -> str | None:
    """Plain words for data that cannot support a probe, or None.

    Args:
        slots: those that the scenes have; all classes by default.
    """
    wanted = range(train.targets.shape[1]) if slots is None else slots
    if train.scenes < len(wanted):
        return f"{train.scenes} training scenes for {len(wanted)} slots"
    for name, rows in (("training", train), ("validation", validation)):
        missing = [str(slot) for slot in wanted if not rows.targets[:, slot].any()]
        if missing:
            return f"no object token of slot {', '.join(missing)} in the {name} split"
    if not all(bool(namespace(rows.x).isfinite(rows.x).all()) for rows in (train, validation)):
        return "activations are not finite"
    if not _scaling(train)[2].any():
        return "no feature varies over the training tokens"
    return None


def fit_probes(
    train: Rows, validation: Rows, strengths: Sequence[float], extra: dict[str, Float[np.ndarray, "rows classes"]]
) -> dict[str, Probe]:
    """Fit ``logistic``, ``centroid``, ``difference``, and one more logistic probe for each of the ``extra`` targets.

    The strength is the one with the best validation accuracy (the strongest regularisation among equals); the extra
    targets, which are controls, are fitted at that same strength, so that they have the same capacity. ``train.x`` is
    standardised in place, since at a large model it is what memory is spent on. A class without rows (the middle slot of scenes of two
    objects) is never named, and adds no direction to the subspace.
    """
    mean, scale, varies = _scaling(train)
    classes, there = train.targets.shape[1], np.flatnonzero(train.targets.any(axis=0))
    train = replace(train, targets=train.targets[:, there])
    totals = train.targets.sum(axis=0)
    class_mean = _class_sums(train) / totals[:, None]

    def probe(weight: np.ndarray, bias: np.ndarray, strength: float | None = None) -> Probe:
        parts = (every(weight * varies), every(bias, NEVER), mean, scale, every(class_mean))
        single = [np.asarray(part, dtype=np.float32) for part in parts]
        return Probe(single[0], single[1], single[2], single[3], single[4], strength)

    def every(rows: np.ndarray, absent: float | None = None) -> np.ndarray:
        return of_all_classes(rows, there, classes, absent)

    counts = train.targets.sum(axis=1)
    z = train.x
    xp = namespace(z)
    z -= xp.asarray(mean, dtype=z.dtype, device=z.device)
    z *= xp.asarray(varies / scale, dtype=z.dtype, device=z.device)
    solver = LogisticSolver(z, None if (counts == 1).all() else counts)
    tried = sorted(strengths)
    fit = solver.fit(np.repeat(train.targets[None], len(tried), axis=0), np.array(tried))
    candidates = [probe(fit.weight[i], fit.bias[i], strength) for i, strength in enumerate(tried)]
    best = int(np.argmax([_accuracy(candidate, validation) for candidate in candidates]))
    probes = {"logistic": candidates[best]}

    means = (class_mean - mean) / scale
    probes["centroid"] = probe(means, -0.5 * (means**2).sum(axis=1))
    rest = (totals @ means - totals[:, None] * means) / (totals.sum() - totals)[:, None]
    direction = means - rest
    direction = direction / np.maximum((direction**2).sum(axis=1, keepdims=True), np.finfo(float).tiny)
    probes["difference"] = probe(direction, -(direction * (means + rest) / 2).sum(axis=1))

    if extra:
        fit = solver.fit(np.stack(list(extra.values()))[..., there], np.full(len(extra), tried[best]))
        for index, name in enumerate(extra):
            probes[name] = probe(fit.weight[index], fit.bias[index], tried[best])
    return probes


def _scaling(train: Rows) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Mean and standard deviation (1 where nothing varies) of each feature, and 1 where it varies, else 0."""
    total = train.targets.sum()
    mean = _class_sums(train).sum(axis=0) / total
    xp, device = namespace(train.x), train.x.device
    weights, centre = xp.asarray(train.targets.sum(axis=1), device=device), xp.asarray(mean, device=device)
    deviation = np.sqrt(on_host(sum(weights[rows] @ (train.x[rows] - centre) ** 2 for rows in _blocks(train))) / total)
    # Rounding errors of one feature come from the others, too: a spread is also held against the usual size of a feature.
    varies = deviation > _ROUNDING * np.maximum(np.abs(mean), np.median(np.hypot(mean, deviation)))
    return mean, np.where(varies, deviation, 1.0), varies.astype(float)


def _class_sums(rows: Rows) -> Float[np.ndarray, "classes features"]:
    """Sum of each class's activations, in double precision."""
    xp = namespace(rows.x)
    targets = xp.asarray(rows.targets, device=rows.x.device)
    return on_host(sum(targets[block].T @ xp.asarray(rows.x[block], dtype=xp.float64) for block in _blocks(rows)))


def _blocks(rows: Rows) -> Iterator[slice]:
    """Few enough rows at a time that their copies in double precision do not count."""
    return (slice(start, start + 1024) for start in range(0, len(rows.x), 1024))


def _accuracy(probe: Probe, rows: Rows) -> float:
    predicted = probe.predict(rows.x)
    return float(rows.targets[np.arange(len(predicted)), predicted].sum() / rows.targets.sum())
