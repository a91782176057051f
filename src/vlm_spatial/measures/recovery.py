"""How far a patched answer moves from the clean run to the source's, in log-odds: the size of an effect, beside the share that flips.

``recovery`` is the sum of the moves over the sum of the whole distances, over pairs. It is not clamped: below 0 the answers moved away,
above 1 they overshot. 0 is the clean run, 1 the source's own answer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.measures.best_layer import Layers
from vlm_spatial.measures.interventions import sweeps
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import CONFIDENCE, EMPTY, Interval

SMALLEST_GAP = 0.25
"""A pair whose two runs differ by less in log-odds says nothing of recovery."""
METHOD = "Student over pairs"
OWN_ROWS = ("crosswise", "mirror")
"""Experiments whose recovery stands among their own measures."""
_BY = ("experiment", "axis", "site", "token_set", "source", "condition")
_LOG_ODDS = ("log_odds_clean", "log_odds", "log_odds_source")


def moves(table: pl.DataFrame) -> pl.DataFrame:
    """The included rows with ``moved`` and ``whole``; those whose two runs are closer than :data:`SMALLEST_GAP` are left out.

    None of a table without log-odds.
    """
    if not set(_LOG_ODDS) <= set(table.columns):
        return table.clear().with_columns(moved=pl.lit(0.0), whole=pl.lit(0.0))
    clean = pl.col("log_odds_clean")
    kept = table.filter("included").with_columns(moved=pl.col("log_odds") - clean, whole=pl.col("log_odds_source") - clean)
    return kept.filter(pl.col("whole") >= SMALLEST_GAP)


def recovery(table: pl.DataFrame) -> Interval:
    """Recovery of the included rows of one site and token set, a row a pair."""
    chosen = moves(table)
    return ratio(chosen["moved"].to_numpy(), chosen["whole"].to_numpy())


def recovery_at_best(table: pl.DataFrame, outcome: str | Sequence[str]) -> Interval:
    """Recovery of one token set at the site where most pairs have the outcome, each pair's site chosen on the other half of the pairs.

    Args:
        table: rows of one experiment, condition and token set, at the sites to choose from.
        outcome: the outcome, or several that count alike.
    """
    wanted = [outcome] if isinstance(outcome, str) else list(outcome)
    chosen = moves(table).with_columns(hit=pl.col("outcome").is_in(wanted).cast(pl.Float64)).sort("site")
    wide = chosen.pivot("site", index="pair_id", values=["hit", "moved", "whole"]).drop_nulls().sort("pair_id")
    if wide.is_empty():
        return EMPTY
    sites = chosen["site"].unique(maintain_order=True).to_list()
    hits, moved, whole = (wide.select([f"{name}_{site}" for site in sites]).to_numpy() for name in ("hit", "moved", "whole"))
    return ratio(Layers.of(hits, moved).chosen(), Layers.of(hits, whole).chosen())


def recoveries(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Rows of the table of measures: ``recovery`` by axis, site, token set, source and condition, of every experiment that has none yet.

    The conflict experiment has none at all: both blocks are the clean run's, so that there is no other run to go towards.
    """
    table = sweeps(tables)
    if table.is_empty():
        return tidy([], "recovery")
    table = table.filter(~pl.col("experiment").is_in(OWN_ROWS), pl.col("source") != "unrelated")
    if "last_token" in set(table["experiment"]):
        # Its source answers another question: that answer is the third hypothesis.
        table = table.with_columns(
            pl.when(experiment="last_token").then(f"content_{name}").otherwise(name).alias(name) for name in _LOG_ODDS
        )
    table = moves(table)
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    parts = [tidy([], "recovery")]
    for (experiment,), of_experiment in both.group_by("experiment", maintain_order=True):
        rows = [
            dict(zip(_BY, keys, strict=True)) | numbers(ratio(group["moved"].to_numpy(), group["whole"].to_numpy()))
            for keys, group in of_experiment.group_by(_BY, maintain_order=True)
        ]
        parts.append(tidy(pl.DataFrame(rows).drop("experiment"), str(experiment), measure="recovery", counted="pairs", method=METHOD))
    return pl.concat(parts)


def ratio(part: Float[np.ndarray, " pairs"], whole: Float[np.ndarray, " pairs"]) -> Interval:
    """``sum(part) / sum(whole)`` over pairs, with Student's interval of the linearised ratio."""
    from scipy.stats import t

    n = len(part)
    if n == 0:
        return EMPTY
    found = float(part.sum() / whole.sum())
    if n == 1:
        return Interval(found, float("nan"), float("nan"), 1)
    error = float(np.sqrt(n / (n - 1) * ((part - found * whole) ** 2).sum()) / whole.sum())
    reach = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(found, found - reach, found + reach, n)
