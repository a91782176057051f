"""Figure: what the last position of the prompt carries, by layer: nothing yet, the slot asked for, or the object there."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts, most_aside, with_sites
from vlm_spatial.figures.flips import RECOVERY
from vlm_spatial.measures.table import select

MEASURES = {"outcome_rate": "answers", "recovery": "recovery"}
OUTCOMES = ["ordinal", "attribute", "stay", "other"]
_COLUMNS = {name: name for name in ("axis", "site", "token_set", "estimate", "low", "high", "n", "set_aside")}


def rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis and outcome, and one of the recovery of the other run's own answer."""
    shown = select(tables.get("measures"), "last_token", list(MEASURES), _COLUMNS | {"outcome": "series", "measure": "measure"})
    shown = shown.filter(token_set="last").drop("token_set")
    shown = shown.with_columns(pl.col("series").fill_null("attribute"), pl.col("measure").replace_strict(MEASURES))
    return shown if shown.is_empty() else with_sites(shown)


def caption(shown: pl.DataFrame) -> str:
    return (
        "The residual of the prompt's last position is replaced by that of a run with other objects and a question for another slot, by "
        "layer. The answer stays; or it is the clean picture's object in the slot that the other run was asked for (ordinal: the slot was "
        "carried over); or it is the other run's own answer (attribute: the object was). "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} a setting set aside because the model answers one of the two runs wrong). "
        f"{INTERVAL}. On screen also the recovery of the other run's answer ({RECOVERY}; Student's interval)."
    )


FIGURE = Figure(
    name="last_token",
    title="What the last token knows",
    question="At which layer does it know the slot that is asked for, and at which the object there?",
    rows=rows,
    draw=lambda palette: over_sites("series", OUTCOMES, palette, y_title="answers", tooltip=["series", "measure"]),
    caption=caption,
    controls=("dataset", "axis", "measure"),
    paper={"measure": MEASURES["outcome_rate"]},
    by_site=True,
    optional=True,
    height=320,
)
