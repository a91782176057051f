"""The rules of verdicts: an estimate, its control, and what follows from their intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vlm_spatial.statistics import Interval

Verdict = Literal["supported", "refuted", "inconclusive"]

MINIMUM = 10
"""Fewer units bear no verdict: with a handful, resamples hardly differ and intervals are too narrow."""
ACCURACY_MARGIN, PROBE_MARGIN, PEAK_MARGIN, DROP_MARGIN, BACKUP_MARGIN, CORRECTED_MARGIN = 0.1, 0.05, 0.1, 0.05, 0.1, 0.05
"""Smallest effect over the control that counts; an interval that excludes it refutes the claim."""
RELIABLE = 0.5
"""A patch changes answers reliably if it changes most of them."""
NET_MARGIN = 0.01
"""One point of accuracy: a smaller gain does not pay."""


@dataclass(frozen=True)
class Measured:
    """An estimate, what it is compared with, and the name of that control."""

    estimate: Interval
    control: Interval
    control_name: str


def above(margin: float) -> Callable[[Measured], Verdict]:
    """Supported if the interval lies above the control's; refuted if it excludes an effect of ``margin`` over the control."""

    def judge(found: Measured) -> Verdict:
        if found.estimate.low > found.control.high:
            return "supported"
        return "refuted" if found.estimate.high < found.control.estimate + margin else "inconclusive"

    return judge


def reliably(found: Measured) -> Verdict:
    """Supported if the interval lies above one half and above the control's; refuted if it lies below one half or below the control's."""
    low, high = found.estimate.low, found.estimate.high
    if low > max(RELIABLE, found.control.high):
        return "supported"
    return "refuted" if high < max(RELIABLE, found.control.low) else "inconclusive"


def sign(found: Measured) -> Verdict:
    """Supported if the interval lies above the control's point, refuted if below."""
    if found.estimate.low > found.control.estimate:
        return "supported"
    return "refuted" if found.estimate.high < found.control.estimate else "inconclusive"


def within(found: Measured) -> Verdict:
    """Supported if the interval lies strictly inside the control's, refuted if it lies wholly on one of its ends or outside."""
    low, high, first, last = found.estimate.low, found.estimate.high, found.control.low, found.control.high
    if first < low and high < last:
        return "supported"
    return "refuted" if high <= first or low >= last else "inconclusive"


def gains(found: Measured) -> Verdict:
    """Supported if the interval lies above the control's and above 0; refuted if it excludes a gain of one point over 0."""
    if found.estimate.low > max(0.0, found.control.high):
        return "supported"
    return "refuted" if found.estimate.high < NET_MARGIN else "inconclusive"
