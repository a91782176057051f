"""Figures for the page: Vega-Lite specifications without data; the page supplies the rows that its controls select."""

from typing import Any

import altair as alt

from vlm_spatial.figures.figure import DATA, Figure, Layers


def specification(figure: Figure, palette: str) -> dict[str, Any]:
    """A Vega-Lite specification as wide as its place; with ``by_site``, a parameter ``site`` marks one site."""
    chart: Layers = figure.draw(palette)
    if figure.by_site:
        # A wide pale rule behind the marks, once for the site however many rows it has.
        marker = (
            alt.Chart()
            .transform_filter("datum.site === site")
            .transform_aggregate(site_index="min(site_index)", groupby=["place"])
            .mark_rule(strokeWidth=14, opacity=0.18)
            .encode(x=alt.X("place:O", sort=alt.EncodingSortField("site_index", op="min")))
        )
        chart = alt.layer(marker, chart).add_params(alt.param(name="site", value=""))
    return named(chart, figure.height)


def named(chart: alt.TopLevelMixin, height: int) -> dict[str, Any]:
    """The chart's specification with the page's data, full width and ``height`` pixels high."""
    spec = chart.properties(data=alt.NamedData(name=DATA), width="container", height=height).to_dict()
    spec.pop("config", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec
