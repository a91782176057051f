"""A fitted linear probe; needs numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from vlm_spatial.errors import UserError


@dataclass(frozen=True)
class Probe:
    """A linear classifier of the slot on standardised activations, with scikit-learn's methods.

    Attributes:
        weight: ``[slots, features]``, on ``(x - mean) / scale``.
        bias: ``[slots]``.
        mean, scale: ``[features]``, of the training tokens; ``scale`` is 1 for a feature that did not vary (its weight is 0).
        class_mean: ``[slots, features]``, mean raw activation of each slot's object tokens, training split.
        strength: inverse regularisation ``C`` chosen on the validation split; None for rules that have none.
        shuffled_weight, shuffled_bias: ``[slots, features]`` and ``[slots]``, of the same fit to shuffled slots (a control); None where not
            fitted.
    """

    weight: Float[np.ndarray, "slots features"]
    bias: Float[np.ndarray, " slots"]
    mean: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    class_mean: Float[np.ndarray, "slots features"]
    strength: float | None = field(default=None)
    shuffled_weight: Float[np.ndarray, "slots features"] | None = field(default=None)
    shuffled_bias: Float[np.ndarray, " slots"] | None = field(default=None)

    @property
    def classes_(self) -> Int[np.ndarray, " slots"]:
        return np.arange(len(self.bias))

    def decision_function(self, x: Float[np.ndarray, "*rows features"]) -> Float[np.ndarray, "*rows slots"]:
        """Unnormalised log-probabilities of raw activations."""
        # Centred first: language models have features of huge mean, which single precision could not subtract later.
        return (x - self.mean) @ (self.weight / self.scale).T + self.bias

    def predict_proba(self, x: Float[np.ndarray, "*rows features"]) -> Float[np.ndarray, "*rows slots"]:
        return softmax(self.decision_function(x))

    def predict(self, x: Float[np.ndarray, "*rows features"]) -> Int[np.ndarray, "*rows"]:
        return self.decision_function(x).argmax(axis=-1)

    def score(self, x: Float[np.ndarray, "rows features"], y: Int[np.ndarray, " rows"]) -> float:
        """Accuracy on raw activations ``x`` with slots ``y``."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def subspace(self) -> Float[np.ndarray, "rank features"]:
        """Orthonormal basis, in raw activation space, of the directions the probe tells slots apart by (rank: slots - 1)."""
        return orthonormal_rows(self.weight / self.scale)

    def with_shuffled(self, control: "Probe") -> "Probe":
        """This probe, which keeps ``control``, a fit of the same features to shuffled slots."""
        return replace(self, shuffled_weight=control.weight, shuffled_bias=control.bias)

    def shuffled(self) -> "Probe | None":
        """The fit to shuffled slots; None where there was none."""
        if self.shuffled_weight is None or self.shuffled_bias is None:
            return None
        return replace(self, weight=self.shuffled_weight, bias=self.shuffled_bias, shuffled_weight=None, shuffled_bias=None)

    def shuffled_subspace(self) -> Float[np.ndarray, "rank features"]:
        """As :meth:`subspace`, for the fit to shuffled slots.

        Raises:
            UserError: if there was none.
        """
        if self.shuffled_weight is None:
            raise UserError("probe: saved without its shuffled-label control; make the probes again")
        return orthonormal_rows(self.shuffled_weight / self.scale)

    def mean_subspace(self) -> Float[np.ndarray, "rank features"]:
        """Orthonormal basis, in raw activation space, of the differences between the slots' mean activations."""
        return orthonormal_rows(self.class_mean)


class StackedProbes:
    """Several probes of the same features, read in one product.

    Args:
        probes: any number, each with its own scaling.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._centre = probes[0].mean
        weights = np.stack([probe.weight.astype(np.float64) / probe.scale for probe in probes])
        shifts = [w @ (self._centre - probe.mean.astype(np.float64)) for w, probe in zip(weights, probes, strict=True)]
        self._bias = (np.stack([probe.bias for probe in probes]) + np.stack(shifts)).astype(np.float32)
        self._weight = weights.reshape(-1, weights.shape[-1]).astype(np.float32)

    def __call__(self, x: Float[np.ndarray, "*rows features"]) -> Float[np.ndarray, "*rows probes slots"]:
        """Unnormalised log-probabilities."""
        return ((x - self._centre) @ self._weight.T).reshape(*x.shape[:-1], *self._bias.shape) + self._bias


def softmax(scores: Float[np.ndarray, "*rows slots"]) -> Float[np.ndarray, "*rows slots"]:
    """Probabilities from unnormalised log-probabilities."""
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def orthonormal_rows(vectors: Float[np.ndarray, "classes features"]) -> Float[np.ndarray, "rank features"]:
    """Orthonormal basis of the differences between the rows of ``vectors`` (their span after centring)."""
    centred = np.asarray(vectors, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, values, basis = np.linalg.svd(centred, full_matrices=False)
    return basis[values > max(values[0], np.finfo(float).tiny) * 1e-6] if len(values) else basis
