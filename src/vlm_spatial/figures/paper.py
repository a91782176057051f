"""Figures for paper: SVG and PDF in print size, with caption and data beside them."""

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from vlm_spatial.figures.figure import BOTH, DATA, EVERY, Figure
from vlm_spatial.figures.theme import config

COLUMN = 230
"""Width of one panel in points; two panels make a text width of about 17 cm."""


def on_paper(figure: Figure, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that are printed: controls at their defaults, single axes where there are two, nothing without an estimate."""
    shown = at_defaults(figure, rows)
    if shown.is_empty():
        return shown
    if "axis" in figure.controls:
        shown = shown.filter(pl.col("axis").is_in(_axes(shown)))
    return shown.drop_nulls("estimate")


def _axes(rows: pl.DataFrame) -> list[str]:
    there = set(rows["axis"])
    return [axis for axis in ("horizontal", "vertical") if axis in there] or [BOTH]


def printed(figure: Figure, shown: pl.DataFrame, palette: str) -> alt.TopLevelMixin:
    """Panels by axis (across) and dataset (down), of rows from :func:`on_paper`; their data are added by :func:`export`."""
    datasets = sorted(shown["dataset"].unique()) if "dataset" in shown.columns else []
    axes = _axes(shown) if "axis" in figure.controls else [""]
    facets: dict[str, Any] = {"column": alt.Column("axis:N", title=None, sort=axes)} if "axis" in figure.controls else {}
    if len(datasets) > 1:
        facets["row"] = alt.Row("dataset:N", title=None, sort=datasets)
    chart = figure.draw(palette).properties(width=COLUMN if len(axes) > 1 else 2 * COLUMN, height=0.45 * figure.height)
    chart = chart.properties(data=alt.NamedData(name=DATA))
    return chart.facet(**facets, spacing=14) if facets else chart


def at_defaults(figure: Figure, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows shown on paper: each control at the value that the figure names, or else at the first there is."""
    for column, wanted in (figure.paper or {}).items():
        if column not in rows.columns or rows.is_empty():
            continue
        there = set(rows[column])
        value = wanted if wanted in there else min(there - {EVERY}, default="")
        rows = rows.filter(pl.col(column).is_in([value, EVERY]))
    return rows


def export(chart: alt.TopLevelMixin, folder: Path, name: str, rows: pl.DataFrame) -> None:
    """Write ``name.svg`` and ``name.pdf`` of a chart that names its data ``rows``, or brings its own; text stays text in the SVG."""
    spec = {**chart.to_dict(), "config": config(paper=True)}
    if spec.get("data", {}).get("name") == DATA:
        spec["datasets"] = {DATA: rows.to_dicts()}
    limit_legends(spec, {value for row in rows.iter_rows() for value in row if isinstance(value, str)})
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
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
    (folder / f"{name}.md").write_text(f"**{title}{'' if title.endswith('?') else '.'}** {caption}\n", encoding="utf-8")
    rows.write_csv(folder / f"{name}.csv", float_precision=6)


VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
