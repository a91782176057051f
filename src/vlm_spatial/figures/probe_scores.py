"""Figure: probe accuracy by site and token set, with its controls."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import BOTH, EVERY, INTERVAL, Figure, Tables, counts, with_sites
from vlm_spatial.statistics import Interval, mean_of_independent

SETS = ["object", "strip", "rim", "background", "all"]
CELL_SITE, PIXEL_SITE = "cell", "pixels"
BLANK = "control: blank canvas at the site"
CONTROLS = {
    "shuffled": "control: shuffled labels",
    "control_task": "control: control task",
    "pixels": "control: pixels only",
    "position": "control: place of the cell only",
    "other_scene": "control: same cells of other scenes",
}
SERIES = [*SETS, *CONTROLS.values(), BLANK]


def over_axes(table: pl.DataFrame) -> pl.DataFrame:
    """``table`` with rows ``both axes`` added: the mean of the axes' scores, whose scenes are independent."""
    keys = ["site", "kind", "trained_on", "scored_on", "token_set"]
    added = []
    for values, part in table.partition_by(keys, as_dict=True, maintain_order=True).items():
        scores = part.drop_nulls(["accuracy", "low", "high"])
        found = mean_of_independent([Interval(*score) for score in scores.select("accuracy", "low", "high", "n").iter_rows()])
        numbers = {"accuracy": found.estimate, "low": found.low, "high": found.high, "n": found.n, "chance": part["chance"].mean()}
        added.append(dict(zip(keys, values, strict=True)) | {"axis": BOTH} | numbers)
    columns = [*keys, "axis", "accuracy", "low", "high", "n", "chance"]
    both = pl.DataFrame(added, schema={name: table.schema[name] for name in columns}).fill_nan(None)
    return pl.concat([table.select(columns), both])


def rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, training and scored variant, and series: logistic scores of each token set, and controls for each token set."""
    table = tables.get("probes")
    if table is None or table.is_empty():
        return pl.DataFrame()
    if "generalisation" in tables:
        where = pl.format("{} of {}", "trained_on", "trained_dataset")
        table = pl.concat([table, tables["generalisation"].with_columns(trained_on=where).drop("trained_dataset")])
    own = table.filter((pl.col("split") == "test") & pl.col("kind").is_in(["logistic", *CONTROLS]))
    shown = over_axes(own).drop_nulls("accuracy")
    if shown.filter(pl.col("kind") == "logistic").is_empty():
        return pl.DataFrame()
    of_blank = (pl.col("kind") == "position") & (pl.col("site") != CELL_SITE)
    shown = shown.with_columns(
        series=pl.when(pl.col("kind") == "logistic")
        .then(pl.col("token_set"))
        .when(of_blank)
        .then(pl.lit(BLANK))
        .otherwise(pl.col("kind").replace(CONTROLS)),
        control_for=pl.when(pl.col("kind") == "logistic").then(pl.lit(EVERY)).otherwise(pl.col("token_set")),
    ).rename({"accuracy": "estimate", "scored_on": "variant"})
    columns = [
        "variant",
        "trained_on",
        "axis",
        "site",
        "place",
        "site_index",
        "series",
        "control_for",
        "estimate",
        "low",
        "high",
        "n",
        "chance",
    ]
    return with_sites(_at_every_site(shown)).select(columns)


def _at_every_site(shown: pl.DataFrame) -> pl.DataFrame:
    """Controls that look at no activation (pixels, place of the cell) have no site of the model's: they hold at each."""
    sites = shown.filter(pl.col("control_for") == EVERY).select("site").unique(maintain_order=True)
    elsewhere = ~pl.col("site").is_in(sites["site"].to_list())
    return pl.concat([shown.filter(~elsewhere), shown.filter(elsewhere).drop("site").join(sites, how="cross").select(shown.columns)])


def caption(shown: pl.DataFrame) -> str:
    return (
        "Accuracy with which a linear probe, trained on object tokens of the training split, reads the slot off held-out "
        "tokens of each set, by site; "
        f"grey and dashed lines are its controls; {counts(shown, 'scenes')}. {INTERVAL} from a bootstrap that resamples whole "
        f"scenes; the dashed rule is chance. "
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
