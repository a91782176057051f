"""Figure: how strip-like the maps are, by site."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts, with_sites
from vlm_spatial.measures.table import select

SERIES = ["main", "decorrelated", "mirror", "control: blank"]


_COLUMNS = {name: name for name in ("axis", "site", "estimate", "low", "high", "n")} | {"variant": "series"}


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site and kind of scenes; the blank canvas is the control, whose strips come from position alone."""
    shown = select(tables.get("measures"), "geometry", ["strip_index"], _COLUMNS)
    return shown if shown.is_empty() else with_sites(shown.with_columns(pl.col("series").replace({"blank": SERIES[3]})))


def caption(shown: pl.DataFrame) -> str:
    return (
        "Strip index of the maps above: the share of a map's variance that lies between lines across the axis (1: perfect "
        "strips, 0: noise), by site. "
        "The blank canvas is the control: its strips are made by position alone, not by objects. "
        f"{counts(shown.filter(pl.col('series') != SERIES[3]), 'scenes')} (blank: one canvas, no interval). {INTERVAL} of "
        f"the mean over scenes."
    )


FIGURE = Figure(
    name="strip_index",
    title="How strip-like the maps are",
    question="Do strips follow the objects, or would a blank canvas show them too?",
    rows=rows,
    draw=lambda palette: over_sites("series", SERIES, palette, y_title="strip index", tooltip=["series"], domain=(-0.1, 1.0)),
    caption=caption,
    controls=("dataset", "axis"),
    by_site=True,
    height=240,
)
