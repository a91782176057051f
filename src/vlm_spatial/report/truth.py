"""The truth table: what was planted in an organism, and whether the pipeline found it."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from vlm_spatial.figures.figure import Tables
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import BOTH, select
from vlm_spatial.report.results import Results

Measure = Callable[[dict[str, dict[str, Any]], Tables], float | None]


@dataclass(frozen=True)
class Expectation:
    """One line of the truth table: ``measure compare threshold`` must hold for organisms with ``mechanism``."""

    mechanism: str
    what: str
    measure: Measure
    compare: str
    threshold: float


def _claim(name: str) -> Measure:
    return lambda found, _tables: found[name]["estimate"]


def _flips(token_set: str) -> Measure:
    def measure(_found: dict[str, dict[str, Any]], tables: Tables) -> float | None:
        columns = {name: name for name in ("axis", "site", "token_set", "source", "estimate")}
        rows = select(tables.get("measures"), "vision", ["flip_rate"], columns)
        chosen = rows.filter(axis=BOTH, site=CONNECTOR, token_set=token_set, source="counterfactual")["estimate"]
        return None if chosen.is_empty() else chosen.item()

    return measure


def _rim_above_object(found: dict[str, dict[str, Any]], tables: Tables) -> float | None:
    rim, alone = _flips("rim")(found, tables), _flips("object")(found, tables)
    return None if rim is None or alone is None else rim - alone


def _slot_over_place(_found: dict[str, dict[str, Any]], tables: Tables) -> float | None:
    """Of the displaced exchange of objects at the connector: share that follows the slot less share that follows the absolute place."""
    columns = {name: name for name in ("axis", "site", "token_set", "outcome", "estimate")}
    rows = select(tables.get("measures"), "displaced", ["outcome_rate"], columns).filter(axis=BOTH, site=CONNECTOR, token_set="object")
    share = dict(rows.select("outcome", "estimate").drop_nulls().iter_rows())
    return share["ordering"] - share["absolute"] if share else None


def _lost(route: str) -> Measure:
    """Share of right answers lost with a route closed in all layers."""

    def measure(_found: dict[str, dict[str, Any]], tables: Tables) -> float | None:
        columns = {name: name for name in ("axis", "site", "token_set", "condition", "estimate")}
        rows = select(tables.get("measures"), "knockout", ["damage"], columns)
        chosen = rows.filter(axis=BOTH, site=ALL_LAYERS, token_set=route, condition="closed")["estimate"].unique()
        return None if chosen.is_empty() else chosen.item()

    return measure


def _word_swap(_found: dict[str, dict[str, Any]], tables: Tables) -> float | None:
    """Answers that become the other run's when the object's name takes its residual, at the layer, and kind of name, with most."""
    columns = {name: name for name in ("axis", "site", "token_set", "source", "estimate")}
    rows = select(tables.get("measures"), "readout", ["flip_rate"], columns).filter(axis=BOTH, source="counterfactual")
    found = rows.filter(pl.col("token_set").str.starts_with("word."))["estimate"].drop_nulls().to_list()
    return max(found) if found else None


def _above_control(name: str) -> Measure:
    def measure(found: dict[str, dict[str, Any]], _tables: Tables) -> float | None:
        record = found[name]
        known = record["estimate"] is not None and record["control"]["estimate"] is not None
        return record["estimate"] - record["control"]["estimate"] if known else None

    return measure


def _verdict(name: str) -> Measure:
    """1 if the claim is supported, −1 if refuted, 0 if it is neither."""
    return lambda found, _tables: {"supported": 1.0, "refuted": -1.0}.get(found[name]["verdict"], 0.0) if found[name]["n"] else None


IMAGE_TO_QUESTION = "answers lost with image → question closed"
IMAGE_TO_ANSWER = "answers lost with image → answer closed"
WORD_SWAP = "answers that follow the object's name"
_CORRECTED = "errors corrected over random subspaces"
VERDICTS: tuple[tuple[str, str, str], ...] = (
    ("vision", "dominance", "supported"),
    ("vision", "crosswise_strip_flip", "supported"),
    ("vision", "slot_not_place", "supported"),
    ("language", "dominance", "refuted"),
    ("language", "crosswise_strip_flip", "refuted"),
    ("language", "slot_probe_background", "not supported"),
    ("language", "slot_not_place", "not supported"),
    ("language", "errors_corrected", "not supported"),
    ("language", "net_accuracy", "not supported"),
    ("strip", "strip_flip", "supported"),
    ("strip", "object_flip", "refuted"),
    ("strip", "crosswise_strip_flip", "supported"),
    ("strip", "crosswise_object_flip", "refuted"),
    ("strip", "dominance", "supported"),
    ("object", "object_flip", "supported"),
    ("faint", "errors_corrected", "supported"),
    ("faint", "net_accuracy", "supported"),
)
"""Verdicts that follow from what was planted: mechanism, claim, verdict."""
_NUMBERS = {"supported": (">", 0.0), "refuted": ("≤", -1.0), "not supported": ("≤", 0.0)}
"""What the number of a verdict must be."""
DIALS: tuple[tuple[int, str, float, float], ...] = (
    (25, "dominance", -0.75, -0.25),
    (50, "dominance", -0.25, 0.25),
    (75, "dominance", 0.25, 0.75),
    (25, "crosswise_strip_flip", 0.1, 0.4),
    (50, "crosswise_strip_flip", 0.35, 0.65),
    (75, "crosswise_strip_flip", 0.6, 0.9),
)
"""Organisms that read positions from the vision code in a share q of the images: dominance is 2q − 1, crosswise flips q, by construction.
The bounds leave room for the pairs' sampling."""
EXPECTATIONS: tuple[Expectation, ...] = (
    Expectation("vision", "dominance", _claim("dominance"), "≥", 0.9),
    Expectation("vision", "crosswise_strip_flip", _claim("crosswise_strip_flip"), "≥", 0.9),
    Expectation("language", "dominance", _claim("dominance"), "≤", -0.9),
    Expectation("language", "crosswise_strip_flip", _claim("crosswise_strip_flip"), "≤", 0.01),
    Expectation("language", "background probe at the connector over its best control", _above_control("slot_probe_background"), "≤", 0.05),
    Expectation("vision", "displaced objects at the connector, slot over absolute place", _slot_over_place, "≥", 0.5),
    Expectation("language", "displaced objects at the connector, slot over absolute place", _slot_over_place, "≤", 0.1),
    Expectation("language", _CORRECTED, _above_control("errors_corrected"), "≤", 0.05),
    Expectation("strip", "object_flip", _claim("object_flip"), "≤", 0.2),
    Expectation("strip", "strip_flip", _claim("strip_flip"), "≥", 0.9),
    Expectation("strip", "crosswise_object_flip", _claim("crosswise_object_flip"), "≤", 0.2),
    Expectation("strip", "crosswise_strip_flip", _claim("crosswise_strip_flip"), "≥", 0.9),
    Expectation("strip", "rim flips − object flips", _rim_above_object, ">", 0.0),
    Expectation("strip", "dominance", _claim("dominance"), ">", 0.0),
    Expectation("object", "object_flip", _claim("object_flip"), "≥", 0.9),
    Expectation("object", "rim flips", _flips("rim"), "≤", 0.1),
    Expectation("object", "background flips", _flips("background"), "≤", 0.1),
    Expectation("object_code", "crosswise_object_flip", _claim("crosswise_object_flip"), "≥", 0.9),
    Expectation("object_code", "rim flips", _flips("rim"), "≤", 0.1),
    Expectation("faint", _CORRECTED, _above_control("errors_corrected"), "≥", 0.5),
    Expectation("faint", "net_accuracy", _claim("net_accuracy"), ">", 0.0),
    Expectation("direct", IMAGE_TO_QUESTION, _lost("image_to_question"), "≤", 0.02),
    Expectation("direct", IMAGE_TO_ANSWER, _lost("image_to_answer"), "≥", 0.5),
    Expectation("direct", WORD_SWAP, _word_swap, "≤", 0.02),
    Expectation("direct", "text_decides", _claim("text_decides"), "≤", 0.02),
    Expectation("mediated", "text_mediated_share", _claim("text_mediated_share"), "≥", 0.95),
    Expectation("mediated", "text_decides", _claim("text_decides"), "≥", 0.95),
    Expectation("mediated", IMAGE_TO_ANSWER, _lost("image_to_answer"), "≤", 0.02),
    Expectation("redundant", IMAGE_TO_QUESTION, _lost("image_to_question"), "≤", 0.02),
    Expectation("redundant", IMAGE_TO_ANSWER, _lost("image_to_answer"), "≤", 0.02),
    Expectation("redundant", "fallback", _claim("fallback"), "≥", 0.4),
    Expectation("gated", WORD_SWAP, _word_swap, "≥", 0.95),
    Expectation("rotary", "rotary_dominance", _claim("rotary_dominance"), "≥", 0.9),
    Expectation("rotary", "order_dominance", _claim("order_dominance"), "≤", -0.9),
    Expectation("order", "rotary_dominance", _claim("rotary_dominance"), "≤", -0.9),
    Expectation("order", "order_dominance", _claim("order_dominance"), "≥", 0.9),
    *(
        Expectation(f"dial-{percent}", name, _claim(name), *bound)
        for percent, name, *bounds in DIALS
        for bound in zip(("≥", "≤"), bounds, strict=True)
    ),
    *(
        Expectation(mechanism, f"verdict of {name} ({verdict})", _verdict(name), *_NUMBERS[verdict])
        for mechanism, name, verdict in VERDICTS
    ),
)
_AMPLIFIED = {
    "faint": "Planted with a slot signal that is there but weak, so amplification must correct errors",
    "language": "Planted without a spatial code in vision, so amplification must not be found to correct errors",
}
_COMPARE = {"≥": operator.ge, "≤": operator.le, ">": operator.gt}


