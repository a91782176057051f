"""The default run's numbers on two devices or processors: how far apart they are, and whether every verdict is the same.

    python -m benchmarks.devices run --device cuda --folder on-cuda     # every stage but the figures, of workflow_config.yaml
    python -m benchmarks.devices compare on-cpu on-cuda

``--models`` runs some of them, on their first dataset only.

``compare`` prints, for each table of measures, how many estimates differ and by how much at most, and every verdict that differs. It ends
with status 1 if a verdict does, or an estimate by more than ``TOLERANCE``.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from benchmarks.preset_stages import run_stages

from vlm_spatial.measures.table import SCHEMA
from vlm_spatial.models.load import load_adapter

ROOT = Path(__file__).parents[1]
TOLERANCE = 0.05
"""Largest difference of an estimate. Counts of some dozen pairs change by one where two answers are all but equally likely."""
_KEYS = [
    name
    for name, kind in SCHEMA.items()
    if (kind == pl.String and name not in {"verdict", "method", "counted"}) or name in {"alpha", "chosen"}
]


def configuration(device: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """The default run's, with every model on ``device``; with ``only`` these models, each on its first dataset."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "workflow_config.yaml").read_text(encoding="utf-8"))
    values["results"] = "results"
    if only:
        values["models"] = {name: values["models"][name] | {"datasets": values["models"][name]["datasets"][:1]} for name in only}
    for model in values["models"].values():
        model |= {"device": device, "checkpoint": str(ROOT / model["checkpoint"])}
    return values


def run(device: str, folder: Path, only: Sequence[str] = ()) -> None:
    """Every stage but the figures, in this process; prints one line a job."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in run_stages(configuration(device, only), folder.resolve(), load_adapter):
        print(f"{each.stage:16} {each.of:14} {each.seconds:8.1f} s", flush=True)


def tables(folder: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """The tables of measures of a run, by model and dataset."""
    for path in sorted(folder.rglob("measures.parquet")):
        yield "/".join(path.relative_to(folder).parts[-3:-1]), pl.read_parquet(path)


def differences(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Rows that both tables of measures have: their keys, ``difference`` of the estimates, and both verdicts."""
    joined = first.join(second, on=_KEYS, how="full", nulls_equal=True, coalesce=True, suffix="_second")
    return joined.with_columns(difference=(pl.col("estimate") - pl.col("estimate_second")).abs())


def compare(first: Path, second: Path) -> bool:
    """Print how two runs differ; whether they are the same within ``TOLERANCE``, verdicts included."""
    there = dict(tables(second))
    same = bool(there)
    for name, table in tables(first):
        if name not in there:
            print(f"{name}: is not in {second}")
            same = False
            continue
        rows = differences(table, there.pop(name))
        apart = rows.filter(pl.col("difference") > 0)
        one_sided = rows.filter(pl.col("estimate").is_null() != pl.col("estimate_second").is_null())
        verdicts = rows.filter(pl.col("verdict").fill_null("") != pl.col("verdict_second").fill_null(""))
        largest = rows["difference"].max() or 0.0
        print(f"{name}: {rows.height} estimates, {apart.height} differ, by {largest:.4f} at most; {verdicts.height} verdicts differ")
        with pl.Config(tbl_cols=-1, tbl_rows=20, fmt_str_lengths=40, tbl_width_chars=200):
            if not verdicts.is_empty():
                print(verdicts.select("experiment", "measure", "estimate", "estimate_second", "verdict", "verdict_second"))
            if largest > TOLERANCE:
                print(rows.filter(pl.col("difference") > TOLERANCE).select(*_KEYS[:9], "alpha", "n", "estimate", "estimate_second"))
        same &= verdicts.is_empty() and one_sided.is_empty() and largest <= TOLERANCE
    return same and not there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--device", choices=["cpu", "cuda"], required=True)
    running.add_argument("--folder", type=Path, required=True)
    running.add_argument("--models", nargs="+", default=[])
    comparing = commands.add_parser("compare")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.device, given.folder, given.models)
    else:
        sys.exit(not compare(given.first, given.second))


if __name__ == "__main__":
    main()
