"""Figure: accuracy with the vision signal and the language ordering each intact or removed."""

import polars as pl

from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Tables, counts
from vlm_spatial.figures.marks import intervals
from vlm_spatial.interventions.labels import INTACT, LANGUAGE_ERASED, joined
from vlm_spatial.interventions.summaries import accuracy, redundancy
from vlm_spatial.statistics import EMPTY

VISION = {INTACT: "vision intact", "erasure": "vision erased", "neutral": "vision neutral"}
LANGUAGE = ["language intact", "language erased"]


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and pair of conditions.

    ``beyond``, with its interval, is what both ablations cost beyond the sum of each alone, in rows where both were made.
    """
    table = tables.get("ablation")
    table = None if table is None else table.filter(pl.col("experiment") == "accuracy")
    if table is None or table.is_empty():
        return pl.DataFrame()
    run = set(table["condition"])
    found = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        for vision, label in VISION.items():
            for series, condition in zip(LANGUAGE, (vision, joined(vision, LANGUAGE_ERASED)), strict=True):
                if condition not in run:
                    continue
                got = accuracy(table, condition, axis=None if axis == BOTH else axis)
                numbers = {"estimate": got.estimate, "low": got.low, "high": got.high, "n": got.n}
                whole = vision != INTACT and condition != vision and {INTACT, vision, LANGUAGE_ERASED} <= run
                more = redundancy(table, vision, axis=None if axis == BOTH else axis) if whole else EMPTY
                beyond = {"beyond": more.estimate, "beyond_low": more.low, "beyond_high": more.high}
                found.append({"axis": axis, "condition": label, "series": series, **numbers, **beyond})
    return pl.DataFrame(found).with_columns(pl.col("estimate", "low", "high", "beyond", "beyond_low", "beyond_high").fill_nan(None))


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy on the test questions with the layout removed from the vision output, with the ordering erased from the "
        "object tokens in the "
        "language model, with both, and with neither. If both together cost more than the sum of each alone, one stands in for the other "
        f"(redundant); if less, both are needed at once. {_beyond(shown)}{counts(shown, 'scenes')}. {INTERVAL} from a bootstrap that "
        f"resamples whole scenes."
    )


def _beyond(shown: pl.DataFrame) -> str:
    """``Cost of both beyond the sum: horizontal, vision neutral: +3.0 points [−1.0, +7.0].``, for each axis and dataset there is."""
    keys = [name for name in ("dataset", "axis", "condition") if name in shown.columns]
    # On the page there are rows of both axes together, which say enough.
    known = shown.drop_nulls("beyond")
    known = known.filter(axis=BOTH) if BOTH in set(known["axis"]) else known
    parts = []
    for row in known.sort(keys).iter_rows(named=True):
        beyond, low, high = (f"{100 * row[name]:+.1f}".replace("-", "−") for name in ("beyond", "beyond_low", "beyond_high"))
        parts.append(f"{', '.join(row[key] for key in keys)}: {beyond} points [{low}, {high}]")
    return f"Cost of both beyond the sum: {'; '.join(parts)}. " if parts else ""


FIGURE = Figure(
    name="ablation",
    title="Backup: what each mechanism is worth",
    question="Are the two mechanisms redundant or complementary?",
    rows=rows,
    draw=lambda palette: intervals(
        "condition", list(VISION.values()), "series", LANGUAGE, palette, x_title="accuracy", domain=(0, 1), tooltip=["series"]
    ),
    caption=caption,
    height=220,
)
