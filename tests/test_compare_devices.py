"""Two runs held against each other (benchmarks/devices.py): what differs is found, by hand-made tables of measures."""

from pathlib import Path

import pytest
from benchmarks.devices import compare

from vlm_spatial.measures.table import tidy

pytestmark = pytest.mark.unit


def run(folder: Path, estimate: float, verdict: str) -> Path:
    rows = tidy([{"measure": "dominance", "axis": "both axes", "estimate": estimate, "verdict": verdict, "n": 40}], "claims")
    (folder / "results/model/squares").mkdir(parents=True)
    rows.write_parquet(folder / "results/model/squares/measures.parquet")
    return folder


@pytest.mark.parametrize(
    ("estimate", "verdict", "same"),
    [(0.50, "supported", True), (0.54, "supported", True), (0.56, "supported", False), (0.50, "mixed", False)],
)
def test_a_verdict_or_more_than_the_tolerance_is_a_difference(tmp_path: Path, estimate: float, verdict: str, same: bool) -> None:
    assert compare(run(tmp_path / "one", 0.5, "supported"), run(tmp_path / "other", estimate, verdict)) is same


def test_a_run_that_lacks_a_table_is_another(tmp_path: Path) -> None:
    one = run(tmp_path / "one", 0.5, "supported")
    (tmp_path / "other").mkdir()
    assert not compare(tmp_path / "other", one)
    assert not compare(one, tmp_path / "other")
