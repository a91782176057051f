"""Published figures beside ours: every one is shown or counted with a reason."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from vlm_spatial.cli import app
from vlm_spatial.errors import UserError
from vlm_spatial.measures.table import tidy
from vlm_spatial.report.published import beside, dataset_named, names, published

pytestmark = pytest.mark.unit

NAME = "Qwen2-VL-7B-Instruct"
ABLATED = {"measure": "top1_accuracy", "axis": "both axes", "condition": "neutral", "estimate": 0.58, "low": 0.5, "high": 0.66, "n": 480}


def measures() -> pl.DataFrame:
    asked = {"measure": "top1_accuracy", "variant": "main", "template": "relation_to_object", "slot": "all slots", "axis": "both axes"}
    numbers = {"estimate": 0.9, "low": 0.8, "high": 0.95, "n": 480}
    below = {"slot": "slot 2", "axis": "vertical", "estimate": 0.75, "n": 120}
    return pl.concat([tidy([{**asked, **numbers}, {**asked, **numbers, **below}], "behaviour"), tidy([ABLATED], "ablation")])


def test_ours_stand_beside_theirs() -> None:
    found = beside(NAME, lambda dataset: measures() if dataset == "squares" else None)
    assert len(found) == published().filter((pl.col("model") == NAME) | pl.col("model").is_null()).height
    # Every figure has ours beside it or a reason.
    assert all((row.ours is None) == bool(row.left_out) for row in found)
    told = {row.what: row for row in found if row.ours is not None}
    ablated = told["table5_ablation, all, top-1 accuracy, repository rerun, whole grid ablated; direction=OVERALL"]
    assert (ablated.theirs, ablated.their_n, ablated.ours, ablated.covered) == (0.5958, 480, 0.58, True)
    assert ablated.difference == pytest.approx(-0.0158)
    untouched = told["table1_behaviour, all, top-1 accuracy, repository rerun; direction=OVERALL; fp32"]
    assert (untouched.theirs, untouched.covered) == (0.9979, False)
    # The object below the middle one is that of slot 2 of the vertical axis.
    [below] = [row for what, row in told.items() if "direction=" in what and "OVERALL" not in what]
    assert (below.what, below.theirs, below.ours) == (
        "table1_behaviour, vertical, top-1 accuracy, repository rerun; direction=below; fp32",
        0.9917,
        0.75,
    )


def test_a_dataset_may_have_a_longer_name() -> None:
    assert dataset_named(["squares", "squares-336"], "squares") == "squares"
    assert dataset_named(["shapes", "squares-336"], "squares") == "squares-336"
    assert dataset_named(["squares-240", "squares-336"], "squares") is None


def test_all_figures_of_all_models_are_accounted_for() -> None:
    of_models = [beside(name, lambda _dataset: None) for name in names()]
    assert all(row.left_out for rows in of_models for row in rows)
    # Figures of no model in particular stand with each of the three.
    of_all = published().filter(pl.col("model").is_null()).height
    assert sum(map(len, of_models)) == published().height + (len(names()) - 1) * of_all
    assert published().height == 351


def test_the_command_prints_them(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "squares"
    folder.mkdir(parents=True)
    measures().write_parquet(folder / "measures.parquet")
    arguments = ["compare", "mine", "--findings", str(tmp_path / "findings.json"), "--published"]
    done = CliRunner().invoke(app, [*arguments, NAME])
    assert done.exit_code == 0, done.output
    assert "0.596" in done.output
    assert "0.580" in done.output
    assert "left out:" in done.output
    for wrong, said in ((["compare", "mine"], "name two sides"), ([*arguments, "Qwen3"], "no figures of 'Qwen3'")):
        failed = CliRunner().invoke(app, wrong)
        assert failed.exit_code == 1
        assert said in failed.output + str(failed.stderr)


def test_a_model_without_measures_is_named(tmp_path: Path) -> None:
    from vlm_spatial.report.published import measures_below

    with pytest.raises(UserError, match=r"holds no measures\.parquet"):
        measures_below(tmp_path, "mine")
