"""What a sweep found: alpha chosen on validation, reported on test, against the controls. No torch here.

Rows of ``amplification.parquet`` in, intervals out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from vlm_spatial.statistics import CONFIDENCE, EMPTY, Interval, calibration_error, clustered_mean, clustered_share, holm, mcnemar_exact

METHODS = ("projection", "oracle")
BASELINES = ("attention", "attention_adaptive", "norm", "rotary", "role", "spatial_id")
"""What others do without probes; what is broken is counted as for the two forms."""
NEUTRAL = {
    "projection": 1.0,
    "oracle": 0.0,
    "random": 1.0,
    "complement": 1.0,
    "shuffled": 1.0,
    "uncentred": 1.0,
    "oracle_random": 0.0,
    "attention": 1.0,
    "attention_adaptive": 0.0,
    "norm": 0.0,
    "rotary": 0.0,
    "role": 0.0,
    "spatial_id": 0.0,
    "probe_columns": 0.0,
    "random_columns": 0.0,
    "matched_columns": 0.0,
}
"""By method the alpha that changes nothing."""
RANDOM = {"projection": "random", "oracle": "oracle_random"}
"""The method of a form's random controls."""


@dataclass(frozen=True)
class Outcome:
    """One method at one alpha and site, over the questions of one split.

    Attributes:
        corrected, broken: questions whose answer became right, or wrong.
        corrected_share: corrected questions as a share of the untouched model's errors; exact, adjusted for questions of one scene.
        net: change in accuracy, paired, adjusted for questions of one scene.
        p_value: McNemar's, exact and not adjusted; it takes the questions for independent.
    """

    method: str
    site: str
    alpha: float
    errors: int
    corrected: int
    broken: int
    n: int
    corrected_share: Interval
    net: Interval
    p_value: float


def outcome(rows: pl.DataFrame) -> Outcome:
    """Summarise rows that share method, site and alpha: one row a question."""
    before = rows["correct_before"].to_numpy()
    after = rows["correct"].to_numpy()
    scenes = rows["scene_id"].to_numpy()
    corrected, broken = int((after & ~before).sum()), int((before & ~after).sum())
    return Outcome(
        method=rows["method"][0],
        site=rows["site"][0],
        alpha=float(rows["alpha"][0]),
        errors=int((~before).sum()),
        corrected=corrected,
        broken=broken,
        n=rows.height,
        corrected_share=clustered_share(after[~before], scenes[~before].tolist()),
        net=clustered_mean(after.astype(float) - before, scenes.tolist())[0],
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


def chosen_outcome(table: pl.DataFrame, method: str) -> Outcome | None:
    """The test-split outcome at the site and alpha that validation chose; None if either split has no rows."""
    choice = choose(table, method)
    if choice is None:
        return None
    rows = at(spatial(table), "test", method, *choice)
    return None if rows.is_empty() else outcome(rows)


def at(table: pl.DataFrame, split: str, method: str, site: str, alpha: float) -> pl.DataFrame:
    """Rows of one setting, in question order."""
    return table.filter(
        (pl.col("split") == split) & (pl.col("method") == method) & (pl.col("site") == site) & (pl.col("alpha") == alpha)
    ).sort("question_id", "draw")


def control_outcome(table: pl.DataFrame, control: str, site: str, alpha: float) -> Outcome:
    """A control of one draw (``complement``, ``shuffled``) on the test split."""
    return outcome(at(spatial(table), "test", control, site, alpha))


def random_corrected_share(table: pl.DataFrame, site: str, alpha: float, method: str = "projection") -> Interval:
    """Share of errors that a form's random controls corrected: mean over draws and the 95% range of the draws."""
    wrong = at(spatial(table), "test", RANDOM[method], site, alpha).filter(~pl.col("correct_before"))
    return _range(wrong.group_by("draw", maintain_order=True).agg(pl.col("correct").mean())["correct"].to_list())


def random_net(table: pl.DataFrame, site: str, alpha: float, method: str = "projection") -> Interval:
    """Net change in accuracy under a form's random controls: mean over draws and the 95% range of the draws."""
    rows = at(spatial(table), "test", RANDOM[method], site, alpha)
    changed = rows.group_by("draw", maintain_order=True).agg(net=pl.col("correct").mean() - pl.col("correct_before").mean())
    return _range(changed["net"].to_list())


def random_calibration_error(table: pl.DataFrame, site: str, alpha: float, method: str = "projection") -> Interval:
    """Expected calibration error under a form's random controls: mean over draws and the 95% range of the draws."""
    rows = at(spatial(table), "test", RANDOM[method], site, alpha)
    parts = rows.partition_by("draw")
    return _range([calibration_error(part["confidence"].to_numpy(), part["correct"].to_numpy()) for part in parts])


def _range(values: list[float]) -> Interval:
    if not values:
        return EMPTY
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high), len(values))


def curve(table: pl.DataFrame) -> pl.DataFrame:
    """One row a split, site, method and alpha: counts, intervals, and McNemar's p Holm-adjusted over a method's whole grid."""
    rows: list[dict[str, object]] = []
    grouped = spatial(table).filter(pl.col("method").is_in(METHODS)).partition_by("split", "site", "method", "alpha", as_dict=True)
    for (split, *_), part in sorted(grouped.items()):
        found = outcome(part)
        numbers = {
            f"{name}_{end}": getattr(interval, end)
            for name, interval in (("share", found.corrected_share), ("net", found.net))
            for end in ("estimate", "low", "high")
        }
        of_outcome = {key: getattr(found, key) for key in ("site", "method", "alpha", "n", "errors", "corrected", "broken", "p_value")}
        rows.append({"split": split, **of_outcome, **numbers})
    if not rows:
        return pl.DataFrame()
    families = pl.DataFrame(rows).partition_by("split", "method", maintain_order=True)
    return pl.concat(part.with_columns(p_holm=pl.Series(holm(part["p_value"].to_list()))) for part in families)


