"""Sentences on corrections that were fitted on one dataset and used on another; each follows from the numbers."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from vlm_spatial.figures.amplification import CORRECTED, NET
from vlm_spatial.figures.amplification_detail import RANDOM_OF
from vlm_spatial.figures.figure import BOTH
from vlm_spatial.measures.amplification import NEUTRAL
from vlm_spatial.report.numbers import shown


def carried(rows: pl.DataFrame, dataset: str) -> list[str]:
    """What corrections fitted elsewhere do on ``dataset``: rows of the figure on transfer, label-free form only."""
    if rows.is_empty():
        return []
    both = rows.filter((pl.col("dataset") == dataset) & (pl.col("axis") == BOTH) & (pl.col("fitted_on") != dataset))
    return [_carried(source, part) for (source,), part in sorted(both.partition_by("fitted_on", as_dict=True).items())]


def _carried(source: str, part: pl.DataFrame) -> str:
    net, share, random = (
        part.row(by_predicate=(pl.col("series") == series) & (pl.col("measure") == measure), named=True)
        for series, measure in (("projection", NET), ("projection", CORRECTED), (RANDOM_OF["projection"], CORRECTED))
    )
    if net["alpha"] == NEUTRAL["projection"]:
        return f"Validation on {source} chose no amplification, so there is no correction to carry here."
    change = f"net accuracy {_interval(net, 'change')}, McNemar p = {net['p_value']:.2g}, {net['p_holm']:.2g} after Holm"
    head = f"The correction fitted on {source} (α = {net['alpha']:g} at {net['site']})"
    if not net["errors"]:
        return f"{head} finds no errors here to correct: {change}."
    words = {
        "supported": "corrects errors here that random pushes do not",
        "refuted": "corrects no more errors here than random pushes do",
        "inconclusive": "leaves open whether it corrects errors here",
    }[share["verdict"]]
    by_chance = f"random subspaces {shown(random['estimate'], 'share')}"
    return f"{head} {words}: {_interval(share, 'share')} of {share['n']} errors ({by_chance}), {change}."


def _interval(row: Mapping[str, Any], unit: str) -> str:
    limits = f"{shown(row['low'], unit).removesuffix(' pts')}, {shown(row['high'], unit).removesuffix(' pts')}"
    return f"{shown(row['estimate'], unit)} [{limits}]"
