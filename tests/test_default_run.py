"""The numbers of the default run that README shows: those of the file that a run wrote, and a part of that run made again."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

import warm_python
from tiny_workflow import CAPTURE, REPOSITORY

pytestmark = pytest.mark.workflow

RECORDS = {
    (record["model"], record["dataset"], record["claim"]): record
    for record in json.loads((REPOSITORY / "docs" / "default_run.json").read_text(encoding="utf-8"))
}
TOLERANCE = 0.05
"""Processors round differently: two answers of a hundred may change, no verdict may (README)."""


def test_the_readme_shows_the_numbers_of_the_file() -> None:
    table = re.findall(r"^\| `(\w+)` \|.*?\| (.+) \|$", (REPOSITORY / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = {claim: cells.split(" | ") for claim, cells in table}
    columns = [("gemma3-natural", "squares"), ("gemma3-natural", "squares_hard"), ("qwen2_vl-natural", "squares")]
    assert len(shown) >= 5
    for claim, cells in shown.items():
        found = [RECORDS[(*column, claim)] for column in columns]
        assert cells == [f"{record['estimate']:.2f}, {record['verdict']}" for record in found], claim


@pytest.mark.slow
def test_who_decides_is_found_again(tmp_path: Path) -> None:
    """Dominance by its definition, (stay − move) / (stay + move), from tables that are made here."""
    shutil.copy2(REPOSITORY / "workflow_config.yaml", tmp_path)
    (tmp_path / "organisms").symlink_to(REPOSITORY / "organisms")
    tables = {model: f"results/{model}/squares/conflict.parquet" for model in ("gemma3-natural", "qwen2_vl-natural")}
    command = [warm_python.python(), "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2", *tables.values()]
    done = subprocess.run(command, cwd=tmp_path, **CAPTURE)
    assert done.returncode == 0, done.stderr
    for model, table in tables.items():
        outcomes = pl.read_parquet(tmp_path / table).filter("included")["outcome"].value_counts()
        count = dict(outcomes.iter_rows())
        stay, move = count.get("stay", 0), count.get("move", 0)
        wanted = RECORDS[model, "squares", "dominance"]["estimate"]
        assert (stay - move) / (stay + move) == pytest.approx(wanted, abs=TOLERANCE), model
