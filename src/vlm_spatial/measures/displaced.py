"""Slot against absolute place: what answers follow where the two are told apart, in patched runs and in the untouched model."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from jaxtyping import Bool

from vlm_spatial.interventions.labels import INTACT
from vlm_spatial.measures.behaviour import accuracy
from vlm_spatial.measures.rates import outcome_rates
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import clustered_mean

OUTCOMES = ("ordering", "absolute", "content", "stay", "other")
RULE = "which third of the canvas the object is in"


def followed(table: pl.DataFrame) -> tuple[list[str], dict[str, Bool[np.ndarray, "pairs sites"]]]:
    """The included pairs, and whether each answer follows the slot (``ordering``) or the place (``absolute``), site by site."""
    chosen = table.filter(pl.col("included"), experiment="displaced", condition=INTACT, token_set="object")
    if chosen.is_empty():
        # Older releases of polars turn a table without columns into no array.
        return [], dict.fromkeys(("ordering", "absolute"), np.zeros((0, 0), dtype=bool))
    wide = chosen.select("pair_id", "site", "outcome").pivot("site", index="pair_id", values="outcome")
    whole = wide.drop_nulls().sort("pair_id")
    answers = whole.drop("pair_id").to_numpy()
    return whole["pair_id"].to_list(), {name: answers == name for name in ("ordering", "absolute")}


def displaced_outcomes(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row a site, axis, token set and outcome of the displaced sweep."""
    table = None if table is None or table.is_empty() else table.filter(pl.col("experiment") == "displaced")
    if table is None or table.is_empty():
        return tidy([], "displaced")
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    found = outcome_rates(both, OUTCOMES, ["axis", "site", "token_set"])
    return tidy(found, "displaced", measure="outcome_rate", counted="pairs", method="exact (Clopper and Pearson)")


def order_accuracy(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Accuracy on layout-decorrelated test scenes against a rule that knows the third of the canvas only, on the same questions.

    Relations are left out: the rule says nothing of them. A row an axis, none where there are no such scenes.
    """
    table, scenes = tables.get("behaviour"), tables.get("scenes")
    if table is None or scenes is None or table.is_empty():
        return tidy([], "behaviour")
    asked = table.filter(pl.col("template").is_in(["slot_to_object", "object_to_slot"]), split="test", variant="decorrelated")
    asked = asked.join(scenes.select("scene_id", "boxes", "width", "height"), on="scene_id", how="inner", maintain_order="left")
    if asked.is_empty():
        return tidy([], "behaviour")
    asked = asked.with_columns(rule=pl.Series([_by_thirds(row) for row in asked.iter_rows(named=True)], dtype=pl.Float64))
    rows = []
    for axis in [BOTH, *sorted(asked["axis"].unique())]:
        part = asked if axis == BOTH else asked.filter(axis=axis)
        scene_ids = part["scene_id"].to_list()
        beyond, p = clustered_mean((part["correct"].cast(pl.Float64) - part["rule"]).to_numpy(), scene_ids)
        found = {"difference": beyond.estimate, "difference_low": beyond.low, "difference_high": beyond.high, "p": p}
        rule = float(np.mean(part["rule"].to_numpy()))
        rows.append(
            {"axis": axis, **numbers(accuracy(part)), "n": part.height, "clusters": len(set(scene_ids)), "control_estimate": rule, **found}
        )
    method = "exact interval for as many independent questions; difference: Student with two added differences (Bonett and Price)"
    constants = {"variant": "decorrelated", "counted": "questions", "method": method, "control": RULE}
    return tidy(rows, "behaviour", measure="accuracy_beyond_thirds", **constants)


def _by_thirds(row: Mapping[str, object]) -> float:
    """How often the rule answers a question right: among several objects in the third asked for it guesses, as among all where none is."""
    boxes, slot = row["boxes"], row["slot"]
    low, side = (0, row["width"]) if row["axis"] == "horizontal" else (1, row["height"])
    assert isinstance(boxes, list) and isinstance(slot, int) and isinstance(side, int)  # noqa: PT018 - not a test
    thirds = [min(2, int(3 * (box[low] + box[low + 2]) / 2 / side)) for box in boxes]
    if row["template"] == "object_to_slot":
        return float(thirds[slot] == slot)
    there = thirds.count(slot)
    return float(thirds[slot] == slot) / there if there else 1 / len(boxes)
