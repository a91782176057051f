"""A short version of the simulation in benchmarks/coverage.py: intervals hold the truth, and what is not true is not supported."""

import pytest
from benchmarks.coverage import FALSE_CLAIMS, INTERVALS
from benchmarks.simulated.cases import Case, simulate

from vlm_spatial.measures.claims import BY_NAME

pytestmark = pytest.mark.unit

DRAWS = 60
# Of 60 draws, an interval that covers 93% misses 10 or more with probability 0.008, one that covers 80% with 0.79.
MISSED = 10
# Of 60 draws, a claim that is falsely supported in 5% is so 9 times or more with probability 0.003.
SUPPORTED = 9
# Each draw of these is a whole sweep of corrections; docs/coverage.md has them.
LONG = ("errors_corrected", "net_accuracy")


def short(cases: tuple[Case, ...]) -> list[Case]:
    """Each case at the smallest size, where intervals are hardest."""
    return [Case(case.what, case.truth, case.draw, case.sizes[:1]) for case in cases]


def test_every_claim_is_simulated_where_it_is_not_true() -> None:
    assert {case.what for case in FALSE_CLAIMS} == set(BY_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("case", short(INTERVALS), ids=lambda case: f"{case.what} {case.truth}")
def test_an_interval_holds_the_truth(case: Case) -> None:
    [(_, shares)] = simulate([case], DRAWS)
    assert all(DRAWS * (1 - share) < MISSED for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in short(FALSE_CLAIMS) if case.what not in LONG], ids=lambda case: f"{case.what} {case.truth}"
)
def test_what_is_not_true_is_not_supported(case: Case) -> None:
    [(_, shares)] = simulate([case], DRAWS)
    assert all(DRAWS * share < SUPPORTED for share in shares.values()), shares
