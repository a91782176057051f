"""Figure: accuracy with the vision signal and the language ordering each intact or removed."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from vlm_spatial.figures.accuracy import chance
from vlm_spatial.figures.chart_layers import intervals
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.interventions.labels import CONTENT, INTACT, LANGUAGE_ERASED, joined
from vlm_spatial.measures.interventions import accuracy, redundancy
from vlm_spatial.statistics import EMPTY

VISION = {INTACT: "vision intact", "erasure": "vision erased", "neutral": "vision neutral"}
LANGUAGE = ["language intact", "language erased"]


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and pair of conditions.

    ``beyond``, with its interval, is what both ablations cost beyond the sum of each alone, in rows where both were made, and
    ``alone_low`` the lower limit of what the worse of the two leaves by itself; ``chance`` is a guess among the candidates of the
    dataset's main test questions, null without the table that holds them.
    """
    table = tables.get("ablation_accuracy")
    if table is None or table.is_empty():
        return pl.DataFrame()
    run = set(table["condition"])
    found = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        guess = _chance(tables.get("behaviour"), axis)
        limits: dict[str, float] = {}
        for vision, label in VISION.items():
            for series, condition in zip(LANGUAGE, (vision, joined(vision, LANGUAGE_ERASED)), strict=True):
                if condition not in run:
                    continue
                got = accuracy(table, condition, axis=None if axis == BOTH else axis)
                limits[condition] = got.low
                numbers = {"estimate": got.estimate, "low": got.low, "high": got.high, "n": got.n}
                whole = vision != INTACT and condition != vision and {INTACT, vision, LANGUAGE_ERASED} <= run
                more = redundancy(table, vision, axis=None if axis == BOTH else axis) if whole else EMPTY
                alone = min(limits[vision], limits[LANGUAGE_ERASED]) if whole else None
                beyond = {"beyond": more.estimate, "beyond_low": more.low, "beyond_high": more.high, "alone_low": alone}
                found.append({"axis": axis, "condition": label, "series": series, **numbers, **beyond, "chance": guess})
    return pl.DataFrame(found, infer_schema_length=None).with_columns(
        pl.col("estimate", "low", "high", "beyond", "beyond_low", "beyond_high").fill_nan(None),
        pl.col("chance", "alone_low").cast(pl.Float64),
    )


def _chance(behaviour: pl.DataFrame | None, axis: str) -> float | None:
    if behaviour is None or behaviour.is_empty():
        return None
    asked = behaviour.filter(pl.col("variant") == "main", pl.col("split") == "test", pl.col("template") != CONTENT)
    asked = asked if axis == BOTH else asked.filter(axis=axis)
    return None if asked.is_empty() else chance(asked)


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy on the test questions with the layout removed from the vision output, with the ordering erased from the "
        "object tokens in the "
        "language model, with both, and with neither. If both together cost more than the sum of each alone, one stands in for the other "
        "(redundant); if less, both are needed at once (complementary); where one ablation alone leaves no more than a guess (dashed), "
        f"neither can be told. {_beyond(shown)}{counts(shown, 'scenes')}. {INTERVAL} from a bootstrap that resamples whole scenes "
        "(Wilson's where all answers are alike)."
    )


REDUNDANT, COMPLEMENTARY, OPEN, NOTHING_LEFT = (
    "redundant",
    "complementary",
    "neither is shown",
    "one ablation alone leaves no more than a guess",
)


def reading(row: Mapping[str, Any]) -> str:
    """What the interval of the cost beyond the sum says of the two mechanisms; nothing where there was nothing left to lose."""
    if row["chance"] is not None and row["alone_low"] <= row["chance"]:
        return NOTHING_LEFT
    if row["beyond_low"] > 0:
        return REDUNDANT
    return COMPLEMENTARY if row["beyond_high"] < 0 else OPEN


def _beyond(shown: pl.DataFrame) -> str:
    """``Cost of both beyond the sum: horizontal, vision neutral: +3.0 points [−1.0, +7.0], neither is shown.``, each axis and dataset."""
    keys = [name for name in ("dataset", "axis", "condition") if name in shown.columns]
    # On the page there are rows of both axes together, which say enough.
    known = shown.drop_nulls("beyond")
    known = known.filter(axis=BOTH) if BOTH in set(known["axis"]) else known
    parts = []
    for row in known.sort(keys).iter_rows(named=True):
        parts.append(f"{', '.join(row[key] for key in keys)}: {points(row)}, {reading(row)}")
    return f"Cost of both beyond the sum: {'; '.join(parts)}. " if parts else ""


def points(row: Mapping[str, Any]) -> str:
    """``+3.0 points [−1.0, +7.0]``: the cost beyond the sum of one row."""
    beyond, low, high = (f"{100 * row[name]:+.1f}".replace("-", "−") for name in ("beyond", "beyond_low", "beyond_high"))
    return f"{beyond} points [{low}, {high}]"


def draw(palette: str) -> Layers:
    order = list(VISION.values())
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
