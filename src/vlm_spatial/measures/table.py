"""The table of measures: every estimate of a model on a dataset, with its interval, its control and its verdict, one row each.

``measures.parquet`` has the columns of :data:`SCHEMA`; docs/measures.md lists what is measured. Columns that say nothing of a row are
null in it.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from vlm_spatial.statistics import Interval

BOTH = "both axes"
"""Value of ``axis`` in rows over both axes."""

_TEXT = (
    "experiment",
    "measure",
    "axis",
    "variant",
    "template",
    "slot",
    "exchange",
    "site",
    "token_set",
    "condition",
    "source",
    "outcome",
    "trained_on",
    "subspace",
    "other",
    "correction",
    "group",
    "fitted_on",
)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(_TEXT, pl.String),
    "alpha": pl.Float64,
    "chosen": pl.Boolean,
    "estimate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "head": pl.Int64,
    "heads": pl.Int64,
    "counted": pl.String,
    "clusters": pl.Int64,
    "set_aside": pl.Int64,
    "method": pl.String,
    "control": pl.String,
    "control_estimate": pl.Float64,
    "control_low": pl.Float64,
    "control_high": pl.Float64,
    "control_n": pl.Int64,
    "difference": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
    "smallest": pl.Float64,
    **dict.fromkeys(("recovery", "recovery_low", "recovery_high"), pl.Float64),
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "strata_p": pl.Float64,
    "verdict": pl.String,
    "stay": pl.Int64,
    "move": pl.Int64,
    "neither": pl.Int64,
    "errors": pl.Int64,
    "corrected": pl.Int64,
    "broken": pl.Int64,
    "note": pl.String,
}
"""Columns of ``measures.parquet``; docs/measures.md says what each means."""

Rows = Sequence[Mapping[str, object]]


def tidy(rows: pl.DataFrame | Rows, experiment: str, **constants: object) -> pl.DataFrame:
    """Rows of one experiment in the table's columns; ``constants`` are the same in each.

    Raises:
        ValueError: for a column that the table does not have.
    """
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(list(rows), infer_schema_length=None)
    if frame.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    frame = frame.with_columns(experiment=pl.lit(experiment), **{name: pl.lit(value) for name, value in constants.items()})
    unknown = set(frame.columns) - set(SCHEMA)
    if unknown:
        raise ValueError(f"the table of measures has no column {', '.join(sorted(unknown))}")
    columns = [(pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name) for name, kind in SCHEMA.items()]
    numbers = [name for name, kind in SCHEMA.items() if kind == pl.Float64]
    return frame.select(columns).with_columns(pl.col(numbers).fill_nan(None))


def select(table: pl.DataFrame | None, experiment: str, measures: Sequence[str], columns: Mapping[str, str]) -> pl.DataFrame:
    """Rows of some measures of an experiment, in their order; ``columns`` are those kept, with the names they get."""
    table = pl.DataFrame(schema=SCHEMA) if table is None else table
    chosen = table.filter(pl.col("experiment") == experiment, pl.col("measure").is_in(list(measures)))
    return chosen.select(pl.col(name).alias(shown) for name, shown in columns.items())


def numbers(interval: Interval) -> dict[str, object]:
    """An interval as columns."""
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}
