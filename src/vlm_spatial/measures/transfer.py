"""What carried corrections do, pair of datasets by pair. No torch here: rows of ``transfer.parquet`` in, intervals out."""

import polars as pl

from vlm_spatial.measures.amplification import METHODS, Outcome, outcome, random_corrected_share, random_net, spatial
from vlm_spatial.statistics import DRAWS, holm


def pairs(table: pl.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> pl.DataFrame:
    """One row an ordered pair of datasets and method, in the test questions of ``applied_to``.

    Columns: ``fitted_on, applied_to, method, site, alpha, n, errors, corrected, broken, p_value``; ``p_holm``, adjusted over all pairs of
    different datasets of the method (null for a dataset and itself); ``share_*`` of errors corrected and ``net_*`` change in accuracy,
    with intervals; ``random_share_*`` and ``random_net_*`` of the form's random controls, of which there are ``controls``.
    """
    rows: list[dict[str, object]] = []
    for (fitted_on, applied_to), part in sorted(spatial(table).partition_by("fitted_on", "applied_to", as_dict=True).items()):
        for method in METHODS:
            chosen = part.filter(pl.col("method") == method)
            if not chosen.is_empty():
                found = outcome(chosen.sort("question_id"), draws=draws, seed=seed)
                rows.append({"fitted_on": fitted_on, "applied_to": applied_to, **_numbers(found, part)})
    if not rows:
        return pl.DataFrame()
    return pl.concat(_adjusted(family) for family in pl.DataFrame(rows).partition_by("method", maintain_order=True))


def _numbers(found: Outcome, part: pl.DataFrame) -> dict[str, object]:
    random_net_change = random_net(part, found.site, found.alpha, found.method)
    intervals = {
        "share": found.corrected_share,
        "net": found.net,
        "random_share": random_corrected_share(part, found.site, found.alpha, found.method),
        "random_net": random_net_change,
    }
    of_outcome = {key: getattr(found, key) for key in ("method", "site", "alpha", "n", "errors", "corrected", "broken", "p_value")}
    ends = {f"{name}_{end}": getattr(interval, end) for name, interval in intervals.items() for end in ("estimate", "low", "high")}
    return {**of_outcome, **ends, "controls": random_net_change.n}


def _adjusted(family: pl.DataFrame) -> pl.DataFrame:
    """The rows of one method with ``p_holm``."""
    elsewhere = family.filter(pl.col("fitted_on") != pl.col("applied_to"))
    tested = elsewhere.select("fitted_on", "applied_to", p_holm=pl.Series(holm(elsewhere["p_value"].to_list()), dtype=pl.Float64))
    return family.join(tested, on=["fitted_on", "applied_to"], how="left", maintain_order="left")
