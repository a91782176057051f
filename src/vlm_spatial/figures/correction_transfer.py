"""Figure: what a correction fitted on one dataset does on another."""

import polars as pl

from vlm_spatial.figures.amplification import NET, read
from vlm_spatial.figures.amplification_detail import INTERVALS, RANDOM_OF, dodged
from vlm_spatial.figures.figure import Figure, Tables, counts


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, dataset that the correction was fitted on, series and measure, on this dataset's test questions.

    Rows of the two forms' net accuracy also hold the counts behind it, McNemar's exact p and its Holm adjustment over the pairs of
    different datasets.
    """
    return read(tables, "correction_transfer", {"fitted_on": "fitted_on", "verdict": "verdict"})


def caption(shown: pl.DataFrame) -> str:
    tested = shown.filter((pl.col("measure") == NET) & pl.col("series").is_in(list(RANDOM_OF)))
    return (
        "What a correction fitted on one dataset does on the test questions of another: its probes' subspace and slot directions, and the "
        "site and α that its validation split chose, all carried over as they are; the row of the dataset itself is the ordinary result. "
        "McNemar's exact p is adjusted (Holm) over all pairs of different datasets. Controls move every token as far, in random subspaces "
        f"or along random directions. {counts(tested, 'questions')}. {INTERVALS}"
    )


FIGURE = Figure(
    name="correction_transfer",
    title="Does the correction itself travel?",
    question="Does a correction fitted on one dataset, subspace and all, correct errors on another?",
    rows=rows,
    draw=lambda palette: dodged(palette, "fitted_on"),
    caption=caption,
    controls=("dataset", "axis", "measure"),
    paper={"measure": NET},
    optional=True,
    height=220,
)
