"""What the words alone give away, on photographs: to the model over a plain picture, and to one who knows where things usually stand."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import polars as pl

from vlm_spatial.measures.behaviour import accuracy, with_pictures
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import clustered_mean

RULE = "where things of these names stand in the training scenes"
BLIND = "the same questions over a plain grey picture"
_METHOD = "exact interval for as many independent questions; difference: Student with two added differences (Bonett and Price)"
_SPATIAL = ("slot_to_object", "object_to_slot", "relation_to_object")
_PLACES = {"horizontal": ("left", "middle", "right"), "vertical": ("top", "middle", "bottom")}
_RELATIONS = {"horizontal": ("left", "right"), "vertical": ("above", "below")}

Counts = Mapping[tuple[str, str, int], int]
"""(axis, word, slot) → training scenes in which it stands there."""


def beyond_prior(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Accuracy on photographs with boxes against the prior of their categories, on the same test questions; a row a variant and axis.

    The prior knows which objects a question names, and how often a thing of each name stood in each slot in training scenes (one added to
    each count). It weighs every order of the objects by the product of these shares, and answers what is likeliest.
    """
    table, scenes = tables.get("behaviour"), tables.get("scenes")
    if table is None or scenes is None:
        return tidy([], "behaviour")
    shown = scenes.filter(pl.col("photograph").is_not_null())
    asked = with_pictures(table.filter(pl.col("template").is_in(_SPATIAL), split="test"), shown)
    counts = _counts(shown.filter(split="train"))
    rule = pl.Series([prior_accuracy(row, counts) for row in asked.iter_rows(named=True)], dtype=pl.Float64)
    return _beyond(asked.with_columns(rule=rule), "accuracy_beyond_prior", RULE)


def beyond_text(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Accuracy against the model's own without the picture, on the same test questions about places; a row a variant and axis."""
    table, scenes = tables.get("behaviour"), tables.get("scenes")
    if table is None or scenes is None or "blind_correct" not in table.columns:
        return tidy([], "behaviour")
    both = table.filter(pl.col("template").is_in(_SPATIAL), pl.col("blind_correct").is_not_null(), split="test")
    return _beyond(with_pictures(both, scenes).with_columns(rule=pl.col("blind_correct").cast(pl.Float64)), "accuracy_beyond_text", BLIND)


def _beyond(asked: pl.DataFrame, measure: str, control: str) -> pl.DataFrame:
    """Accuracy against that of ``rule``, question by question."""
    rows = []
    for axis in [BOTH, *sorted(asked["axis"].unique())]:
        of_axis = asked if axis == BOTH else asked.filter(axis=axis)
        for (variant,), part in sorted(of_axis.partition_by("variant", as_dict=True).items()):
            pictures = part["cluster"].to_list()
            beyond, p = clustered_mean((part["correct"].cast(pl.Float64) - part["rule"]).to_numpy(), pictures)
            found = {"difference": beyond.estimate, "difference_low": beyond.low, "difference_high": beyond.high, "p": p}
            own = numbers(accuracy(part.with_columns(scene_id="cluster")))
            rule = float(np.mean(part["rule"].to_numpy()))
            where = {"axis": axis, "variant": variant, "clusters": len(set(pictures)), "control_estimate": rule}
            rows.append({**where, **own, "n": part.height, **found})
    return tidy(rows, "behaviour", measure=measure, counted="questions", method=_METHOD, control=control)


def _counts(train: pl.DataFrame) -> Counts:
    found: Counter[tuple[str, str, int]] = Counter()
    for axis, words, slots in train.select("axis", "objects", "slots").iter_rows():
        found.update((axis, word, slot) for word, slot in zip(words, slots, strict=True))
    return found


def prior_accuracy(row: Mapping[str, object], counts: Counts) -> float:
    """How often the prior answers a question right: 0 or 1, or a share where several answers are equally likely.

    Args:
        row: of behaviour.parquet, with ``objects`` and ``slots`` of its scene.
    """
    words, slots, axis = list(_strings(row["objects"])), list(row["slots"]), str(row["axis"])  # type: ignore[call-overload]
    weight: Counter[str] = Counter(dict.fromkeys(_strings(row["candidates"]), 0))
    for order in permutations(words):
        answer = right_answer(row, order, slots, words)
        if answer is not None:
            weight[answer] += np.prod([_share(counts, axis, word, slot, slots) for word, slot in zip(order, slots, strict=True)])  # type: ignore[assignment]
    most = max(weight.values())
    best = [answer for answer, found in weight.items() if found >= most * (1 - 1e-9)]
    return float(row["answer"] in best) / len(best)


def _strings(value: object) -> Sequence[str]:
    assert isinstance(value, list)
    return value


def _share(counts: Counts, axis: str, word: str, slot: int, slots: Sequence[int]) -> float:
    every = [counts.get((axis, word, each), 0) + 1 for each in slots]
    return every[list(slots).index(slot)] / sum(every)


def right_answer(row: Mapping[str, object], order: Sequence[str], slots: Sequence[int], true: Sequence[str]) -> str | None:
    """What would be right if the objects stood in this order; None if the question had no answer then."""
    axis, asked = str(row["axis"]), list(slots).index(row["slot"])  # type: ignore[arg-type]
    if row["template"] == "slot_to_object":
        return order[asked]
    if row["template"] == "object_to_slot":
        return _PLACES[axis][slots[order.index(true[asked])]]
    if len(order) == 2:
        return _RELATIONS[axis][order.index(true[asked])]
    # Of three objects, the one that the question refers to is no candidate; it asks for its neighbour on a side.
    [reference] = set(true) - set(_strings(row["candidates"]))
    place = order.index(reference) + asked - list(true).index(reference)
    return order[place] if 0 <= place < len(order) else None
