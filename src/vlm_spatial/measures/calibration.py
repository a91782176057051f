"""Whether a correction leaves the answers' probabilities honest: Brier score and calibration error, before and after."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.statistics import (
    CONFIDENCE,
    DRAWS,
    EMPTY,
    Interval,
    calibration_error,
    calibration_gaps,
    clustered_mean,
    resample_counts,
)


@dataclass(frozen=True)
class Calibration:
    """Over the questions of one setting; changes are paired, and below 0 is better.

    The error has intervals that are wide rather than narrow. Its estimate is too high, as chance alone opens gaps between accuracy and
    confidence, and gaps can only add up. So the interval reaches as far as the gaps of all bins move together, in either direction.

    Attributes:
        error_before, error_after: expected calibration error of the answer given, ten bins.
        error_change: their difference.
        brier_change: mean change of the Brier score over the candidates.
    """

    error_before: Interval
    error_after: Interval
    error_change: Interval
    brier_change: Interval


def calibration(rows: pl.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> Calibration:
    """Rows of ``amplification.parquet`` that share method, draw, site and alpha: one row a question."""
    if rows.is_empty():
        return Calibration(EMPTY, EMPTY, EMPTY, EMPTY)
    scenes, n = rows["scene_id"].to_list(), rows.height
    before, after = ((rows[f"confidence{when}"].to_numpy(), rows[f"correct{when}"].to_numpy()) for when in ("_before", ""))
    moved = [_moved(*asked, scenes, draws, seed) for asked in (before, after)]
    reach = [_quantile(values, len(set(scenes))) for values in (*moved, moved[0] + moved[1])]
    errors = [calibration_error(*asked) for asked in (before, after)]
    change = errors[1] - errors[0]
    first, second = (Interval(error, max(0.0, error - far), min(1.0, error + far), n) for error, far in zip(errors, reach[:2], strict=True))
    brier, _ = clustered_mean((rows["brier"] - rows["brier_before"]).to_numpy(), scenes)
    return Calibration(first, second, Interval(change, max(-1.0, change - reach[2]), min(1.0, change + reach[2]), n), brier)


def _moved(
    confidence: Float[np.ndarray, " units"], correct: np.ndarray, scenes: list[str], draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """How far the bins' gaps move in resamples of scenes, added up.

    One right and one wrong answer are added, each as a scene of its own: where every answer is right, resampling alone would move nothing.
    """
    confidence = np.append(confidence, [confidence.mean()] * 2)
    correct = np.append(correct.astype(float), [1.0, 0.0])
    index = np.unique(scenes, return_inverse=True)[1]
    index = np.append(index, [index.max() + 1, index.max() + 2])
    weights = resample_counts(int(index[-1]) + 1, draws=draws, seed=seed)[:, index]
    gaps = calibration_gaps(confidence, correct, weights) - calibration_gaps(confidence, correct)
    return np.abs(gaps).sum(axis=1)


def _quantile(moved: Float[np.ndarray, " draws"], scenes: int) -> float:
    """95% of the moves; more for few scenes, whose spread is uncertain (as Student's quantile to the normal's)."""
    from scipy.stats import norm, t

    freedom, tail = max(scenes - 1, 1), (1 + CONFIDENCE) / 2
    return float(np.quantile(moved, CONFIDENCE) * (scenes / freedom) ** 0.5 * t.ppf(tail, freedom) / norm.ppf(tail))
