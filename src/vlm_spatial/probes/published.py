"""The published recipe of a slot probe: softmax regression on raw activations, 200 full-batch steps of AdamW, nothing chosen.

It is beside ours, not instead: what it finds rests on its start and its number of steps, and it has no controls.
"""

import numpy as np
from jaxtyping import Float

from vlm_spatial.probes.fitting import NEVER, of_all_classes
from vlm_spatial.probes.probe import Probe, softmax

STEPS, RATE, DECAY = 200, 1e-3, 1e-4
_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8


def fit_published(
    x: Float[np.ndarray, "rows features"],
    targets: Float[np.ndarray, "rows classes"],
    generator: np.random.Generator,
    start: tuple[Float[np.ndarray, "classes features"], Float[np.ndarray, " classes"]] | None = None,
) -> Probe:
    """A probe of the published recipe (Loshchilov and Hutter 2019 for AdamW; weight decay on the bias, too).

    A class without rows is never named.

    Args:
        x: raw activations.
        targets: one-hot.
        start: weight and bias to start from; normal with variance 1 over the number of features otherwise.
    """
    rows, features = x.shape
    every, there = targets.shape[1], np.flatnonzero(targets.any(axis=0))
    targets = targets[:, there]
    classes = len(there)
    if start is None:
        drawn = generator.standard_normal((features + 1, classes)) / np.sqrt(features)
        start = drawn[:-1].T, drawn[-1]
    values = np.concatenate([start[0], start[1][:, None]], axis=1)
    mean, square = np.zeros_like(values), np.zeros_like(values)
    single, wanted = x.astype(np.float32, copy=False), targets.astype(np.float32)
    for step in range(1, STEPS + 1):
        scores = single @ values[:, :-1].T.astype(np.float32) + values[:, -1].astype(np.float32)
        wrong = (softmax(scores) - wanted) / rows
        gradient = np.concatenate([wrong.T @ single, wrong.sum(axis=0)[:, None]], axis=1)
        mean = _FIRST * mean + (1 - _FIRST) * gradient
        square = _SECOND * square + (1 - _SECOND) * gradient**2
        size = np.sqrt(square / (1 - _SECOND**step)) + _SMALL
        values = values * (1 - RATE * DECAY) - RATE * mean / (1 - _FIRST**step) / size
    totals = targets.sum(axis=0)
    class_mean = (targets.T @ x.astype(np.float64)) / totals[:, None]
    parts = ((values[:, :-1], None), (values[:, -1], NEVER), (class_mean, None))
    found = [np.asarray(of_all_classes(part, there, every, absent), dtype=np.float32) for part, absent in parts]
    nothing, one = np.zeros(features, dtype=np.float32), np.ones(features, dtype=np.float32)
    return Probe(found[0], found[1], nothing, one, found[2])
