"""How often 95% intervals hold the truth, and how often a claim that is not true comes out ``supported``, by simulation.

``python -m benchmarks.coverage > docs/coverage.md``. The project's own functions run on tables drawn from known truths. ``simulate`` with
few repetitions is a test. What is drawn is in ``benchmarks/simulated``.
"""

import argparse
from collections.abc import Callable, Sequence

from benchmarks.simulated import false_claims, intervals, reading
from benchmarks.simulated.cases import SIZES, Case, share, simulate

INTERVALS = (*intervals.INTERVALS, *reading.INTERVALS)
FALSE_CLAIMS = (*false_claims.FALSE_CLAIMS, *reading.FALSE_CLAIMS)


def table(cases: Sequence[Case], repetitions: int, misses: Callable[[float], bool]) -> list[str]:
    """Rows of markdown, and a line that names the cells that miss the goal; a cell that does is drawn again, four times as often."""
    lines = ["| | truth | " + " | ".join(f"n = {n}" for n in SIZES) + " |", "|---|---|" + "---|" * len(SIZES)]
    missed = []
    for number, (case, shares) in enumerate(simulate(cases, repetitions)):
        again = {n: share(case, number, n, 4 * repetitions, seed=1) for n, found in shares.items() if misses(found)}
        shares |= again
        cells = [f"{100 * shares[n]:.1f}{'*' if n in again else ''}" if n in shares else "" for n in SIZES]
        lines.append(f"| {case.what} | {case.truth} | " + " | ".join(cells) + " |")
        missed += [f"{case.what} ({case.truth}) at n = {n}" for n, found in shares.items() if misses(found)]
    return [*lines, "", f"Cells that miss the goal: {'; '.join(missed) or 'none'}."]


def page(repetitions: int, of_claims: int) -> str:
    """The page as markdown."""
    return "\n".join(
        [
            "# Coverage of intervals and verdicts",
            "",
            "How often do 95% intervals hold the truth, and how often is a claim `supported` that is not true? The project's own functions",
            "run on data drawn from known truths. Made by `python -m benchmarks.coverage`; a short version is `tests/test_coverage.py`.",
            "",
            f"## Intervals: the share that holds the truth, in percent ({repetitions} draws; goal: 93 or more)",
            "",
            "`n` counts pairs, or scenes of three questions unless said otherwise, which are correlated at 0.3 within a scene.",
            "In the rows on IDs, routes and shuffles, whatever is done to one pair is correlated as much.",
            "A cell that missed the goal was drawn again, four times as often (*).",
            "",
            *table(INTERVALS, repetitions, lambda share: share < 0.93),
            "",
            f"## Claims that are not true: the share that is `supported`, in percent ({of_claims} draws; goal: at most 5)",
            "",
            "Before adjustment for the other claims of a report, which makes them rarer. In the rows on amplification the form and twenty",
            "random subspaces change answers alike, and each chooses among four alphas on validation data for itself.",
            "",
            *table(FALSE_CLAIMS, of_claims, lambda share: share > 0.05),
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="of each interval")
    parser.add_argument("--claim-draws", type=int, default=400, help="of each claim")
    given = parser.parse_args()
    print(page(given.draws, given.claim_draws), end="")
