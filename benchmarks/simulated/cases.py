"""What is simulated: a draw from a known truth, repeated; each case with the share of draws that came true."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from vlm_spatial.measures.claims import BY_NAME
from vlm_spatial.statistics import Interval

SIZES = (10, 30, 50, 100)
LAYERS = 6
Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One row of the page: ``draw(n, generator)`` says whether the interval held the truth, or the false claim was supported."""

    what: str
    truth: str
    draw: Callable[[int, Rng], bool]
    sizes: Sequence[int] = SIZES


def holds(interval: Interval, truth: float) -> bool:
    return bool(interval.low - 1e-9 <= truth <= interval.high + 1e-9)


def supported(name: str, tables: dict[str, pl.DataFrame]) -> bool:
    claim = BY_NAME[name]
    return claim.judge(claim.measure(tables)) == "supported"


def simulate(cases: Sequence[Case], repetitions: int, seed: int = 0) -> Iterator[tuple[Case, dict[int, float]]]:
    """Each case with the share of draws that came true, by ``n``."""
    for number, case in enumerate(cases):
        yield case, {n: share(case, number, n, repetitions, seed) for n in case.sizes}


def share(case: Case, number: int, n: int, repetitions: int, seed: int) -> float:
    generator = np.random.default_rng([seed, number, n])
    return float(np.mean([case.draw(n, generator) for _ in range(repetitions)]))
