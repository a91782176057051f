"""Figures: how the slot subspaces lie to each other across sites, axes, training scenes and datasets, and to content."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import BOTH, EVERY, Figure, Layers, Tables, counts, with_sites
from vlm_spatial.figures.rates import short_site, site_order

SERIES = ["other axis", "decorrelated training", "other dataset", "content"]
MEASURES = {"between_axes": SERIES[0], "between_training": SERIES[1], "between_datasets": SERIES[2], "content": SERIES[3]}


def overlap_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, site, subspace and comparison; ``against`` names the other dataset of the comparisons that have one."""
    table = tables["geometry"].filter(pl.col("measure").is_in(list(MEASURES))).drop_nulls("estimate") if "geometry" in tables else None
    if table is None or table.is_empty():
        return pl.DataFrame()
    of_dataset = pl.col("measure") == "between_datasets"
    shown = table.with_columns(
        series=pl.col("measure").replace_strict(MEASURES),
        against=pl.when(of_dataset).then(pl.col("other")).otherwise(pl.lit(EVERY)),
    )
    # The comparison of the two axes has one row for both of them.
    between = shown.filter(pl.col("measure") == "between_axes")
    shown = pl.concat([shown.filter(pl.col("measure") != "between_axes"), *(between.with_columns(axis=pl.lit(a)) for a in _axes(shown))])
    shown = shown.with_columns(angles=_written("angles"), n=pl.col("angles").list.len().cast(pl.Int64))
    keys = ["site", "subspace", "series", "against"]
    both = shown.group_by(keys, maintain_order=True).agg(
        pl.col("estimate", "chance").mean(), pl.col("angles").str.join("; "), _total("n"), axis=pl.lit(BOTH)
    )
    columns = ["axis", *keys, "estimate", "chance", "angles", "n"]
    empty = {"low": pl.lit(None, pl.Float64), "high": pl.lit(None, pl.Float64)}
    return with_sites(pl.concat([shown.select(columns), both.select(columns)]).with_columns(**empty))


def _axes(table: pl.DataFrame) -> list[str]:
    return sorted(table["axis"].unique().to_list())


def _total(column: str) -> pl.Expr:
    """Sum, null where every value is: a site compared with itself has no angles to count."""
    return pl.when(pl.col(column).is_not_null().any()).then(pl.col(column).sum())


def _written(column: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().round(1).cast(pl.String)).list.join("°, ") + "°"


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
    table = tables.get("geometry")
    table = None if table is None else table.filter(pl.col("measure") == "between_sites").drop_nulls("angles")
    if table is None or table.is_empty():
        return pl.DataFrame()
    one_way = table.select("axis", "subspace", "site", "other", "angles")
    sites = sorted({*one_way["site"], *one_way["other"]}, key=site_order)
    diagonal = pl.DataFrame({"site": sites, "other": sites}).join(
        one_way.select("axis", "subspace").unique(maintain_order=True), how="cross"
    )
    there = one_way.with_columns(
        estimate=pl.col("angles").list.mean(), n=pl.col("angles").list.len().cast(pl.Int64), angles=_written("angles")
    )
    same = diagonal.with_columns(estimate=pl.lit(0.0), n=pl.lit(None, pl.Int64), angles=pl.lit("0°")).select(there.columns)
    back = there.with_columns(site=pl.col("other"), other=pl.col("site"))
    all_pairs = pl.concat([there, back, same])
    both = all_pairs.group_by("subspace", "site", "other", maintain_order=True).agg(
        pl.col("estimate").mean(), _total("n"), pl.col("angles").unique(maintain_order=True).str.join("; "), axis=pl.lit(BOTH)
    )
    all_pairs = pl.concat([all_pairs, both.select(all_pairs.columns)])
    places = {site: index for index, site in enumerate(sites)}
    names = {site: short_site(site) for site in sites}
    return with_sites(all_pairs).with_columns(
        other_index=pl.col("other").replace_strict(places, return_dtype=pl.Int64), other_place=pl.col("other").replace_strict(names)
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
