"""Probe accuracy by site and token set with its controls, strip indices, and how the slot subspaces lie to each other."""

import polars as pl

from vlm_spatial.measures.table import BOTH, tidy
from vlm_spatial.statistics import Interval, mean_of_independent

PIXEL_SITE, CELL_SITE = "pixels", "cell"
"""Sites of the controls that look at no activation: at the pixels, or at the place of the cell alone."""
KINDS = ("logistic", "shuffled", "control_task", "pixels", "position", "other_scene", "published")
OVERLAPS = ("between_axes", "between_training", "between_datasets", "content")
_BOTH_AXES = "both axes: mean of independent estimates"
_METHOD = f"exact, n lowered for tokens of a scene that are read alike; {_BOTH_AXES}"
_MEAN = f"exact, of as many coin flips as vary alike; {_BOTH_AXES}"


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


def probe_scores(table: pl.DataFrame | None, generalisation: pl.DataFrame | None) -> pl.DataFrame:
    """``probes.parquet`` → a row a site, axis, token set, scenes trained and scored on, and kind of probe (``condition``), test split.

    Args:
        generalisation: scores on this dataset of probes trained on others; their ``trained_on`` names dataset and scenes.
    """
    if table is None or table.is_empty():
        return tidy([], "probes")
    if generalisation is not None:
        where = pl.format("{} of {}", "trained_on", "trained_dataset")
        table = pl.concat([table, generalisation.with_columns(trained_on=where).drop("trained_dataset")])
    own = table.filter((pl.col("split") == "test") & pl.col("kind").is_in(KINDS))
    shown = over_axes(own).drop_nulls("accuracy")
    if shown.filter(pl.col("kind") == "logistic").is_empty():
        return tidy([], "probes")
    names = {"accuracy": "estimate", "scored_on": "variant", "kind": "condition", "chance": "control_estimate"}
    return tidy(shown.rename(names), "probes", measure="accuracy", counted="scenes", method=_METHOD, control="chance")


def strip_indices(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis, site and kind of scenes (``variant``); the blank canvas is the control, whose strips come from position alone."""
    table = None if table is None else table.filter(pl.col("measure") == "strip_index").drop_nulls("estimate")
    if table is None or table.is_empty():
        return tidy([], "geometry")
    shown = table.rename({"other": "variant"}).select("axis", "site", "variant", "estimate", "low", "high", "n")
    both = _both_axes(shown)
    rows = pl.concat([shown, both.select(shown.columns)], how="vertical_relaxed")
    return tidy(rows, "geometry", measure="strip_index", counted="scenes", method=_MEAN)


def _both_axes(shown: pl.DataFrame) -> pl.DataFrame:
    """The mean of the axes' indices; the blank canvas has no interval on either axis, and none here."""
    rows = []
    for (site, variant), part in shown.partition_by("site", "variant", as_dict=True, maintain_order=True).items():
        row = {"axis": BOTH, "site": site, "variant": variant, "estimate": part["estimate"].mean(), "low": None, "high": None, "n": None}
        known = part.drop_nulls(["low", "high"])
        if known.height == part.height:
            mean = mean_of_independent([Interval(*scores) for scores in known.select("estimate", "low", "high", "n").iter_rows()])
            row |= {"low": mean.low, "high": mean.high, "n": mean.n}
        rows.append(row)
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64, "n": pl.Int64})


def overlaps(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis, site, subspace and comparison (``condition``); ``other`` names the other dataset of comparisons between datasets."""
    table = None if table is None else table.filter(pl.col("measure").is_in(OVERLAPS)).drop_nulls("estimate")
    if table is None or table.is_empty():
        return tidy([], "geometry")
    shown = table.with_columns(
        condition=pl.col("measure"),
        other=pl.when(pl.col("measure") == "between_datasets").then(pl.col("other")),
    )
    # The comparison of the two axes has one row for both of them.
    between = shown.filter(pl.col("measure") == "between_axes")
    axes = sorted(shown["axis"].unique().to_list())
    shown = pl.concat([shown.filter(pl.col("measure") != "between_axes"), *(between.with_columns(axis=pl.lit(axis)) for axis in axes)])
    shown = shown.with_columns(note=_written("angles"), n=pl.col("angles").list.len().cast(pl.Int64))
    keys = ["site", "subspace", "condition", "other"]
    both = shown.group_by(keys, maintain_order=True).agg(
        pl.col("estimate", "chance").mean(), pl.col("note").str.join("; "), _total("n"), axis=pl.lit(BOTH)
    )
    columns = ["axis", *keys, "estimate", "chance", "note", "n"]
    rows = pl.concat([shown.select(columns), both.select(columns)]).rename({"chance": "control_estimate"})
    constants = {"counted": "principal angles", "method": "one fit; no interval", "control": "random subspaces of these ranks"}
    return tidy(rows, "geometry", measure="overlap", **constants)


def _total(column: str) -> pl.Expr:
    """Sum, null where every value is: a site compared with itself has no angles to count."""
    return pl.when(pl.col(column).is_not_null().any()).then(pl.col(column).sum())


def _written(column: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().round(1).cast(pl.String)).list.join("°, ") + "°"


def angles(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row an axis, subspace and ordered pair of sites of one space: mean principal angle in degrees."""
    table = None if table is None else table.filter(pl.col("measure") == "between_sites").drop_nulls("angles")
    if table is None or table.is_empty():
        return tidy([], "geometry")
    one_way = table.select("axis", "subspace", "site", "other", "angles")
    sites = sorted({*one_way["site"], *one_way["other"]})
    diagonal = pl.DataFrame({"site": sites, "other": sites}).join(
        one_way.select("axis", "subspace").unique(maintain_order=True), how="cross"
    )
    there = one_way.with_columns(
        estimate=pl.col("angles").list.mean(), n=pl.col("angles").list.len().cast(pl.Int64), note=_written("angles")
    ).drop("angles")
    same = diagonal.with_columns(estimate=pl.lit(0.0), n=pl.lit(None, pl.Int64), note=pl.lit("0°")).select(there.columns)
    back = there.with_columns(site=pl.col("other"), other=pl.col("site"))
    all_pairs = pl.concat([there, back, same])
    both = all_pairs.group_by("subspace", "site", "other", maintain_order=True).agg(
        pl.col("estimate").mean(), _total("n"), pl.col("note").unique(maintain_order=True).str.join("; "), axis=pl.lit(BOTH)
    )
    rows = pl.concat([all_pairs, both.select(all_pairs.columns)])
    return tidy(rows, "geometry", measure="angle", counted="principal angles", method="one fit; no interval")
