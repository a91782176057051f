"""Figures: flip rates in the vision encoder by token set, in the language model by layer, intact and ablated."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts, most_aside, with_sites
from vlm_spatial.figures.theme import TOKEN_SETS
from vlm_spatial.measures.table import SCHEMA, select

CONDITIONS = ["intact", "erasure", "neutral"]


MEASURES = {"flip_rate": "answers flipped", "recovery": "recovery"}
RECOVERY = "how far the log-odds move from the clean run to the other picture's, as a ratio of sums over pairs"
_COLUMNS = {name: name for name in ("axis", "site", "estimate", "low", "high", "n", "set_aside", "p_holm")}


def vision_rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, token set and source: how often the answer flips; ``p_holm`` holds it against as many random tokens."""
    columns = _COLUMNS | {"token_set": "series", "source": "source", "measure": "measure"}
    shown = select(tables.get("measures"), "vision", list(MEASURES), columns)
    shown = shown.filter(pl.col("series").is_in(TOKEN_SETS)).with_columns(pl.col("measure").replace_strict(MEASURES))
    return shown if shown.is_empty() else with_sites(shown)


def vision_caption(shown: pl.DataFrame) -> str:
    return (
        "Share of pairs whose answer becomes that of the counterfactual picture when the tokens of one set take its values, by site; "
        f"{counts(shown, 'pairs')} that the untouched model answers right ({_aside(shown)}). {INTERVAL} (exact). "
        f"On screen also recovery ({RECOVERY}; Student's interval). "
        "“random” replaces as many random tokens as the strip has; “unrelated” takes the values of a picture that shares nothing. "
        "In the data beside it, p_holm: the set against the random one at that site on the same pairs, exact McNemar test, corrected over "
        "sites and sets (Holm)."
    )


def language_rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, condition and outcome of the language sweep, and one of the recovery of the ordering (``outcome`` says so)."""
    columns = _COLUMNS | {"condition": "series", "outcome": "outcome"}
    of_objects = tables.get("measures", pl.DataFrame(schema=SCHEMA)).filter(token_set="object")
    shown = select(of_objects, "language", ["outcome_rate", "recovery"], columns).with_columns(pl.col("outcome").fill_null("recovery"))
    return shown if shown.is_empty() else with_sites(shown)


def language_caption(shown: pl.DataFrame) -> str:
    return (
        "Share of pairs whose answer follows the ordering code (on screen: or the outcome chosen), when the residuals of two "
        "slots' object tokens are exchanged "
        "with those of a picture of other "
        f"contents, by layer; intact, and with the layout removed from the vision output; {counts(shown, 'pairs')} "
        f"({_aside(shown)}). {INTERVAL} (exact). On screen also the recovery of the ordering ({RECOVERY}; Student's interval). "
        "In the data beside it, p_holm: the layer against the connector on the same pairs, "
        "exact McNemar test, corrected over the layers (Holm)."
    )


def _aside(shown: pl.DataFrame) -> str:
    return f"at most {most_aside(shown)} a setting set aside because the untouched model answers them wrong"


VISION = Figure(
    name="vision_flips",
    title="Which visual tokens carry the order",
    question="Whose values, replaced, change the answer?",
    rows=vision_rows,
    draw=lambda palette: over_sites("series", list(TOKEN_SETS), palette, y_title="share", tooltip=["series", "source", "measure"]),
    caption=vision_caption,
    controls=("dataset", "axis", "source", "measure"),
    paper={"source": "counterfactual", "measure": MEASURES["flip_rate"]},
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
