"""Figure: how strip-like the maps are, by site."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Tables, counts, with_sites
from vlm_spatial.statistics import Interval, mean_of_independent

SERIES = ["main", "decorrelated", "mirror", "control: blank"]


def rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site and kind of scenes; the blank canvas is the control, whose strips come from position alone."""
    table = tables.get("geometry")
    table = None if table is None else table.filter(pl.col("measure") == "strip_index").drop_nulls("estimate")
    if table is None or table.is_empty():
        return pl.DataFrame()
    shown = table.with_columns(series=pl.col("other").replace({"blank": SERIES[3]}))
    columns = ["axis", "site", "series", "estimate", "low", "high", "n"]
    return with_sites(pl.concat([shown.select(columns), _both_axes(shown).select(columns)], how="vertical_relaxed"))


def _both_axes(shown: pl.DataFrame) -> pl.DataFrame:
    """The mean of the axes' indices; the blank canvas has no interval on either axis, and none here."""
    rows = []
    for (site, series), part in shown.partition_by("site", "series", as_dict=True, maintain_order=True).items():
        row = {"axis": BOTH, "site": site, "series": series, "estimate": part["estimate"].mean(), "low": None, "high": None, "n": None}
        known = part.drop_nulls(["low", "high"])
        if known.height == part.height:
            mean = mean_of_independent([Interval(*scores) for scores in known.select("estimate", "low", "high", "n").iter_rows()])
            row |= {"low": mean.low, "high": mean.high, "n": mean.n}
        rows.append(row)
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64, "n": pl.Int64})


def caption(shown: pl.DataFrame) -> str:
    return (
        "Strip index of the maps above: the share of a map's variance that lies between lines across the axis (1: perfect "
        "strips, 0: noise), by site. "
        "The blank canvas is the control: its strips are made by position alone, not by objects. "
        f"{counts(shown.filter(pl.col('series') != SERIES[3]), 'scenes')} (blank: one canvas, no interval). {INTERVAL} from a "
        f"bootstrap over scenes."
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