def choices(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """What the validation split of each dataset chose: columns ``chosen_on``, ``method``, ``site``, ``alpha``.

    Args:
        tables: ``amplification.parquet`` of one model, by dataset.
    """
    rows = [
        {"chosen_on": dataset, "method": method, "site": choice[0], "alpha": choice[1]}
        for dataset, table in sorted(tables.items())
        for method in METHODS
        if (choice := choose(table, method)) is not None
    ]
    return pl.DataFrame(rows, schema={"chosen_on": pl.String, "method": pl.String, "site": pl.String, "alpha": pl.Float64})


@dataclass(frozen=True)
class AgainstRandom:
    """The label-free form at the setting that validation chose, against random subspaces, on the same test questions.

    Attributes:
        random_corrected, random_net: mean over the draws and their 95% range.
        more_corrected, more_net: paired difference from the mean of the draws; wide enough for another draw in their place.
        net_p: of the change in accuracy itself.
    """

    outcome: Outcome
    random_corrected: Interval
    random_net: Interval
    control: str
    more_corrected: Interval
    more_corrected_p: float
    more_net: Interval
    more_net_p: float
    net_p: float


def against_random(table: pl.DataFrame, method: str = "projection") -> AgainstRandom | None:
    """The chosen setting against its random controls; None if either split has no rows.

    A draw that was scored on validation has chosen site and alpha for itself, as the form did; others are taken at the form's own.
    """
    found = chosen_outcome(table, method)
    if found is None:
        return None
    rows = at(spatial(table), "test", method, found.site, found.alpha)
    at_what = f"alpha {found.alpha:g} at {found.site}"
    own = not table.filter(pl.col("method") == RANDOM[method], pl.col("split") == "validation").is_empty()
    words = f"random subspaces, each at its own best site and alpha (the form: {at_what})" if own else f"random subspaces, {at_what}"
    return versus(rows, random_draws(spatial(table), method, found.site, found.alpha), words)


def versus(rows: pl.DataFrame, draws: list[pl.DataFrame], words: str = "") -> AgainstRandom:
    """One setting against its random draws, each with a row a question; ``words`` say what they are."""
    found = outcome(rows)
    of_draws = [outcome(draw) for draw in draws]
    shares, nets = [o.corrected_share.estimate for o in of_draws if o.errors], [o.net.estimate for o in of_draws]
    paired = rows.with_columns(control=pl.col("correct_before").cast(pl.Float64))
    if draws:
        by_question = pl.concat(draws).group_by("question_id").agg(control=pl.col("correct").mean())
        paired = rows.join(by_question, on="question_id", how="inner", maintain_order="left")
    more = (paired["correct"].cast(pl.Float64) - paired["control"]).to_numpy()
    errors, scenes = ~paired["correct_before"].to_numpy(), paired["scene_id"].to_numpy()
    change = (rows["correct"].cast(pl.Float64) - rows["correct_before"].cast(pl.Float64)).to_numpy()
    more_corrected, more_corrected_p = _beyond_draws(*clustered_mean(more[errors], scenes[errors].tolist()), shares)
    more_net, more_net_p = _beyond_draws(*clustered_mean(more, scenes.tolist()), nets)
    return AgainstRandom(
        outcome=found,
        random_corrected=_range(shares),
        random_net=_range(nets),
        control=words,
        more_corrected=more_corrected,
        more_corrected_p=more_corrected_p,
        more_net=more_net,
        more_net_p=more_net_p,
        net_p=clustered_mean(change, rows["scene_id"].to_list())[1],
    )


def random_draws(table: pl.DataFrame, method: str, site: str, alpha: float) -> list[pl.DataFrame]:
    """Test rows of each random draw, at the setting that it chose on validation, or else at ``site`` and ``alpha``."""
    of_draws = table.filter(pl.col("method") == RANDOM[method])
    found = []
    for draw in sorted(of_draws["draw"].unique()):
        own = of_draws.filter(pl.col("draw") == draw)
        choice = choose(own, RANDOM[method]) or (site, alpha)
        rows = at(own, "test", RANDOM[method], *choice)
        if not rows.is_empty():
            found.append(rows)
    return found


def _beyond_draws(difference: Interval, p: float, draws: list[float]) -> tuple[Interval, float]:
    """A paired difference from the mean of some draws, made as wide as it has to be for another draw in their place."""
    from scipy.stats import t

    if len(draws) < 2 or difference.n == 0:
        return difference, p
    spread = float(np.std(draws, ddof=1)) * (1 + 1 / len(draws)) ** 0.5
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(draws) - 1)) * spread
    low = difference.estimate - float(np.hypot(difference.estimate - difference.low, reach))
    high = difference.estimate + float(np.hypot(difference.high - difference.estimate, reach))
    of_draws = float(2 * t.sf(abs(difference.estimate) / spread, len(draws) - 1)) if spread > 0 else 0.0
    return Interval(difference.estimate, low, high, difference.n), max(p, of_draws)
