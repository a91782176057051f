"""Whether a correction leaves the answers' probabilities honest: Brier score and calibration error, before and after."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from vlm_spatial.statistics import DRAWS, EMPTY, Interval, calibration_error, clustered_mean, percentile_interval, resample_counts


@dataclass(frozen=True)
class Calibration:
    """Over the questions of one setting; intervals resample scenes, changes are paired, and below 0 is better.

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
    scenes = rows["scene_id"].to_numpy()
    names, index = np.unique(scenes, return_inverse=True)
    everything = np.ones((1, rows.height))
    resampled = resample_counts(len(names), draws=draws, seed=seed)[:, index]

    def errors(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = calibration_error(rows["confidence_before"].to_numpy(), rows["correct_before"].to_numpy(), weights)
        return before, calibration_error(rows["confidence"].to_numpy(), rows["correct"].to_numpy(), weights)

    def interval(estimate: np.ndarray, samples: np.ndarray) -> Interval:
        low, high = percentile_interval(samples)
        return Interval(float(estimate[0]), float(low), float(high), rows.height)

    (before, after), (many_before, many_after) = errors(everything), errors(resampled)
    brier, _ = clustered_mean((rows["brier"] - rows["brier_before"]).to_numpy(), scenes.tolist())
    return Calibration(
        error_before=interval(before, many_before),
        error_after=interval(after, many_after),
        error_change=interval(after - before, many_after - many_before),
        brier_change=brier,
    )
