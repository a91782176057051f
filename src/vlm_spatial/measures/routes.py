"""What attention knockout says: answers lost on each route, whether text passes the image on, whether routes stand in for each other."""

import numpy as np
import polars as pl

from vlm_spatial.measures.crosswise import BROKEN
from vlm_spatial.measures.recovery import SMALLEST_GAP, ratio
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import EMPTY, Interval, binomial, clustered_mean, ratio_above

ALL_LAYERS = "all layers"
LEAST_DAMAGE = 0.1
"""Lower bound of the damage of both image routes together, below which their share is not given."""
_BY = ("axis", "site", "route", "keys", "form", "condition")


def knockouts(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis, route, window and way of closing, and measure.

    ``damage``: share of right answers that are lost (exact interval). ``flip_rate``: share that become the counterfactual's answer.
    ``broken``: share whose candidates keep less than half of their probability. ``relative_probability``: change of the right answer's
    probability, ``median_relative_probability`` its median. ``recovery``: how far the log-odds move towards the counterfactual's.
    """
    if table is None or table.is_empty():
        return tidy([], "knockout")
    # A window is named after its middle layer.
    middle = (pl.col("layer_from") + pl.col("layer_to")) // 2
    named = table.filter(experiment="knockout").with_columns(
        site=pl.when("all_layers").then(pl.lit(ALL_LAYERS)).otherwise(pl.lit("language.") + middle.cast(pl.String))
    )
    # A window as long as the model is all layers.
    both = pl.concat([named, named.with_columns(axis=pl.lit(BOTH))])
    rows = []
    for keys, group in both.group_by(_BY, maintain_order=True):
        of = dict(zip(_BY, keys, strict=True))
        column = {"axis": of["axis"], "site": of["site"], "token_set": of["route"], "condition": way(str(of["keys"]), str(of["form"]))}
        kept = group.filter("included")
        ones = np.ones(kept.height)
        moved = kept.filter(pl.col("margin_source") - pl.col("margin_clean") >= SMALLEST_GAP)
        clean = moved["margin_clean"].to_numpy()
        broken = kept["candidate_mass"] < BROKEN * kept["candidate_mass_clean"]
        median = kept["relative_probability"].median()
        shares = {
            "damage": binomial(int((~kept["right_after"]).sum()), kept.height),
            "flip_rate": binomial(int((kept["outcome"] == "flip").sum()), kept.height),
            "broken": binomial(int(broken.sum()), kept.height),
        }
        means = {
            "relative_probability": ratio(kept["relative_probability"].to_numpy(), ones),
            "candidate_mass": ratio(kept["candidate_mass"].to_numpy(), ones),
            "recovery": ratio(moved["margin"].to_numpy() - clean, moved["margin_source"].to_numpy() - clean),
        }
        if median is not None:
            nan = float("nan")
            means["median_relative_probability"] = Interval(float(median), nan, nan, kept.height)  # type: ignore[arg-type]
        aside = group.height - kept.height
        other = {"other": str(of["condition"]), "set_aside": aside}
        for method, found in (("exact interval", shares), ("Student over pairs", means)):
            rows += [{**column, **other, "measure": name, "method": method, **numbers(got)} for name, got in found.items()]
    return tidy(rows, "knockout", counted="pairs")


def way(keys: str, form: str) -> str:
    """How a route is closed, in words."""
    if form == "value_zero":
        return "values removed"
    return {"all": "closed", "half": "half closed", "random": "random closed"}[keys]


def lost(table: pl.DataFrame, route: str, keys: str = "all") -> pl.DataFrame:
    """Included pairs with ``lost``, 1 where the right answer is lost with the route closed in all layers; one row a pair."""
    chosen = table.filter("included", "all_layers", experiment="knockout", route=route, keys=keys, form="renormalised")
    # A window as long as the model is there twice.
    return chosen.unique("pair_id", maintain_order=True).select(
        "pair_id", "axis", "template", lost=(~pl.col("right_after")).cast(pl.Float64)
    )


def side_by_side(table: pl.DataFrame, *routes: str) -> pl.DataFrame:
    """Pairs of all ``routes``, with a column of each that says whether the answer is lost."""
    first, *others = (lost(table, route).rename({"lost": route}) for route in routes)
    for route, other in zip(routes[1:], others, strict=True):
        first = first.join(other.select("pair_id", route), on="pair_id", maintain_order="left")
    return first


def text_mediated_share(table: pl.DataFrame) -> tuple[Interval, Interval, float, pl.DataFrame]:
    """Damage of closing the image for the question's tokens, as a share of that and of closing it for the answer's.

    Returns:
        the share, empty where both damages together are small; the paired difference of the two damages with its p; and the pairs.
    """
    both = side_by_side(table, "image_to_question", "image_to_answer")
    question, answer = (both[name].to_numpy() for name in ("image_to_question", "image_to_answer"))
    if both.is_empty():
        return EMPTY, EMPTY, 1.0, both
    half, _ = clustered_mean((question + answer) / 2)
    difference, p = clustered_mean(question - answer)
    share = EMPTY if 2 * half.low < LEAST_DAMAGE else ratio_above(question, question + answer, np.full(len(question), 2.0), 0.0)
    return share, difference, p, both


def fallback(table: pl.DataFrame) -> tuple[Interval, float, pl.DataFrame]:
    """Damage of closing both image routes at once, less the damages of closing each: above 0 where each stands in for the other.

    Returns:
        its mean over pairs, its p against 0, and the pairs with their ``value``.
    """
    each = side_by_side(table, "image_to_both", "image_to_question", "image_to_answer")
    each = each.with_columns(value=pl.col("image_to_both") - pl.col("image_to_question") - pl.col("image_to_answer"))
    # From −2 to 1 a pair: half of it lies within what the interval is made for.
    half, p = clustered_mean(each["value"].to_numpy() / 2)
    return Interval(2 * half.estimate, 2 * half.low, 2 * half.high, half.n), p, each
