"""What attention heads carry at the last token: the effect of each, and of the first ones together."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.measures.crosswise import BROKEN
from vlm_spatial.measures.paired import Against, against
from vlm_spatial.measures.recovery import SMALLEST_GAP, ratio
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.measures.verdicts import MOST
from vlm_spatial.statistics import Interval, binomial, binomial_limits, clustered_mean

OUTCOMES = ("ordinal", "attribute")
FEW = 0.1
"""Share of the heads that the claim calls few."""
_TOGETHER = "heads_cumulative"
RANKED = "exact interval, n lowered because heads were ranked on halves of the pairs"


def heads(table: pl.DataFrame | None) -> pl.DataFrame:
    """``head_effect`` and ``broken`` of each head, ``outcome_rate``, ``damage`` and ``recovery`` of several, and ``head_sparsity``."""
    if table is None or table.is_empty():
        return tidy([], "heads")
    rows: list[dict[str, object]] = []
    for axis in (BOTH, *sorted(table["axis"].unique())):
        of_axis = table if axis == BOTH else table.filter(axis=axis)
        aside = of_axis.filter(~pl.col("included"))["pair_id"].n_unique()
        last = of_axis.filter(group="last")
        for group in of_axis["group"].unique(maintain_order=True):
            of_group = of_axis.filter(group=group)
            rows += [{"axis": axis, "token_set": group, "set_aside": aside, **row} for row in (*_single(of_group), *_agreement(of_group))]
        rows += [{"axis": axis, "token_set": "last", "set_aside": aside, **row} for row in (*_several(last), *_sparsity(last))]
    return tidy([{"counted": "pairs", **row} for row in rows], "heads")


def _single(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Change of the log-odds that one head makes, as a share of the change that all heads make."""
    kept = table.filter("included")
    for outcome in OUTCOMES:
        change = pl.col(f"{outcome}_log_odds") - pl.col(f"{outcome}_log_odds_clean")
        # Pairs whose two runs differ little say nothing.
        apart = pl.col(f"{outcome}_log_odds_source") - pl.col(f"{outcome}_log_odds_clean") >= SMALLEST_GAP
        whole = kept.filter(apart, chosen="all").select("pair_id", whole=change)
        single = kept.filter(experiment="head").select("pair_id", "layer", "head", part=change)
        joined = single.join(whole, on="pair_id", maintain_order="left")
        for (layer, head), group in joined.group_by("layer", "head", maintain_order=True):
            found = ratio(group["part"].to_numpy(), group["whole"].to_numpy())
            of = {"site": f"language.{layer}", "head": head, "outcome": outcome, "measure": "head_effect", "method": "Student over pairs"}
            yield of | numbers(found)
    broken = pl.col("candidate_mass") < BROKEN * pl.col("candidate_mass_clean")
    for (layer, head), group in kept.filter(experiment="head").group_by("layer", "head", maintain_order=True):
        found = binomial(group.select(broken.sum()).item(), group.height)
        yield {"site": f"language.{layer}", "head": head, "measure": "broken", "method": "exact interval", **numbers(found)}


