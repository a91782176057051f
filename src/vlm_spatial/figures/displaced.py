"""Figure: what answers follow where slot and absolute place are told apart, by layer."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts, most_aside, with_sites
from vlm_spatial.figures.flips import RECOVERY
from vlm_spatial.measures.displaced import OUTCOMES
from vlm_spatial.measures.table import select

MEASURES = {"outcome_rate": "answers", "recovery": "recovery"}
SETS = {"object": "objects", "random": "random tokens"}
_COLUMNS = {name: name for name in ("axis", "site", "estimate", "low", "high", "n", "set_aside")}


def rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, set of tokens and outcome, and one of the recovery of the ordering."""
    columns = _COLUMNS | {"outcome": "series", "token_set": "tokens", "measure": "measure"}
    shown = select(tables.get("measures"), "displaced", list(MEASURES), columns)
    shown = shown.with_columns(pl.col("series").fill_null("ordering"), pl.col("measure").replace_strict(MEASURES))
    return shown if shown.is_empty() else with_sites(shown.with_columns(pl.col("tokens").replace(SETS)))


def caption(shown: pl.DataFrame) -> str:
    return (
        "All objects of a layout-decorrelated scene take the values of another scene's objects, in other places, by layer. The answer "
        "stays; or it is the object that comes from the slot asked for (ordering), from the absolute place asked for (absolute), or the "
        f"one that now stands there (content). {counts(shown, 'pairs')} (at most {most_aside(shown)} a setting set aside because the "
        f"model answers one of the two scenes wrong). {INTERVAL}. "
        f"On screen also the recovery of the ordering ({RECOVERY}; Student's interval)."
    )


FIGURE = Figure(
    name="displaced",
    title="Slot or absolute place",
    question="Does the answer follow the slot's code or that of the absolute place?",
    rows=rows,
    draw=lambda palette: over_sites("series", list(OUTCOMES), palette, y_title="answers", tooltip=["series", "tokens", "measure"]),
    caption=caption,
    controls=("dataset", "axis", "tokens", "measure"),
    paper={"tokens": SETS["object"], "measure": MEASURES["outcome_rate"]},
    by_site=True,
    optional=True,
    height=320,
)
