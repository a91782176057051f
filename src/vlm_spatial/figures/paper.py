"""Figures for paper: SVG and PDF in print size, with caption and data beside them."""

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from vlm_spatial.figures.figure import BOTH, Figure
from vlm_spatial.figures.theme import config

COLUMN = 230
"""Width of one panel in points; two panels make a text width of about 17 cm."""


def printed(figure: Figure, rows: pl.DataFrame, palette: str) -> alt.TopLevelMixin | None:
    """Panels by axis (across) and dataset (down); None if there is nothing to draw."""
    shown = at_defaults(figure, rows)
    if shown.is_empty():
        return None
    datasets = sorted(shown["dataset"].unique())
    if "axis" in figure.controls:
        axes = [axis for axis in ("horizontal", "vertical", BOTH) if axis in set(shown["axis"])]
        axes = axes[:2] if len(axes) == 3 else axes[:1]
        shown = shown.filter(pl.col("axis").is_in(axes))
        facets: dict[str, Any] = {"column": alt.Column("axis:N", title=None, sort=axes)}
    else:
        axes, facets = [""], {}
    if len(datasets) > 1:
        facets["row"] = alt.Row("dataset:N", title=None, sort=datasets)
    data = shown.drop([name for name in figure.controls if name not in ("dataset", "axis") and name in shown.columns])
    chart = figure.draw(palette).properties(width=COLUMN if len(axes) > 1 else 2 * COLUMN, height=0.45 * figure.height)
    chart = chart.properties(data=_data(data))
    return chart.facet(**facets, spacing=14) if facets else chart


def at_defaults(figure: Figure, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows shown on paper: each control at the value that the figure names, or else at the first there is."""
    for column, wanted in (figure.paper or {}).items():
        if column not in rows.columns or rows.is_empty():
            continue
        there = set(rows[column])
        value = wanted if wanted in there else min(there - {"every set"}, default="")
        rows = rows.filter(pl.col(column).is_in([value, "every set"]))
    return rows


def _data(rows: pl.DataFrame) -> alt.InlineData:
    return alt.InlineData(values=rows.to_dicts())


def export(chart: alt.TopLevelMixin, folder: Path, name: str, rows: pl.DataFrame) -> None:
    """Write ``name.svg`` and ``name.pdf``; text stays text in the SVG."""
    spec = {**chart.to_dict(), "config": config(paper=True)}
    limit_legends(spec, {value for row in rows.iter_rows() for value in row if isinstance(value, str)})
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    (folder / f"{name}.svg").write_text(svg)
    (folder / f"{name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))


def limit_legends(part: Any, present: set[str]) -> None:
    """Leave out of every legend in a specification the series that have no row; their colours stay reserved."""
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        limit_legends(value, present)
    domain = part.get("scale", {}).get("domain") if isinstance(part, dict) and isinstance(part.get("scale"), dict) else None
    if domain and part.get("field") and all(isinstance(name, str) for name in domain) and part.get("legend", {}) is not None:
        part["legend"] = part.get("legend", {}) | {"values": [name for name in domain if name in present]}


def write_beside(folder: Path, name: str, title: str, caption: str, rows: pl.DataFrame) -> None:
    """Write ``name.md`` (title and caption) and ``name.csv`` (the data)."""
    (folder / f"{name}.md").write_text(f"**{title}.** {caption}\n")
    rows.write_csv(folder / f"{name}.csv", float_precision=6)


VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
