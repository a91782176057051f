"""Figures: flip rates in the vision encoder by token set, in the language model by layer, intact and ablated."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Tables, counts, with_sites
from vlm_spatial.figures.rates import outcome_rates
from vlm_spatial.figures.theme import TOKEN_SETS
from vlm_spatial.measures.interventions import compare_sites, compare_token_sets, sweeps
from vlm_spatial.statistics import holm

CONDITIONS = ["intact", "erasure", "neutral"]


def vision_rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, token set and source: how often the answer flips; ``p_holm`` holds it against as many random tokens."""
    table = tables.get("interchange")
    table = None if table is None else table.filter((pl.col("experiment") == "vision") & (pl.col("condition") == "intact"))
    if table is None or table.is_empty():
        return pl.DataFrame()
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    found = outcome_rates(both, ["flip"], ["axis", "site", "token_set", "source"])
    found = found.join(_against_random(both), on=["axis", "site", "token_set", "source"], how="left", maintain_order="left")
    return with_sites(found).rename({"token_set": "series"}).drop("outcome")


def _against_random(table: pl.DataFrame) -> pl.DataFrame:
    """``p_holm`` of every token set and site against the random set at that site, on the same pairs, within an axis."""
    schema = {"axis": pl.String, "site": pl.String, "token_set": pl.String, "p": pl.Float64}
    parts = [pl.DataFrame(schema={**schema, "p_holm": pl.Float64})]
    for (axis,), group in table.group_by("axis", maintain_order=True):
        of_sites = [
            compare_token_sets(group, site=site).select(axis=pl.lit(axis), site=pl.lit(site), token_set="token_set", p="p")
            for site in group["site"].unique(maintain_order=True)
        ]
        tested = pl.concat([pl.DataFrame(schema=schema), *of_sites])
        parts.append(tested.with_columns(p_holm=pl.Series(holm(tested["p"].to_list()), dtype=pl.Float64)))
    return pl.concat(parts).drop("p").with_columns(source=pl.lit("counterfactual"))


def vision_caption(shown: pl.DataFrame) -> str:
    return (
        "Share of pairs whose answer becomes that of the counterfactual picture when the tokens of one set take its values, by site; "
        f"{counts(shown, 'pairs')} that the untouched model answers right ({_aside(shown)}). {INTERVAL} (Wilson). "
        "“random” replaces as many random tokens as the strip has; “unrelated” takes the values of a picture that shares nothing. "
        "In the data beside it, p_holm: the set against the random one at that site on the same pairs, exact McNemar test, corrected over "
        "sites and sets (Holm)."
    )


def language_rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, condition and outcome of the language sweep, intact and ablated."""
    table = sweeps(tables)
    if table.is_empty():
        return pl.DataFrame()
    table = table.filter(experiment="language", token_set="object", source="counterfactual")
    table = table.select("pair_id", "axis", "condition", "site", "included", "outcome")
    if table.is_empty():
        return pl.DataFrame()
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))])
    found = outcome_rates(both, ["ordering", "content", "stay", "other"], ["axis", "site", "condition"])
    found = found.join(_against_connector(both), on=["axis", "condition", "site", "outcome"], how="left", maintain_order="left")
    return with_sites(found).rename({"condition": "series"})


def _against_connector(table: pl.DataFrame) -> pl.DataFrame:
    """``p_holm`` of every layer's ordering rate against the connector's, on the same pairs, within an axis and condition."""
    named = table.with_columns(experiment=pl.lit("language"), token_set=pl.lit("object"), source=pl.lit("counterfactual"))
    schema = {"axis": pl.String, "condition": pl.String, "site": pl.String, "outcome": pl.String, "p_holm": pl.Float64}
    parts = [pl.DataFrame(schema=schema)]
    for (axis, condition), group in named.group_by("axis", "condition", maintain_order=True):
        tested = compare_sites(group, condition=str(condition)).select("site", "p_holm")
        marks = {"axis": pl.lit(axis), "condition": pl.lit(condition), "outcome": pl.lit("ordering")}
        parts.append(tested.with_columns(**marks).select(list(schema)))
    return pl.concat(parts)


def language_caption(shown: pl.DataFrame) -> str:
    return (
        "Share of pairs whose answer follows the ordering code (on screen: or the outcome chosen), when the residuals of two "
        "slots' object tokens are exchanged "
        "with those of a picture of other "
        f"contents, by layer; intact, and with the layout removed from the vision output; {counts(shown, 'pairs')} "
        f"({_aside(shown)}). {INTERVAL} (Wilson). In the data beside it, p_holm: the layer against the connector on the same pairs, "
        "exact McNemar test, corrected over the layers (Holm)."
    )


def _aside(shown: pl.DataFrame) -> str:
    most = int(shown["set_aside"].to_numpy().max()) if shown.height else 0
    return f"at most {most} a setting set aside because the untouched model answers them wrong"


VISION = Figure(
    name="vision_flips",
    title="Which visual tokens carry the order",
    question="Whose values, replaced, change the answer?",
    rows=vision_rows,
    draw=lambda palette: over_sites("series", list(TOKEN_SETS), palette, y_title="answers flipped", tooltip=["series", "source"]),
    caption=vision_caption,
    controls=("dataset", "axis", "source"),
    paper={"source": "counterfactual"},
    by_site=True,
    height=320,
)

LANGUAGE = Figure(
    name="language_flips",
    title="Ordering in the language model",
    question="Do intermediate layers carry an order of their own, more so without the vision signal?",
    rows=language_rows,
    draw=lambda palette: over_sites("series", CONDITIONS, palette, y_title="answers that follow", tooltip=["series", "outcome"]),
    caption=language_caption,
    controls=("dataset", "axis", "outcome"),
    paper={"outcome": "ordering"},
    by_site=True,
    height=320,
)
