"""How far log-odds move, by hand: sums over pairs, the third hypothesis of last-token pairs, the site that the other half chooses."""

import polars as pl
import pytest

from vlm_spatial.measures.recovery import recoveries, recovery, recovery_at_best
from vlm_spatial.measures.table import BOTH

pytestmark = pytest.mark.unit


def row(pair: int, experiment: str, site: str, moved: float, outcome: str = "stay", **more: object) -> dict[str, object]:
    """A pair whose clean run is at −2 and whose source is at 2, moved by so much."""
    return {
        "pair_id": f"p{pair}",
        "experiment": experiment,
        "axis": "horizontal",
        "condition": "intact",
        "site": site,
        "token_set": "object",
        "source": "counterfactual",
        "included": True,
        "outcome": outcome,
        "log_odds_clean": -2.0,
        "log_odds": -2.0 + moved,
        "log_odds_source": 2.0,
        "content_log_odds_clean": -1.0,
        "content_log_odds": -1.0,
        "content_log_odds_source": 1.0,
    } | more


def test_rows_of_every_experiment_by_site() -> None:
    interchange = pl.DataFrame(
        [
            *(row(pair, "vision", "connector", moved) for pair, moved in enumerate((4.0, 2.0, 0.0))),
            row(3, "vision", "connector", 4.0, source="unrelated"),
            row(4, "vision", "connector", 4.0, included=False),
            # The two runs of this one hardly differ.
            row(5, "vision", "connector", 40.0, log_odds_source=-1.9),
            *(row(pair, "last_token", "language.1", 4.0, content_log_odds=moved) for pair, moved in enumerate((0.0, 1.0))),
            row(0, "crosswise", "connector", 4.0),
        ]
    )
    found = recoveries({"interchange": interchange})
    estimates = {(one["experiment"], one["axis"]): (one["estimate"], one["n"]) for one in found.iter_rows(named=True)}
    for axis in ("horizontal", BOTH):
        assert estimates["vision", axis] == (pytest.approx(6 / 12), 3)
        # Of the source's own answer, which is the third hypothesis: (1 + 2) of (2 + 2).
        assert estimates["last_token", axis] == (pytest.approx(3 / 4), 2)
    # Crosswise rows have theirs among their own measures.
    assert set(found["experiment"]) == {"vision", "last_token"}


def test_at_the_best_site_each_half_is_measured_where_the_other_flips_most() -> None:
    rows = []
    for pair in range(4):
        even = pair % 2 == 0
        # Even pairs flip at layer 0 only, odd ones at layer 1 only: each half is measured where it does not flip.
        rows.append(row(pair, "language", "language.0", 4.0 if even else 1.0, "ordering" if even else "stay"))
        rows.append(row(pair, "language", "language.1", 2.0 if even else 4.0, "stay" if even else "ordering"))
    found = recovery_at_best(pl.DataFrame(rows), "ordering")
    assert (found.estimate, found.n) == (pytest.approx((2 * 2.0 + 2 * 1.0) / 16), 4)


def test_no_pairs_no_number() -> None:
    empty = pl.DataFrame([row(0, "vision", "connector", 1.0)]).clear()
    assert recovery(empty).n == recovery_at_best(empty, "flip").n == 0
    assert recoveries({}).is_empty()
    assert recovery(empty.drop("log_odds_source")).n == 0
