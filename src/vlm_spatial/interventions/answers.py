"""From next-token logits to answers: the best candidate, the hypothesis it agrees with, and how decided it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.models.adapter import Adapter

OTHER = "other"
"""Outcome of a patched run whose best candidate no hypothesis predicts."""


@dataclass(frozen=True)
class Readout:
    """A question's candidates and the vocabulary indices of their first tokens."""

    candidates: tuple[str, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, adapter: Adapter, candidates: Sequence[str]) -> "Readout":
        """Raises UserError if two candidates begin with the same token."""
        return cls(tuple(candidates), tuple(adapter.answer_tokens(candidates)))

    def logits(self, logits: Float[Tensor, " vocabulary"]) -> Float[np.ndarray, " candidates"]:
        """The candidates' logits, in float64."""
        return logits[list(self.tokens)].double().cpu().numpy()

    def best(self, scores: Float[np.ndarray, " candidates"]) -> str:
        """The candidate with the highest logit; the first of them on a tie."""
        return self.candidates[int(np.argmax(scores))]

    def log_odds(self, scores: Float[np.ndarray, " candidates"], answer: str, against: str) -> float:
        """Natural logarithm of ``p(answer) / p(against)``: the difference of the two logits."""
        return float(scores[self.candidates.index(answer)] - scores[self.candidates.index(against)])


def probability(scores: Float[np.ndarray, " candidates"], index: int) -> float:
    """Softmax over the candidates, at ``index``."""
    shifted = np.exp(scores - scores.max())
    return float(shifted[index] / shifted.sum())


def margin(scores: Float[np.ndarray, " candidates"], index: int) -> float:
    """Log-odds of the candidate at ``index`` against the best other candidate; infinite if there is no other."""
    others = np.delete(scores, index)
    return float(scores[index] - others.max()) if others.size else float("inf")


def outcome(predicted: str, hypotheses: Mapping[str, Any]) -> str:
    """Name of the hypothesis that predicts ``predicted``, else ``other``. Hypotheses' answers are all different."""
    return next((name for name, answer in hypotheses.items() if answer == predicted), OTHER)
