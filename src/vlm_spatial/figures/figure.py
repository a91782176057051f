"""What a figure is: rows from one model's tables, a drawing of such rows, and a caption that states n and the interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import altair as alt
import polars as pl

from vlm_spatial.figures.sites import short_site, site_order
from vlm_spatial.measures.table import BOTH as BOTH

Tables = Mapping[str, pl.DataFrame]
"""One model's tables on one dataset, by name; a table that was not made is absent. Figures read ``measures``, and ``training``, an
organism's curve, which is the same on every dataset."""

Layers = alt.LayerChart | alt.FacetChart
"""What :func:`altair.layer` returns."""

EVERY = "every set"
"""Value of a control's column in rows that hold for each of the control's values; the page knows it by this name."""
DATA = "rows"
"""What a chart without data of its own calls them."""
INTERVAL = "Bars and bands are 95% intervals"


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Attributes:
        name: of its files and of its place in the page.
        question: what it answers, shown above it.
        rows: one model's tables on one dataset → the rows that are drawn (empty where there is nothing to draw). Columns
            ``estimate``, ``low``, ``high``, ``n`` and those that tell rows apart; ``axis`` is one axis or ``both axes``.
        draw: palette → a layered chart without data, selectors or size; :mod:`.screen` and :mod:`.paper` add those.
        caption: rows of all datasets → text.
        controls: columns that the page filters by; ``dataset`` and ``axis`` hold for all figures at once.
        paper: values of ``controls`` that are shown on paper.
        by_site: whether its horizontal axis is the site, so that the page marks the chosen one.
        of_model: whether its rows are the same on every dataset, so that they are kept once and without a column ``dataset``.
        optional: whether the page leaves it out for a model that has no rows for it, instead of saying so.
        height: of the plot in pixels on screen.
    """

    name: str
    title: str
    question: str
    rows: Callable[[Tables], pl.DataFrame]
    draw: Callable[[str], Layers]
    caption: Callable[[pl.DataFrame], str]
    controls: tuple[str, ...] = ("dataset", "axis")
    paper: Mapping[str, str] | None = None
    by_site: bool = False
    of_model: bool = False
    optional: bool = False
    height: int = 300


def with_sites(rows: pl.DataFrame) -> pl.DataFrame:
    """Add ``site_index``, the place of ``site`` among the sites present (vision, connector, language), and sort by it."""
    ordered = sorted(rows["site"].unique().to_list(), key=site_order)
    places = pl.DataFrame({"site": ordered, "site_index": range(len(ordered)), "place": [short_site(site) for site in ordered]})
    return rows.join(places.cast({"site_index": pl.Int64}), on="site", how="left", maintain_order="left").sort(
        "site_index", maintain_order=True
    )


def most_aside(rows: pl.DataFrame) -> int:
    """The most units that a setting sets aside; rows that say nothing of it do not count."""
    known = rows["set_aside"].drop_nulls()
    return 0 if known.is_empty() else int(known.to_numpy().max())


def counts(rows: pl.DataFrame, what: str) -> str:
    """``n = 46`` or ``n = 30 to 46 pairs``: the sizes behind the drawn estimates."""
    sizes = rows["n"].drop_nulls()
    if sizes.is_empty():
        return f"n = 0 {what}"
    low, high = int(sizes.to_numpy().min()), int(sizes.to_numpy().max())
    return f"n = {low} {what}" if low == high else f"n = {low} to {high} {what}"
