"""Values and position ids of visual tokens exchanged apart: whether the answer goes with the rotary index or with the causal order."""

from collections.abc import Iterator

import polars as pl

from vlm_spatial.measures.crosswise import BROKEN
from vlm_spatial.measures.paired import Against, against
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import EMPTY, Interval, binomial, binomial_p

OUTCOMES = ("stay", "move", "other")
DOMINANCES = {"rotary_dominance": "ids", "order_dominance": "both"}
_BY = ("token_set", "site", "condition")


def named(table: pl.DataFrame) -> pl.DataFrame:
    """Of exchanges and moved ids (no shuffles): with ``site`` (a window is named after its middle layer) and ``condition``."""
    middle = (pl.col("layer_from") + pl.col("layer_to")) // 2
    exchanged = pl.col("values") == "exchanged"
    of_ids = pl.col("ids").replace_strict({"kept": "untouched", "exchanged": "ids"}, default="ids " + pl.col("ids"))
    name = pl.when(exchanged & (pl.col("ids") == "exchanged")).then(pl.lit("both")).when(exchanged).then(pl.lit("values")).otherwise(of_ids)
    return table.filter(shuffle="none").with_columns(
        site=pl.when("all_layers").then(pl.lit(ALL_LAYERS)).otherwise(pl.lit("language.") + middle.cast(pl.String)), condition=name
    )


def positions(table: pl.DataFrame | None) -> pl.DataFrame:
    """``outcome_rate`` and ``broken`` of every move, ``rotary_dominance``, ``order_dominance`` and ``shuffle_sensitivity``."""
    if table is None or table.is_empty():
        return tidy([], "positions")
    rows: list[dict[str, object]] = []
    for axis in (BOTH, *sorted(table["axis"].unique())):
        of_axis = table if axis == BOTH else table.filter(axis=axis)
        found = [*_outcomes(named(of_axis)), *_dominances(of_axis), *_sensitivities(of_axis)]
        rows += [{"axis": axis, **row} for row in found]
    return tidy(rows, "positions")


def _outcomes(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    broken = pl.col("candidate_mass") < BROKEN * pl.col("candidate_mass_clean")
    for keys, group in table.group_by(_BY, maintain_order=True):
        kept = group.filter("included")
        of = dict(zip(_BY, keys, strict=True)) | {"set_aside": group.height - kept.height, "counted": "pairs", "method": "exact interval"}
        for outcome in OUTCOMES:
            rate = binomial(int((kept["outcome"] == outcome).sum()), kept.height)
            yield of | {"measure": "outcome_rate", "outcome": outcome} | numbers(rate)
        yield of | {"measure": "broken"} | numbers(binomial(kept.select(broken.sum()).item(), kept.height))


def moving(table: pl.DataFrame, condition: str, token_set: str = "strip") -> pl.DataFrame:
    """The included pairs that stay or move under an exchange in all layers, with ``value``: 1 where they move, −1 where they stay."""
    chosen = named(table).filter("included", pl.col("outcome").is_in(["stay", "move"]), site=ALL_LAYERS, condition=condition)
    chosen = chosen.filter(token_set=token_set)
    return chosen.with_columns(value=pl.when(outcome="move").then(1.0).otherwise(-1.0))


def dominance(table: pl.DataFrame, condition: str, token_set: str = "strip") -> tuple[Interval, float]:
    """``(move − stay) / (move + stay)`` with its exact interval, and its p against 0."""
    moves = moving(table, condition, token_set)["value"] > 0
    if moves.is_empty():
        return EMPTY, 1.0
    share = binomial(int(moves.sum()), len(moves))
    index = Interval(2 * share.estimate - 1, 2 * share.low - 1, 2 * share.high - 1, share.n)
    return index, binomial_p(int(moves.sum()), len(moves), 0.5)


def _dominances(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    for token_set in (name for name in ("object", "strip") if name in set(table["token_set"])):
        for measure, condition in DOMINANCES.items():
            found = numbers(dominance(table, condition, token_set)[0])
            of = {"measure": measure, "token_set": token_set, "condition": condition, "counted": "pairs that stay or move"}
            yield of | {"method": "exact (Clopper and Pearson) for the share that moves", "control_estimate": 0.0} | found


def _sensitivities(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    shuffled = table.filter(values="shuffled")
    for (shuffle, ids), group in shuffled.group_by("shuffle", "ids", maintain_order=True):
        kept = group.filter("included")
        condition = "with their ids" if ids == "shuffled" else "ids stay"
        of = {"measure": "shuffle_sensitivity", "token_set": shuffle, "condition": condition, "counted": "pairs"}
        of |= {"method": "exact interval", "set_aside": group.height - kept.height}
        yield of | numbers(binomial(int((~kept["right_after"]).sum()), kept.height))


def shuffled_apart(table: pl.DataFrame) -> Against | None:
    """Right answers lost when all visual tokens are shuffled and their ids stay, against each object's own shuffled alone."""
    lost = table.filter("included", values="shuffled", ids="kept").with_columns(hit=~pl.col("right_after"))
    return against(
        lost.filter(shuffle="all").select("pair_id", "axis", "template", "hit"), lost.filter(shuffle="object").select("pair_id", "hit")
    )
