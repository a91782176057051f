"""Figures: how the slot subspaces lie to each other across sites, axes, training scenes and datasets, and to content."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import BOTH, EVERY, Figure, Layers, Tables, counts, with_sites
from vlm_spatial.figures.sites import short_site, site_order
from vlm_spatial.measures.probe_scores import OVERLAPS
from vlm_spatial.measures.table import select

SERIES = ["other axis", "decorrelated training", "other dataset", "content"]
_COLUMNS = {name: name for name in ("axis", "site", "subspace", "other", "estimate", "n")} | {"note": "angles"}


def overlap_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site, subspace and comparison; ``against`` names the other dataset of the comparisons that have one."""
    more = {"condition": "series", "control_estimate": "chance", "low": "low", "high": "high", "other": "against"}
    shown = select(tables.get("measures"), "geometry", ["overlap"], _COLUMNS | more)
    if shown.is_empty():
        return shown
    names = dict(zip(OVERLAPS, SERIES, strict=True))
    return with_sites(shown.with_columns(pl.col("series").replace(names), pl.col("against").fill_null(EVERY)))


def overlap_caption(shown: pl.DataFrame) -> str:
    ranks = counts(shown.filter(pl.col("axis") != BOTH), "angles a comparison")
    return (
        "Overlap (mean squared cosine of the principal angles; 1: the same subspace, 0: at right angles) of the slot subspace "
        "with those of the other axis, of probes trained on layout-decorrelated scenes, of probes trained on another dataset, "
        "and with the main directions in which the objects' contents differ, by site; the dashed rule is what random subspaces "
        "of these ranks give. "
        f"{ranks}, fitted on all training scenes; no interval: one fit each."
    )


def angle_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, subspace and ordered pair of sites of one space: mean principal angle in degrees."""
    shown = select(tables.get("measures"), "geometry", ["angle"], _COLUMNS)
    if shown.is_empty():
        return shown
    sites = sorted(shown["site"].unique(), key=site_order)
    places = {site: index for index, site in enumerate(sites)}
    return with_sites(shown).with_columns(
        other_index=pl.col("other").replace_strict(places, return_dtype=pl.Int64),
        other_place=pl.col("other").map_elements(short_site, return_dtype=pl.String),
    )


def angle_draw(_palette: str) -> Layers:
    """A cell a pair of sites, the darker the closer; the number is written in it."""
    x = alt.X("place:O", sort=alt.EncodingSortField("site_index", op="min"), title="site", axis=alt.Axis(labelAngle=0, domain=False))
    y = alt.Y("other_place:O", sort=alt.EncodingSortField("other_index", op="min"), title=None)
    # One hue from pale to dark, so that the scale reads without colour, and on a dark page too.
    scale = alt.Scale(domain=[0, 90], range=["#08306b", "#6baed6", "#f2f2f2"], interpolate="lab")
    tooltip = [
        alt.Tooltip("site:N"),
        alt.Tooltip("other:N", title="against"),
        alt.Tooltip("estimate:Q", title="mean angle, °", format=".1f"),
        alt.Tooltip("angles:N", title="principal angles"),
    ]
    base = alt.Chart().encode(x=x, y=y)
    cells = base.mark_rect().encode(color=alt.Color("estimate:Q", title="mean angle, °", scale=scale), tooltip=tooltip)
    dark = alt.condition("datum.estimate < 45", alt.value("#ffffff"), alt.value("#1b1c1e"))
    return alt.layer(cells, base.mark_text(fontSize=9).encode(text=alt.Text("estimate:Q", format=".0f"), color=dark))


def angle_caption(shown: pl.DataFrame) -> str:
    pairs = shown.filter((pl.col("axis") != BOTH) & (pl.col("site") != pl.col("other"))).height // 2
    return (
        "Mean principal angle, in degrees, between the slot subspaces of two sites that share a space (vision blocks; "
        "connector and language blocks): 0 the same subspace, 90 at right angles, which random subspaces of a wide space nearly are. "
        f"n = {pairs} comparisons over axes, subspaces and datasets; no interval: one fit each. “logistic” is what the probe "
        "reads, “means” the differences of the slots' mean activations."
    )


OVERLAP = Figure(
    name="geometry",
    title="How the slot subspace lies",
    question="Is it one code: for both axes, all layouts, other scenes, apart from content?",
    rows=overlap_rows,
    draw=lambda palette: over_sites(
        "series", SERIES, palette, y_title="overlap of subspaces", tooltip=["series", "against", "angles"], reference="chance"
    ),
    caption=overlap_caption,
    controls=("dataset", "axis", "subspace", "against"),
    paper={"subspace": "logistic", "against": ""},
    by_site=True,
    height=280,
)

ANGLES = Figure(
    name="site_angles",
    title="One subspace through the layers",
    question="Does the slot keep its directions from site to site?",
    rows=angle_rows,
    draw=angle_draw,
    caption=angle_caption,
    controls=("dataset", "axis", "subspace"),
    paper={"subspace": "logistic"},
    height=320,
)
