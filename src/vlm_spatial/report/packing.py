"""Tables and values in the page: small, and safe inside a script element."""

import base64
import gzip
import json
import math
from typing import Any

import polars as pl

LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Shares between 0 and 1 as one character each."""


def columns(table: pl.DataFrame) -> dict[str, Any]:
    """A table by column: numbers to five significant digits, text as numbers into a list of its values."""
    return {name: _column(table[name]) for name in table.columns}


def _column(series: pl.Series) -> Any:
    if series.dtype == pl.String:
        values = series.unique().drop_nulls().sort().to_list()
        place = {value: index for index, value in enumerate(values)}
        return {"values": values, "index": [-1 if value is None else place[value] for value in series]}
    if series.dtype.is_float():
        return [None if value is None or not math.isfinite(value) else float(f"{value:.5g}") for value in series]
    return series.to_list()


def digits(values: list[int]) -> str:
    """One character a value; ``.`` for −1."""
    return "".join("." if value < 0 else LEVELS[value] for value in values)


def levels(shares: list[float]) -> str:
    """One character a share in [0, 1]."""
    return "".join(LEVELS[min(35, max(0, round(35 * share)))] for share in shares)


def packed(value: Any) -> str:
    """JSON, gzip, base64: letters that mean nothing to an HTML parser. Equal values give equal text."""
    return base64.b64encode(
        gzip.compress(json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True).encode(), 9, mtime=0)
    ).decode()