def _agreement(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Whether gradients rank the heads as patching does: Spearman's correlation of the two mean effects over heads."""
    from scipy.stats import spearmanr

    single = table.filter("included", experiment="head").drop_nulls("atp")
    means = single.group_by("layer", "head", maintain_order=True).agg(
        pl.col("atp").mean(), exact=(pl.col("attribute_log_odds") - pl.col("attribute_log_odds_clean")).mean()
    )
    if means.height > 2:
        found = float(spearmanr(means["atp"].to_numpy(), means["exact"].to_numpy()).statistic)
        of = {"measure": "atp_rank_correlation", "outcome": "attribute", "counted": "heads", "method": "Spearman, without an interval"}
        yield of | {"estimate": found, "n": means.height}


def _several(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    """What heads together do, by how many they are; of random ones each pair counts once, with the mean over its draws."""
    kept = table.filter("included", experiment=_TOGETHER).filter(pl.col("chosen") != "all")
    broken = pl.col("candidate_mass") < BROKEN * pl.col("candidate_mass_clean")
    by = ("form", "chosen", "heads")
    for keys, group in kept.group_by(by, maintain_order=True):
        form, chosen, count = keys
        of = {"condition": form, "source": chosen, "heads": count}
        means = group.group_by("pair_id", maintain_order=True).agg(
            attribute=(pl.col("outcome") == "attribute").mean(),
            lost=(pl.col("outcome") != "stay").mean(),
            broken=broken.mean(),
            part=(pl.col("attribute_log_odds") - pl.col("attribute_log_odds_clean")).mean(),
            whole=(pl.col("attribute_log_odds_source") - pl.col("attribute_log_odds_clean")).mean(),
        )
        alike = independent(int(str(count)) / int(table["model_heads"][0])) if chosen == "ranked" else None
        if form == "patched":
            yield of | {"measure": "outcome_rate", "outcome": "attribute"} | _rate(means["attribute"].to_numpy(), alike)
            apart = means.filter(pl.col("whole") >= SMALLEST_GAP)
            moved = numbers(ratio(apart["part"].to_numpy(), apart["whole"].to_numpy()))
            yield of | {"measure": "recovery", "method": "Student over pairs"} | moved
        else:
            yield of | {"measure": "damage"} | _rate(means["lost"].to_numpy(), alike)
        yield of | {"measure": "broken"} | _rate(means["broken"].to_numpy(), alike)


def independent(share: float) -> float:
    """How many independent pairs one says as much as, where a share of the heads was ranked on halves of the pairs.

    A half in which some heads do much sends the other half to them, and the other way round. So the halves' values depend on each other,
    and their mean is less certain. Of many heads that are alike and whose effects add up, these sums correlate by φ(z)² / share, where z
    is the quantile that the share lies above; the answers that they decide correlate by less. All heads leave nothing to choose.
    """
    from scipy.stats import norm

    return 1 / (1 + float(norm.pdf(norm.isf(share))) ** 2 / share)


def _rate(values: Float[np.ndarray, " pairs"], alike: float | None) -> dict[str, object]:
    """Of ranked heads hits, as many as ``alike`` a pair; of random ones (None) means over the draws."""
    if alike is not None:
        n, share = len(values), float(values.mean())
        low, high = binomial_limits(share * alike * n, alike * n)
        return numbers(Interval(share, float(low), float(high), n)) | {"method": RANKED}
    return numbers(clustered_mean(values)[0]) | {"method": "Student over pairs, mean of the draws"}


def _sparsity(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    """The share of the heads, ranked first, with which most answers become the source's.

    ``low`` and ``high`` are the first shares that may be it and that surely are, by the exact limits of the rates.
    """
    rates = sorted(
        (int(str(row["heads"])), row) for row in _several(table) if row["measure"] == "outcome_rate" and row["source"] == "ranked"
    )
    if not rates:
        return
    every = int(table["model_heads"][0])

    def first(name: str) -> float:
        there = [count / every for count, row in rates if float(str(row[name])) > MOST]
        return min(there, default=float("nan"))

    found = Interval(first("estimate"), first("high"), first("low"), int(str(rates[0][1]["n"])))
    yield {"measure": "head_sparsity", "method": "first share of the heads whose rate is above ½ (exact limits)", **numbers(found)}


def few(table: pl.DataFrame) -> Against | None:
    """Answers that become the source's with a tenth of the heads patched, rounded down to a power of two.

    The control: random heads of the same layers, mean of the draws.
    """
    kept = table.filter("included", experiment=_TOGETHER, form="patched", heads=few_heads(table))
    kept = kept.with_columns(hit=pl.col("outcome") == "attribute")
    drawn = kept.filter(chosen="random").group_by("pair_id", maintain_order=True).agg(pl.col("hit").mean())
    ranked = kept.filter(chosen="ranked").select("pair_id", "axis", "template", "hit")
    return against(ranked, drawn, independent(few_heads(table) / int(table["model_heads"][0])))


def few_heads(table: pl.DataFrame) -> int:
    """How many heads the claim is about."""
    most = FEW * float(table["model_heads"][0])
    return 2 ** int(np.log2(most)) if most >= 1 else 1
