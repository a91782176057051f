"""What the scores of a question's candidates say: the answer given, how sure it is, and how good those probabilities are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Answered:
    """An answer among candidates.

    Attributes:
        predicted: the best candidate.
        confidence: its probability (softmax over the candidates).
        answer_probability: that of the right candidate.
        brier: sum over candidates of (probability - 1 if right else 0)²: 0 is perfect, 2 the worst (Brier 1950).
    """

    predicted: str
    confidence: float
    answer_probability: float
    brier: float


def answered(log_probabilities: Float[np.ndarray, " candidates"] | Sequence[float], candidates: Sequence[str], answer: str) -> Answered:
    """The answer that the candidates' log-probabilities give to a question whose right answer is ``answer``."""
    scores = np.asarray(log_probabilities, dtype=float)
    scores = np.exp(scores - scores.max())
    probability = scores / scores.sum()
    right = np.array([candidate == answer for candidate in candidates])
    best = int(probability.argmax())
    return Answered(
        predicted=candidates[best],
        confidence=float(probability[best]),
        answer_probability=float(probability[right][0]),
        brier=float(((probability - right) ** 2).sum()),
    )
