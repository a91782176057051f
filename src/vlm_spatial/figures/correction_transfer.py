"""Figure: what a correction fitted on one dataset does on another."""

import polars as pl

from vlm_spatial.figures.amplification_detail import CORRECTED, INTERVALS, NET, RANDOM_OF, dodged
from vlm_spatial.figures.figure import BOTH, Figure, Tables, counts
from vlm_spatial.measures.transfer import pairs

TESTS = ("errors", "corrected", "broken", "p_value", "p_holm")


def carried_rows(table: pl.DataFrame | None) -> pl.DataFrame:
    """``transfer.parquet`` → a row an axis, ordered pair of datasets, series and measure; empty where nothing was carried.

    Rows of the two forms' net accuracy also hold the counts behind it, McNemar's exact p and its Holm adjustment over the pairs of
    different datasets (of the same axis and form).
    """
    if table is None or table.is_empty():
        return pl.DataFrame()
    found: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        for row in pairs(table if axis == BOTH else table.filter(axis=axis)).iter_rows(named=True):
            where = {"axis": axis, **{key: row[key] for key in ("applied_to", "fitted_on", "site", "alpha")}}
            method, random = row["method"], RANDOM_OF[row["method"]]
            found += [
                {**where, "series": method, "measure": NET, **_numbers(row, "net", "n"), **{key: row[key] for key in TESTS}},
                {**where, "series": random, "measure": NET, **_numbers(row, "random_net", "controls")},
                {**where, "series": method, "measure": CORRECTED, **_numbers(row, "share", "errors")},
                {**where, "series": random, "measure": CORRECTED, **_numbers(row, "random_share", "controls")},
            ]
    made = pl.DataFrame(found, infer_schema_length=None)
    return made if made.is_empty() else made.with_columns(pl.col("estimate", "low", "high").fill_nan(None))


def _numbers(row: dict[str, object], name: str, counted: str) -> dict[str, object]:
    return {**{end: row[f"{name}_{end}"] for end in ("estimate", "low", "high")}, "n": row[counted]}


def rows(tables: Tables) -> pl.DataFrame:
    """Those of :func:`carried_rows` that are about this dataset's test questions."""
    carried = tables.get("carried")
    return pl.DataFrame() if carried is None else carried


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
