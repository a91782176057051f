"""Shares of pairs with each outcome, with exact intervals."""

from collections.abc import Sequence

import polars as pl

from vlm_spatial.statistics import binomial_limits


def with_shares(counts: pl.DataFrame) -> pl.DataFrame:
    """Add ``estimate``, ``low``, ``high`` to a table of ``hits`` and ``n``; null where ``n`` is 0. Drops ``hits``."""
    known = counts["n"].to_numpy() > 0
    low, high = binomial_limits(counts["hits"].to_numpy(), counts["n"].to_numpy().clip(1))
    kept = pl.Series(known)
    return counts.with_columns(
        estimate=pl.when(kept).then(pl.col("hits") / pl.col("n")),
        low=pl.when(kept).then(pl.Series(low, dtype=pl.Float64)),
        high=pl.when(kept).then(pl.Series(high, dtype=pl.Float64)),
    ).drop("hits")


def outcome_rates(table: pl.DataFrame, outcomes: Sequence[str], by: Sequence[str]) -> pl.DataFrame:
    """Share of the included pairs with each outcome, a row a group and outcome.

    Columns: ``by``, ``outcome``, ``n`` (pairs), ``set_aside`` (pairs that the untouched model gets wrong), ``estimate``, ``low``, ``high``.
    """
    parts = [
        table.group_by(by, maintain_order=True)
        .agg(
            n=pl.col("included").sum().cast(pl.Int64),
            set_aside=(~pl.col("included")).sum().cast(pl.Int64),
            hits=(pl.col("included") & (pl.col("outcome") == outcome)).sum().cast(pl.Int64),
        )
        .with_columns(outcome=pl.lit(outcome))
        for outcome in outcomes
    ]
    return with_shares(pl.concat(parts)).sort([*by, "outcome"], nulls_last=False)
