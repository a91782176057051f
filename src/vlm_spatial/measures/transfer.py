"""What carried corrections do, pair of datasets by pair. No torch here: rows of ``transfer.parquet`` in, intervals out."""

import polars as pl

from vlm_spatial.measures.amplification import METHODS, RANDOM, spatial, versus
from vlm_spatial.measures.verdicts import CORRECTED_SMALLEST, Measured, Rule
from vlm_spatial.statistics import holm


def pairs(table: pl.DataFrame) -> pl.DataFrame:
    """One row an ordered pair of datasets and method, in the test questions of ``applied_to``.

    Columns: ``fitted_on, applied_to, method, site, alpha, n, errors, corrected, broken, p_value``; ``p_holm``, adjusted over all pairs of
    different datasets of the method (null for a dataset and itself). With intervals: ``share_*`` of errors corrected, ``net_*`` change in
    accuracy, ``random_share_*`` and ``random_net_*`` of the form's random controls, of which there are ``controls``, and
    ``more_corrected_*``, the share of errors less that of the controls, with its ``verdict``. The oracle has none: its controls did not
    choose for themselves.
    """
    rows: list[dict[str, object]] = []
    for (fitted_on, applied_to), part in sorted(spatial(table).partition_by("fitted_on", "applied_to", as_dict=True).items()):
        for method in METHODS:
            chosen = part.filter(pl.col("method") == method)
            if not chosen.is_empty():
                rows.append({"fitted_on": fitted_on, "applied_to": applied_to, **_numbers(method, part)})
    if not rows:
        return pl.DataFrame()
    return pl.concat(_adjusted(family) for family in pl.DataFrame(rows).partition_by("method", maintain_order=True))


def _numbers(method: str, part: pl.DataFrame) -> dict[str, object]:
    chosen = part.filter(pl.col("method") == method).sort("question_id")
    draws = part.filter(pl.col("method") == RANDOM[method]).sort("question_id").partition_by("draw", maintain_order=True)
    found = versus(chosen, draws)
    of_it = found.outcome
    intervals = {
        "share": of_it.corrected_share,
        "net": of_it.net,
        "random_share": found.random_corrected,
        "random_net": found.random_net,
        "more_corrected": found.more_corrected,
    }
    of_outcome = {key: getattr(of_it, key) for key in ("method", "site", "alpha", "n", "errors", "corrected", "broken", "p_value")}
    ends = {f"{name}_{end}": getattr(interval, end) for name, interval in intervals.items() for end in ("estimate", "low", "high")}
    measured = Measured(of_it.corrected_share, found.random_corrected, "", found.more_corrected, found.more_corrected_p)
    verdict = Rule(CORRECTED_SMALLEST).judge(measured) if method == "projection" else None
    return {**of_outcome, **ends, "controls": len(draws), "verdict": verdict}


def _adjusted(family: pl.DataFrame) -> pl.DataFrame:
    """The rows of one method with ``p_holm``."""
    elsewhere = family.filter(pl.col("fitted_on") != pl.col("applied_to"))
    tested = elsewhere.select("fitted_on", "applied_to", p_holm=pl.Series(holm(elsewhere["p_value"].to_list()), dtype=pl.Float64))
    return family.join(tested, on=["fitted_on", "applied_to"], how="left", maintain_order="left")
