"""Rows of the interventions: flip rates by token set and site, what the language sweep follows, dominance, accuracy under ablation."""

from collections.abc import Mapping

import polars as pl

from vlm_spatial.interventions.labels import ABLATION_CONTROLS, CONTENT, INTACT, LANGUAGE_ERASED, joined
from vlm_spatial.measures.behaviour import GUESS, METHOD, chance
from vlm_spatial.measures.interventions import accuracy, compare_sites, compare_token_sets, dominance, redundancy, sweeps
from vlm_spatial.measures.rates import outcome_rates
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import holm

OUTCOMES = {"stay": "stay", "move": "move", "neither": "other"}
"""Columns that count the outcomes of the conflict experiment."""
BLOCKS = ("strip", "object")
VISION_CONDITIONS = (INTACT, *ABLATION_CONTROLS)
REDUNDANT, COMPLEMENTARY, OPEN, NOTHING_LEFT = (
    "redundant",
    "complementary",
    "neither is shown",
    "one ablation alone leaves no more than a guess",
)
"""Readings of the cost of both ablations beyond the sum of each alone."""


def vision_flips(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row a site, axis, token set and source: how often the answer flips; ``p_holm`` holds it against as many random tokens."""
    table = None if table is None else table.filter((pl.col("experiment") == "vision") & (pl.col("condition") == INTACT))
    if table is None or table.is_empty():
        return tidy([], "vision")
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    found = outcome_rates(both, ["flip"], ["axis", "site", "token_set", "source"])
    found = found.join(_against_random(both), on=["axis", "site", "token_set", "source"], how="left", maintain_order="left")
    constants = {
        "counted": "pairs",
        "method": "exact interval; p: exact McNemar, Holm over sites and sets",
        "control": "the set random",
    }
    return tidy(found, "vision", measure="flip_rate", **constants)


def _against_random(table: pl.DataFrame) -> pl.DataFrame:
    """``p_holm`` of every token set and site against the random set at that site, on the same pairs, within an axis."""
    schema = {"axis": pl.String, "site": pl.String, "token_set": pl.String, "p": pl.Float64}
    parts = [pl.DataFrame(schema={**schema, "p_holm": pl.Float64})]
    for (axis,), group in table.group_by("axis", maintain_order=True):
        of_sites = [
            compare_token_sets(group, site=site).select(axis=pl.lit(axis), site=pl.lit(site), token_set="token_set", p="p")
            for site in group["site"].unique(maintain_order=True)
        ]
        tested = pl.concat([pl.DataFrame(schema=schema), *of_sites])
        parts.append(tested.with_columns(p_holm=pl.Series(holm(tested["p"].to_list()), dtype=pl.Float64)))
    return pl.concat(parts).with_columns(source=pl.lit("counterfactual"))


def language_outcomes(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """A row a site, axis, condition and outcome of the language sweep, intact and ablated."""
    table = sweeps(tables)
    if table.is_empty():
        return tidy([], "language")
    table = table.filter(experiment="language", token_set="object", source="counterfactual")
    table = table.select("pair_id", "axis", "condition", "site", "included", "outcome")
    if table.is_empty():
        return tidy([], "language")
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    found = outcome_rates(both, ["ordering", "content", "stay", "other"], ["axis", "site", "condition"])
    found = found.join(_against_connector(both), on=["axis", "condition", "site", "outcome"], how="left", maintain_order="left")
    constants = {
        "counted": "pairs",
        "method": "exact (Clopper and Pearson); p: exact McNemar, Holm over layers",
        "control": "the same at the connector",
    }
    return tidy(found, "language", measure="outcome_rate", token_set="object", **constants)


def _against_connector(table: pl.DataFrame) -> pl.DataFrame:
    """``p_holm`` of every layer's ordering rate against the connector's, on the same pairs, within an axis and condition."""
    named = table.with_columns(experiment=pl.lit("language"), token_set=pl.lit("object"), source=pl.lit("counterfactual"))
    schema = {"axis": pl.String, "condition": pl.String, "site": pl.String, "outcome": pl.String, "p": pl.Float64, "p_holm": pl.Float64}
    parts = [pl.DataFrame(schema=schema)]
    for (axis, condition), group in named.group_by("axis", "condition", maintain_order=True):
        tested = compare_sites(group, condition=str(condition)).select("site", "p", "p_holm")
        marks = {"axis": pl.lit(axis), "condition": pl.lit(condition), "outcome": pl.lit("ordering")}
        parts.append(tested.with_columns(**marks).select(list(schema)))
    return pl.concat(parts)


def last_token_outcomes(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row a site, group of positions, axis and outcome of the last-token sweep.

    The answer stays, follows the source's slot, or is the source's own.
    """
    table = None if table is None or table.is_empty() else table.filter(pl.col("experiment") == "last_token")
    if table is None or table.is_empty():
        return tidy([], "last_token")
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    found = outcome_rates(both, ["stay", "ordinal", "attribute", "other"], ["axis", "site", "token_set"])
    return tidy(found, "last_token", measure="outcome_rate", counted="pairs", method="exact (Clopper and Pearson)")


def dominances(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis and kind of block (``token_set``): the index, with the counts of each outcome behind it."""
    if table is None or table.is_empty():
        return tidy([], "conflict")
    rows = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        for block in (name for name in BLOCKS if name in set(table["token_set"])):
            chosen = table.filter((pl.col("token_set") == block) & ((pl.col("axis") == axis) | (axis == BOTH)))
            outcomes = chosen.filter("included")["outcome"]
            counted = {column: int((outcomes == name).sum()) for column, name in OUTCOMES.items()}
            counted["set_aside"] = int((~chosen["included"]).sum())
            index = dominance(table, block, axis=None if axis == BOTH else axis)
            rows.append({"axis": axis, "token_set": block, **numbers(index), **counted})
    method = "exact (Clopper and Pearson) for the share that stays"
    made = tidy(rows, "conflict", measure="dominance", counted="pairs that stay or move", method=method, control="neither decides")
    return made.with_columns(control_estimate=pl.lit(0.0))


def ablated_accuracies(table: pl.DataFrame | None, behaviour: pl.DataFrame | None) -> pl.DataFrame:
    """Accuracy by axis and condition, and the cost of both ablations beyond the sum of each alone, with its reading as ``verdict``.

    The control of accuracy is a guess among the candidates of the dataset's main test questions, null without ``behaviour``.
    """
    if table is None or table.is_empty():
        return tidy([], "ablation")
    run = set(table["condition"])
    written = table.with_columns(correct="top1_correct")
    rows: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        guess = _chance(behaviour, axis)
        of_axis = None if axis == BOTH else axis
        limits: dict[str, float] = {}
        for condition in ABLATION_CONTROLS.values():
            if condition in run:
                found = accuracy(table, condition, axis=of_axis)
                where = {"axis": axis, "condition": condition}
                rows.append({**where, "measure": "accuracy", "control": GUESS, "control_estimate": guess, **numbers(found)})
        for vision in VISION_CONDITIONS:
            for condition in (vision, joined(vision, LANGUAGE_ERASED)):
                if condition not in run:
                    continue
                found = accuracy(table, condition, axis=of_axis)
                limits[condition] = found.low
                where = {"axis": axis, "condition": condition}
                rows.append({**where, "measure": "accuracy", "control": GUESS, "control_estimate": guess, **numbers(found)})
                rows.append({**where, "measure": "top1_accuracy", **numbers(accuracy(written, condition, axis=of_axis))})
                if vision != INTACT and condition != vision and {INTACT, vision, LANGUAGE_ERASED} <= run:
                    left = min(limits[vision], limits[LANGUAGE_ERASED])
                    more = redundancy(table, vision, axis=of_axis)
                    nothing_left = guess is not None and left <= guess
                    verdict = NOTHING_LEFT if nothing_left else REDUNDANT if more.low > 0 else COMPLEMENTARY if more.high < 0 else OPEN
                    rows.append({**where, "measure": "beyond_sum", "control": "0", "verdict": verdict, **numbers(more)})
    return tidy(rows, "ablation", counted="scenes", method=METHOD)


def _chance(behaviour: pl.DataFrame | None, axis: str) -> float | None:
    if behaviour is None or behaviour.is_empty():
        return None
    asked = behaviour.filter(pl.col("variant") == "main", pl.col("split") == "test", pl.col("template") != CONTENT)
    asked = asked if axis == BOTH else asked.filter(axis=axis)
    return None if asked.is_empty() else chance(asked)
