"""Figure: accuracy with the vision signal and the language ordering each intact or removed."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.interventions.labels import INTACT, LANGUAGE_ERASED, joined
from vlm_spatial.measures.table import select

VISION = {INTACT: "vision intact", "erasure": "vision erased", "neutral": "vision neutral"}
CONTROLS = {"own_place": "control: objects alone in their places", "erasure_shuffled": "control: shuffled slots erased"}
LANGUAGE = ["language intact", "language erased"]


_NUMBERS = {name: name for name in ("axis", "condition", "estimate", "low", "high", "n")}


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and pair of conditions.

    Where both ablations were made, ``beyond``, with its interval, is what they cost beyond the sum of each alone, and ``reading`` what
    follows; ``chance`` is a guess among the candidates.
    """
    shown = select(tables.get("measures"), "ablation", ["accuracy"], _NUMBERS | {"control_estimate": "chance"})
    shown = shown.with_columns(pl.col("condition").replace(CONTROLS))
    if shown.is_empty():
        return shown
    names = {"estimate": "beyond", "low": "beyond_low", "high": "beyond_high", "verdict": "reading"}
    beyond = select(tables["measures"], "ablation", ["beyond_sum"], {"axis": "axis", "condition": "condition"} | names)
    labels = {joined(vision, LANGUAGE_ERASED): label for vision, label in VISION.items()} | VISION
    labels |= {label: label for label in CONTROLS.values()}
    erased = pl.col("condition").str.contains(LANGUAGE_ERASED, literal=True)
    return shown.join(beyond, on=["axis", "condition"], how="left", maintain_order="left").with_columns(
        condition=pl.col("condition").replace_strict(labels),
        series=pl.when(erased).then(pl.lit(LANGUAGE[1])).otherwise(pl.lit(LANGUAGE[0])),
    )


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy on the test questions with the layout removed from the vision output, with the ordering erased from the "
        "object tokens in the "
        "language model, with both, and with neither. If both together cost more than the sum of each alone, one stands in for the other "
        "(redundant); if less, both are needed at once (complementary); where one ablation alone leaves no more than a guess (dashed), "
        f"neither can be told. Controls do the same to the tokens and leave the layout. "
        f"{_beyond(shown)}{counts(shown, 'scenes')}. {INTERVAL}, n lowered for answers that "
        "agree within a scene."
    )


def _beyond(shown: pl.DataFrame) -> str:
    """``Cost of both beyond the sum: horizontal, vision neutral: +3.0 points [−1.0, +7.0], neither is shown.``, each axis and dataset."""
    keys = [name for name in ("dataset", "axis", "condition") if name in shown.columns]
    # On the page there are rows of both axes together, which say enough.
    known = shown.drop_nulls("beyond")
    known = known.filter(axis=BOTH) if BOTH in set(known["axis"]) else known
    parts = []
    for row in known.sort(keys).iter_rows(named=True):
        parts.append(f"{', '.join(row[key] for key in keys)}: {points(row)}, {row['reading']}")
    return f"Cost of both beyond the sum: {'; '.join(parts)}. " if parts else ""


def points(row: Mapping[str, Any]) -> str:
    """``+3.0 points [−1.0, +7.0]``: the cost beyond the sum of one row."""
    beyond, low, high = (f"{100 * row[name]:+.1f}".replace("-", "−") for name in ("beyond", "beyond_low", "beyond_high"))
    return f"{beyond} points [{low}, {high}]"


def draw(palette: str) -> Layers:
    order = [*VISION.values(), *CONTROLS.values()]
    return intervals("condition", order, "series", LANGUAGE, palette, x_title="accuracy", domain=(0, 1), tooltip=["series"], zero="chance")


FIGURE = Figure(
    name="ablation",
    title="Backup: what each mechanism is worth",
    question="Are the two mechanisms redundant or complementary?",
    rows=rows,
    draw=draw,
    caption=caption,
    height=220,
)
