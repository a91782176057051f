"""Figure: probe accuracy by site and token set, with its controls."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import EVERY, INTERVAL, Figure, Tables, counts, with_sites
from vlm_spatial.measures.probe_scores import CELL_SITE
from vlm_spatial.measures.table import select

SETS = ["object", "strip", "rim", "background", "all"]
BLANK = "control: blank canvas at the site"
CONTROLS = {
    "shuffled": "control: shuffled labels",
    "control_task": "control: control task",
    "pixels": "control: pixels only",
    "position": "control: place of the cell only",
    "other_scene": "control: same cells of other scenes",
}
PUBLISHED = "published recipe"
SERIES = [*SETS, *CONTROLS.values(), BLANK, PUBLISHED]


_COLUMNS = {name: name for name in ("variant", "trained_on", "axis", "site", "token_set", "condition", "estimate", "low", "high", "n")} | {
    "control_estimate": "chance"
}
_ORDER = ("variant", "trained_on", "axis", "site", "place", "site_index", "series", "control_for", "estimate", "low", "high", "n", "chance")


def rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, training and scored variant, and series: logistic scores of each token set, and controls for each token set."""
    shown = select(tables.get("measures"), "probes", ["accuracy"], _COLUMNS)
    if shown.is_empty():
        return shown
    of_probe = pl.col("condition") == "logistic"
    of_blank = (pl.col("condition") == "position") & (pl.col("site") != CELL_SITE)
    shown = shown.with_columns(
        series=pl.when(of_probe)
        .then(pl.col("token_set"))
        .when(of_blank)
        .then(pl.lit(BLANK))
        .otherwise(pl.col("condition").replace(CONTROLS | {"published": PUBLISHED})),
        control_for=pl.when(of_probe).then(pl.lit(EVERY)).otherwise(pl.col("token_set")),
    )
    return with_sites(_at_every_site(shown)).select(_ORDER)


def _at_every_site(shown: pl.DataFrame) -> pl.DataFrame:
    """Controls that look at no activation (pixels, place of the cell) have no site of the model's: they hold at each."""
    sites = shown.filter(pl.col("control_for") == EVERY).select("site").unique(maintain_order=True)
    elsewhere = ~pl.col("site").is_in(sites["site"].to_list())
    return pl.concat([shown.filter(~elsewhere), shown.filter(elsewhere).drop("site").join(sites, how="cross").select(shown.columns)])


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy with which a linear probe, trained on object tokens of the training split, reads the slot off held-out "
        "tokens of each set, by site; "
        f"grey and dashed lines are its controls, and the published recipe; {counts(shown, 'scenes')}. "
        f"{INTERVAL}, exact, with n lowered for tokens of a scene that are read alike; the dashed rule is chance. "
        "In layout-decorrelated scenes the slot is not the absolute position."
    )


FIGURE = Figure(
    name="probes",
    title="Where the slot can be read",
    question="At which site, and on which tokens, is the slot linearly readable?",
    rows=rows,
    draw=lambda palette: over_sites("series", SERIES, palette, y_title="probe accuracy", tooltip=["series"], reference="chance"),
    caption=caption,
    controls=("dataset", "axis", "variant", "trained_on", "control_for"),
    paper={"variant": "decorrelated", "trained_on": "decorrelated", "control_for": "background"},
    by_site=True,
    height=340,
)