def truth_table(results: Results, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an expectation of every planted organism and dataset: ``measured`` and ``holds`` (None if it was not measured)."""
    rows = []
    for model in results.models:
        for dataset in model.datasets:
            found = {r["claim"]: r for r in records if r["model"] == model.name and r["dataset"] == dataset}
            for expected in EXPECTATIONS:
                if expected.mechanism != model.mechanism:
                    continue
                measured = expected.measure(found, results.tables[model.name, dataset])
                holds = None if measured is None else bool(_COMPARE[expected.compare](measured, expected.threshold))
                rows.append(
                    {
                        "model": model.name,
                        "dataset": dataset,
                        "mechanism": model.mechanism,
                        "expected": f"{expected.what} {expected.compare} {expected.threshold:g}".replace("-", "−"),
                        "measured": measured,
                        "holds": holds,
                    }
                )
    return rows


def on_amplification(truth: Sequence[dict[str, Any]], model: str, dataset: str) -> list[str]:
    """What must hold of amplification on a planted organism, and whether it was found: rows of the truth table, in words."""
    told = {None: "not measured", True: "it holds", False: "it does not hold"}
    return [
        f"{_AMPLIFIED[row['mechanism']]} ({row['expected']}): {told[row['holds']]}."
        for row in truth
        if (row["model"], row["dataset"]) == (model, dataset) and row["expected"].startswith(_CORRECTED) and row["mechanism"] in _AMPLIFIED
    ]
