"""What a sweep found: alpha chosen on validation, reported on test, against the controls. No torch here.

Rows of ``amplification.parquet`` in, intervals out.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from vlm_spatial.statistics import Interval, holm, mcnemar_exact, paired_difference, wilson

METHODS = ("projection", "oracle")
NEUTRAL = {"projection": 1.0, "oracle": 0.0}
"""The alpha that changes nothing."""


@dataclass(frozen=True)
class Outcome:
    """One method at one alpha and site, over the questions of one split.

    ``corrected`` and ``broken`` count questions; ``p_value`` is McNemar's, exact and not adjusted.
    """

    method: str
    site: str
    alpha: float
    errors: int
    corrected: int
    broken: int
    n: int
    net: Interval
    p_value: float

    @property
    def corrected_share(self) -> Interval:
        """Share of the untouched model's errors that became right answers (Wilson interval)."""
        return wilson(self.corrected, self.errors)


def outcome(rows: pl.DataFrame, *, draws: int = 2000, seed: int = 0) -> Outcome:
    """Summarise rows that share method, site and alpha: one row a question."""
    before = rows["correct_before"].to_numpy()
    after = rows["correct"].to_numpy()
    corrected, broken = int((after & ~before).sum()), int((before & ~after).sum())
    return Outcome(
        method=rows["method"][0],
        site=rows["site"][0],
        alpha=float(rows["alpha"][0]),
        errors=int((~before).sum()),
        corrected=corrected,
        broken=broken,
        n=rows.height,
        net=paired_difference(before, after, draws=draws, seed=seed),
        p_value=mcnemar_exact(corrected, broken),
    )


def spatial(table: pl.DataFrame) -> pl.DataFrame:
    """Without the questions that are not spatial, which only measure the cost."""
    return table.filter(pl.col("template") != "content")


def choose(table: pl.DataFrame, method: str) -> tuple[str, float] | None:
    """Site and alpha of the best accuracy on the validation split; None without validation rows.

    Ties go to the alpha nearest the one that changes nothing, then to the earlier site name.
    """
    scores = (
        spatial(table)
        .filter((pl.col("split") == "validation") & (pl.col("method") == method))
        .group_by("site", "alpha")
        .agg(right=pl.col("correct").sum())
        .with_columns(strength=(pl.col("alpha") - NEUTRAL[method]).abs())
        .sort(["right", "strength", "site", "alpha"], descending=[True, False, False, False])
    )
    return None if scores.is_empty() else (scores["site"][0], float(scores["alpha"][0]))


def chosen_outcome(table: pl.DataFrame, method: str, *, draws: int = 2000, seed: int = 0) -> Outcome | None:
    """The test-split outcome at the site and alpha that validation chose; None if either split has no rows."""
    choice = choose(table, method)
    if choice is None:
        return None
    rows = at(spatial(table), "test", method, *choice)
    return None if rows.is_empty() else outcome(rows, draws=draws, seed=seed)


def at(table: pl.DataFrame, split: str, method: str, site: str, alpha: float) -> pl.DataFrame:
    """Rows of one setting, in question order."""
    return table.filter(
        (pl.col("split") == split) & (pl.col("method") == method) & (pl.col("site") == site) & (pl.col("alpha") == alpha)
    ).sort("question_id", "draw")


def control_outcomes(table: pl.DataFrame, control: str, site: str, alpha: float) -> list[Outcome]:
    """One outcome a draw of a control (``random``, ``complement``, ``shuffled``) on the test split."""
    rows = at(spatial(table), "test", control, site, alpha)
    return [outcome(part, draws=1) for _, part in sorted(rows.partition_by("draw", as_dict=True).items())]


def random_corrected_share(table: pl.DataFrame, site: str, alpha: float) -> Interval:
    """Share of errors that the random subspaces corrected: mean over draws and the 95% range of the draws."""
    shares = [o.corrected_share.estimate for o in control_outcomes(table, "random", site, alpha) if o.errors]
    return _range(shares)


def random_net(table: pl.DataFrame, site: str, alpha: float) -> Interval:
    """Net change in accuracy under the random subspaces: mean over draws and the 95% range of the draws."""
    return _range([o.net.estimate for o in control_outcomes(table, "random", site, alpha)])


def _range(values: list[float]) -> Interval:
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high), len(values))


def curve(table: pl.DataFrame, *, draws: int = 1000, seed: int = 0) -> pl.DataFrame:
    """One row a split, site, method and alpha: counts, net change with interval, Holm-adjusted p over a method's grid."""
    rows: list[dict[str, object]] = []
    grouped = spatial(table).filter(pl.col("method").is_in(METHODS)).partition_by("split", "site", "method", "alpha", as_dict=True)
    for (split, *_), part in sorted(grouped.items()):
        found = outcome(part, draws=draws, seed=seed)
        share = found.corrected_share
        rows.append(
            {
                "split": split,
                "site": found.site,
                "method": found.method,
                "alpha": found.alpha,
                "n": found.n,
                "errors": found.errors,
                "corrected": found.corrected,
                "broken": found.broken,
                "corrected_share": share.estimate,
                "net": found.net.estimate,
                "low": found.net.low,
                "high": found.net.high,
                "p_value": found.p_value,
            }
        )
    table_of = pl.DataFrame(rows)
    if table_of.is_empty():
        return table_of
    return pl.concat(
        part.with_columns(p_holm=pl.Series(holm(part["p_value"].to_list())))
        for part in table_of.partition_by("split", "method", maintain_order=True)
    )
