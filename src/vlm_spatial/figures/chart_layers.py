"""Marks that several figures share: a line with its band over sites, a point with its interval."""

from typing import Any

import altair as alt

from vlm_spatial.figures.figure import Layers
from vlm_spatial.figures.theme import series

PERCENT = "~%"


def estimate_tooltip(*columns: str, percent: bool = True) -> list[alt.Tooltip]:
    """Tooltip with the columns that name a point, its estimate, interval and n."""
    form = ".1%" if percent else ".3f"
    numbers = [alt.Tooltip(f"{name}:Q", format=form, title=title) for name, title in INTERVAL_TITLES]
    return [alt.Tooltip(f"{column}:N", title=column.replace("_", " ")) for column in columns] + numbers + [alt.Tooltip("n:Q", title="n")]


INTERVAL_TITLES = (("estimate", "estimate"), ("low", "95% from"), ("high", "to"))


def dashed(lines: alt.Chart, column: str, names: list[str], dashes: list[list[int]]) -> alt.Chart:
    """``lines`` with a dash of its own for each value of ``column``, kept out of the legend, whose symbols dashes would fray."""
    # Names of their own: Vega-Lite merges the legends of scales that have the same domain.
    scale = alt.Scale(domain=[f"dash of {name}" for name in names], range=dashes)
    return lines.transform_calculate(dash_of=f"'dash of ' + datum.{column}").encode(
        strokeDash=alt.StrokeDash("dash_of:N", legend=None, scale=scale)
    )


def over_sites(
    column: str,
    names: list[str],
    palette: str,
    *,
    y_title: str,
    tooltip: list[str],
    domain: tuple[float, float] = (0.0, 1.0),
    reference: str | None = None,
) -> Layers:
    """Lines over sites with bands, one a value of ``column``; ``reference`` names a column drawn as a thin dashed line (chance)."""
    scales = series(names, palette)
    x = alt.X(
        "place:O",
        sort=alt.EncodingSortField("site_index", op="min"),
        title="site: v vision layer, conn. connector, l language layer",
        axis=alt.Axis(labelAngle=0, labelAlign="center", labelBaseline="top"),
    )
    y = alt.Y("estimate:Q", title=y_title, scale=alt.Scale(domain=list(domain)), axis=alt.Axis(format=PERCENT, tickCount=5))
    shades = alt.Scale(domain=names, range=scales["color"])
    colour = alt.Color(f"{column}:N", title=None, sort=names, scale=shades)
    shape = alt.Shape(f"{column}:N", title=None, sort=names, scale=alt.Scale(domain=names, range=scales["shape"]))
    base = alt.Chart().encode(x=x)
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", scale=alt.Scale(domain=list(domain))), y2="high:Q", color=colour)
    line = dashed(base.mark_line().encode(y=y, color=colour), column, names, scales["dash"])
    point = base.mark_point(filled=True).encode(y=y, color=colour, shape=shape, tooltip=estimate_tooltip("site", *tooltip))
    layers: list[Any] = [band, line, point]
    if reference is not None:
        layers.insert(0, alt.Chart().mark_rule(strokeDash=[3, 3]).encode(y=alt.Y(f"mean({reference}):Q")))
    return alt.layer(*layers)


def intervals(
    y: str,
    y_sort: list[str] | None,
    column: str,
    names: list[str],
    palette: str,
    *,
    x_title: str,
    domain: tuple[float, float],
    percent: bool = True,
    tooltip: list[str],
    zero: str | None = None,
) -> Layers:
    """Horizontal intervals with their estimates: ``y`` down the side, one mark a value of ``column``, dodged."""
    scales = series(names, palette)
    colour = alt.Color(f"{column}:N", title=None, sort=names, scale=alt.Scale(domain=names, range=scales["color"]))
    shape = alt.Shape(f"{column}:N", title=None, sort=names, scale=alt.Scale(domain=names, range=scales["shape"]))
    axis = alt.Axis(format=PERCENT if percent else "+.1f", grid=True, tickCount=5)
    base = alt.Chart().encode(
        y=alt.Y(f"{y}:N", title=None, sort=y_sort), yOffset=alt.YOffset(f"{column}:N", sort=names, scale=alt.Scale(domain=names))
    )
    scale = alt.Scale(domain=list(domain))
    rule = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title=x_title, axis=axis), x2="high:Q", color=colour)
    point = base.mark_point(filled=True, size=70).encode(
        x=alt.X("estimate:Q", scale=scale, title=x_title, axis=axis),
        color=colour,
        shape=shape,
        tooltip=estimate_tooltip(y, *tooltip, percent=percent),
    )
    layers: list[Any] = [rule, point]
    if zero is not None:
        layers.insert(0, alt.Chart().mark_rule(strokeDash=[3, 3]).encode(x=alt.X(f"mean({zero}):Q")))
    return alt.layer(*layers)
