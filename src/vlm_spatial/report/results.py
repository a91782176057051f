"""The finished results of a run, as the figures stage finds them: which tables there are, and which are missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json, read_parquet
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages import registry
from vlm_spatial.workflow.provenance import Provenance, read_record

TABLES = tuple(registry.tables("model and dataset"))
ALWAYS = tuple(table for name in registry.of_scope("model and dataset") for table in registry.STAGES[name].tables)
# Of a model with several datasets: what made them is shown; their numbers are in the measures.
ACROSS = tuple(registry.tables("model"))


@dataclass(frozen=True)
class Model:
    """One analysed model. ``mechanism`` is what was planted, ``natural`` for an organism without a plan, None for a real checkpoint."""

    name: str
    datasets: tuple[str, ...]
    checkpoint: str
    mechanism: str | None


@dataclass(frozen=True)
class Results:
    """Everything the report is made of.

    Attributes:
        tables: by (model, dataset), then by name; a table that was not made is absent.
        missing: tables that no input names and that are not of an optional stage, as ``{model}/{dataset}/{table}``.
        records: what made each input, by the input's name; results without a provenance record are left out.
        set_aside: by dataset, the files that could not be used, and why.
    """

    models: tuple[Model, ...]
    datasets: Mapping[str, Dataset]
    tables: Mapping[tuple[str, str], Mapping[str, pl.DataFrame]]
    manifests: Mapping[tuple[str, str], Mapping[str, Any]]
    training: Mapping[str, pl.DataFrame]
    benchmarks: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    records: Mapping[str, Provenance] = field(default_factory=dict)
    set_aside: Mapping[str, pl.DataFrame] = field(default_factory=dict)


def open_results(models: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Path]) -> Results:
    """Read the stage's inputs, named as :mod:`vlm_spatial.stages.figures` says.

    Raises:
        UserError: for an input whose name is not known, a dataset without scenes, or a damaged file.
    """
    known = tuple(
        Model(name, tuple(values["datasets"]), str(values.get("checkpoint") or ""), values.get("mechanism"))
        for name, values in sorted(models.items())
    )
    wanted = sorted({dataset for model in known for dataset in model.datasets})
    for dataset in wanted:
        if f"scenes:{dataset}" not in inputs:
            raise UserError(f"input scenes:{dataset}: is missing; give the folder that the scenes stage wrote")
    tables: dict[tuple[str, str], dict[str, pl.DataFrame]] = {(m.name, d): {} for m in known for d in m.datasets}
    manifests: dict[tuple[str, str], dict[str, Any]] = {}
    training, benchmarks = {}, {}
    for name, path in sorted(inputs.items()):
        kind, *of = name.split(":")
        if kind in TABLES and len(of) == 2 and tuple(of) in tables:
            tables[of[0], of[1]][kind] = read_parquet(path)
        elif kind == "manifest" and len(of) == 2:
            manifests[of[0], of[1]] = read_json(path)
        elif kind == "training" and len(of) == 1:
            # A checkpoint folder copied from elsewhere may have no training curve.
            if path.is_file():
                training[of[0]] = read_parquet(path)
        elif kind == "benchmark" and of:
            # Times are shown where they are known; results copied from elsewhere have none.
            if path.is_file():
                benchmarks[":".join(of)] = _benchmark(path)
        elif kind not in ("scenes", *ACROSS) or len(of) != 1:
            raise UserError(f"input {name}: is not known; see the list in vlm_spatial.stages.figures")
    for (model, dataset), there in tables.items():
        if "measures" not in there:
            raise UserError(f"input measures:{model}:{dataset}: is missing; give the table that the measures stage wrote")
    missing = tuple(f"{model}/{dataset}/{table}" for (model, dataset), there in tables.items() for table in ALWAYS if table not in there)
    datasets = {dataset: Dataset.open(inputs[f"scenes:{dataset}"]) for dataset in wanted}
    records = {name: record for name, path in sorted(inputs.items()) if (record := read_record(path)) is not None}
    # Scenes that were not made by the stage (a hand-made dataset) have no such list.
    set_aside = {name: read_parquet(path) for name, opened in datasets.items() if (path := opened.folder / "set_aside.parquet").is_file()}
    return Results(known, datasets, tables, manifests, training, benchmarks, missing, records, set_aside)


def _benchmark(path: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(path, separator="\t", null_values=["-", "NA"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: is not a Snakemake benchmark file ({str(error).splitlines()[0]})") from error
