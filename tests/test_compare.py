"""vlm-spatial compare."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_spatial.cli import app
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_json
from vlm_spatial.report.compare import compare, read_side

pytestmark = pytest.mark.unit

CONTROL = {"name": "c", "estimate": 0.0, "low": 0.0, "high": 0.0, "n": 0}


def record(model: str, estimate: float | None, low: float | None, high: float | None, claim: str = "dominance", dataset: str = "d") -> dict:
    numbers = {"estimate": estimate, "low": low, "high": high, "n": 0 if estimate is None else 10}
    return {"model": model, "dataset": dataset, "claim": claim, **numbers, "control": CONTROL, "verdict": "inconclusive"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_json([record("a", 0.8, 0.7, 0.9), record("b", -0.5, -0.6, -0.4), record("c", 0.75, 0.6, 0.9)], tmp_path / "findings.json")
    return tmp_path


def test_intervals_that_do_not_touch_are_told(results: Path) -> None:
    sides = {name: read_side(f"{results}:{name}", Path("none")) for name in "abc"}
    apart = compare(sides["a"], sides["b"])[0]
    assert apart.apart is True
    assert apart.change == pytest.approx(-1.3)
    assert compare(sides["a"], sides["c"])[0].apart is False


def test_a_missing_estimate_is_no_difference() -> None:
    found = compare([record("a", None, None, None)], [record("b", 0.1, 0.0, 0.2)])[0]
    assert found.apart is None
    assert found.change != found.change


def test_command(results: Path) -> None:
    done = CliRunner().invoke(app, ["compare", "a", "b", "--findings", str(results / "findings.json")])
    assert done.exit_code == 0, done.output
    assert "−1.30 *" in done.output


def test_any_number_of_models_each_against_the_first(results: Path) -> None:
    given = ["--findings", str(results / "findings.json")]
    done = CliRunner().invoke(app, ["compare", "a", "b", "c", *given])
    assert done.exit_code == 0, done.output
    line = next(line for line in done.output.splitlines() if line.startswith("d "))
    # b's interval lies below a's, c's does not.
    assert [part.strip().endswith("*") for part in line.split("?")[1:]] == [False, True, False]
    alone = CliRunner().invoke(app, ["compare", "a", *given])
    assert alone.exit_code == 1
    assert "name two sides or more" in alone.output


@pytest.mark.parametrize(
    ("name", "said"),
    [("z", "no such model"), ("{results}", "name one as"), ("{results}:z", "it holds a, b, c"), ("{results}/none:a", "no such file")],
)
def test_bad_sides(results: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_side(name.format(results=results), results / "findings.json")


def test_no_common_dataset_and_two_models_on_a_side() -> None:
    with pytest.raises(UserError, match="no dataset in common; the first has d, the second e"):
        compare([record("a", 1, 1, 1)], [record("b", 1, 1, 1, dataset="e")])
    with pytest.raises(UserError, match="must be one model"):
        compare([record("a", 1, 1, 1), record("b", 1, 1, 1)], [record("b", 1, 1, 1)])
