"""Whose residuals the answer follows, by layer; whether the question's decide it, and whether they are enough without the picture."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from vlm_spatial.measures.crosswise import BROKEN
from vlm_spatial.measures.recovery import SMALLEST_GAP, ratio
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import EMPTY, Interval, binomial, binomial_p, clustered_mean

UNTOUCHED = "untouched"


def readout(table: pl.DataFrame | None) -> pl.DataFrame:
    """``flip_rate``, ``recovery`` and ``broken`` of every group, layer and source; ``accuracy`` over corrupted pictures."""
    if table is None or table.is_empty():
        return tidy([], "readout")
    rows: list[dict[str, object]] = []
    for axis in (BOTH, *sorted(table["axis"].unique())):
        of_axis = table if axis == BOTH else table.filter(axis=axis)
        rows += [{"axis": axis, **row} for row in (*_usage(of_axis), *_sufficiency(of_axis))]
    return tidy(rows, "readout", counted="pairs")


def _usage(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    sites = pl.when("all_layers").then(pl.lit(ALL_LAYERS)).otherwise("site")
    named = table.filter(experiment="usage").with_columns(place=sites)
    by = ("group", "place", "source")
    for keys, group in named.group_by(by, maintain_order=True):
        kept = group.filter("included")
        moved = kept.filter(pl.col("margin_source") - pl.col("margin_clean") >= SMALLEST_GAP)
        clean = moved["margin_clean"].to_numpy()
        of = dict(zip(("token_set", "site", "source"), keys, strict=True)) | {"set_aside": group.height - kept.height}
        exact, student = {"method": "exact interval"}, {"method": "Student over pairs"}
        yield {**of, "measure": "flip_rate", **exact, **numbers(_share(kept["outcome"] == "flip"))}
        yield {**of, "measure": "broken", **exact, **numbers(_share(kept["candidate_mass"] < BROKEN * kept["candidate_mass_clean"]))}
        if keys[2] == "counterfactual":
            recovered = ratio(moved["margin"].to_numpy() - clean, moved["margin_source"].to_numpy() - clean)
            yield {**of, "measure": "recovery", **student, **numbers(recovered)}


def _sufficiency(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    corrupted = table.filter(experiment="sufficiency").with_columns(pl.col("group").fill_null(UNTOUCHED))
    for (picture, taken), group in corrupted.group_by("picture", "group", maintain_order=True):
        kept = group.filter("included")
        of = {"condition": picture, "token_set": taken, "set_aside": group.height - kept.height, "method": "exact interval"}
        chance = {"control": "a guess", "control_estimate": guess(kept)}
        yield {**of, **chance, "measure": "accuracy", **numbers(_share(kept["right_after"]))}


def guess(table: pl.DataFrame) -> float:
    """Accuracy of a guess among the candidates."""
    return float(np.mean(1 / table["candidates"].to_numpy())) if table.height else float("nan")


def _share(hits: pl.Series) -> Interval:
    return binomial(int(hits.sum()), len(hits))


def text_decides(table: pl.DataFrame) -> tuple[Interval, Interval, Interval, float, pl.DataFrame]:
    """Answers that follow the question's residuals of every layer: the counterfactual run's, and an unrelated one's.

    Returns:
        both shares, their paired difference with its p, and the pairs with ``value``.
    """
    kept = table.filter("included", "all_layers", experiment="usage", group="question")
    flips = (pl.col("outcome") == "flip").cast(pl.Float64)
    own = kept.filter(source="counterfactual").select("pair_id", "axis", "template", own=flips)
    unrelated = kept.filter(source="unrelated").select("pair_id", unrelated=flips)
    paired = own.join(unrelated, on="pair_id", maintain_order="left").with_columns(value=pl.col("own") - pl.col("unrelated"))
    if paired.is_empty():
        return EMPTY, EMPTY, EMPTY, 1.0, paired
    difference, p = clustered_mean(paired["value"].to_numpy())
    return _share(paired["own"]), _share(paired["unrelated"]), difference, p, paired


def text_suffices(table: pl.DataFrame) -> tuple[Interval, float, float, pl.DataFrame]:
    """Accuracy over a grey picture with the question's residuals of the real one.

    Returns:
        the accuracy, that of a guess, p of their difference, and the pairs with ``value``.
    """
    kept = table.filter("included", experiment="sufficiency", picture="grey", group="question")
    values = kept.select("axis", "template", value=pl.col("right_after").cast(pl.Float64))
    if kept.is_empty():
        return EMPTY, float("nan"), 1.0, values
    chance = guess(kept)
    return _share(kept["right_after"]), chance, binomial_p(int(kept["right_after"].sum()), kept.height, chance), values
