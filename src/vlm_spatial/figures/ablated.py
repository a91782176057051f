"""Figure: accuracy with the vision signal and the language ordering each intact or removed."""

import polars as pl

from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Tables, counts
from vlm_spatial.figures.marks import intervals
from vlm_spatial.interventions.labels import INTACT, LANGUAGE_ERASED, joined
from vlm_spatial.interventions.summaries import accuracy

VISION = {INTACT: "vision intact", "erasure": "vision erased", "neutral": "vision neutral"}
LANGUAGE = ["language intact", "language erased"]


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and pair of conditions."""
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
                found.append({"axis": axis, "condition": label, "series": series, **numbers})
    return pl.DataFrame(found).with_columns(pl.col("estimate", "low", "high").fill_nan(None))


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy on the test questions with the layout removed from the vision output, with the ordering erased from the "
        "object tokens in the "
        "language model, with both, and with neither. If both together cost more than the sum of each alone, one stands in for the other "
        f"(redundant); if less, both are needed at once. {counts(shown, 'scenes')}. {INTERVAL} from a bootstrap that resamples "
        f"whole scenes."
    )


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
