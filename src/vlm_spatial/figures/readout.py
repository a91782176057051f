"""Figures: whose residuals the answer follows, by layer; and what the question's residuals of all layers do."""

import polars as pl

from vlm_spatial.figures.chart_layers import intervals, over_sites
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Tables, counts, most_aside, with_sites
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import select

GROUPS = ["image", "question", "word.target", "word.reference", "answer"]
_STEERED = {"id": "word + ID", "random": "random vector"}
_NUMBERS = ("axis", "estimate", "low", "high", "n", "set_aside")
_DECIDES, _UNRELATED = "answers that follow another run's question tokens", "the same of an unrelated picture (control)"
_WITH, _WITHOUT = "with the question's", "without"
_SERIES = [_DECIDES, _UNRELATED, *(f"right over {picture}: {how}" for picture in ("grey", "noise") for how in (_WITH, _WITHOUT))]


def layer_rows(tables: Tables) -> pl.DataFrame:
    """A row a layer, axis and token group."""
    columns = {name: name for name in (*_NUMBERS, "site", "source", "alpha")} | {"token_set": "series"}
    shown = select(tables.get("measures"), "readout", ["flip_rate"], columns)
    # Of added vectors, those of the largest strength.
    steered = shown.filter(pl.col("source").is_in(list(_STEERED)), series="word.target").filter(pl.col("alpha") == pl.col("alpha").max())
    steered = steered.with_columns(series=pl.col("source").replace(_STEERED))
    shown = pl.concat([shown.filter(pl.col("site") != ALL_LAYERS, source="counterfactual"), steered]).drop("source", "alpha")
    return shown if shown.is_empty() else with_sites(shown)


def layer_caption(shown: pl.DataFrame) -> str:
    return (
        "Residuals of one group of tokens, after one language layer, are those of a run in which two objects have changed places. "
        "Share of answers that become that run's. Image: all visual tokens. Question: all between image and answer. Word: the last token "
        "of the object's name, the one asked for (target) or the one referred to (reference). Answer: the template's last tokens. "
        "Word + ID: at the name a learned vector of the other slot is added; its control is a random vector of the same length. "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} a setting set aside: the model answers one of the two scenes wrong). "
        f"{INTERVAL} (exact)."
    )


def whole_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis and what is taken in all layers."""
    columns = {name: name for name in (*_NUMBERS, "site", "source")}
    follows = select(tables.get("measures"), "readout", ["flip_rate"], columns).filter(site=ALL_LAYERS)
    name = pl.when(source="unrelated").then(pl.lit(_UNRELATED)).otherwise(pl.lit(_DECIDES))
    columns = {name: name for name in (*_NUMBERS, "condition", "token_set")}
    right = select(tables.get("measures"), "readout", ["accuracy"], columns)
    how = pl.when(token_set="question").then(pl.lit(_WITH)).otherwise(pl.lit(_WITHOUT))
    return pl.concat(
        [
            follows.with_columns(series=name).select(*_NUMBERS, "series"),
            right.with_columns(series=pl.format("right over {}: {}", "condition", how)).select(*_NUMBERS, "series"),
        ]
    )


def whole_caption(shown: pl.DataFrame) -> str:
    return (
        "The question's tokens have the residuals of another run after every language layer, while the answer's tokens are left free. "
        "First that of the run in which two objects have changed places, and as control of an unrelated picture. Then over a grey picture, "
        "or noise, that of the run with the real picture; without them, the corrupted picture alone. "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} set aside: the model answers one of the two scenes wrong). "
        f"{INTERVAL} (exact)."
    )


BY_LAYER = Figure(
    name="readout",
    title="Whose residuals decide",
    question="At which layer does the answer leave the image's tokens for the text's?",
    rows=layer_rows,
    draw=lambda palette: over_sites("series", [*GROUPS, *_STEERED.values()], palette, y_title="answers that follow", tooltip=["series"]),
    caption=layer_caption,
    by_site=True,
    optional=True,
)

WHOLE = Figure(
    name="readout_text",
    title="What the question's tokens are enough for",
    question="Do the question's tokens decide the answer, and are they enough without the picture?",
    rows=whole_rows,
    draw=lambda palette: intervals(
        "axis", [BOTH, "horizontal", "vertical"], "series", _SERIES, palette, x_title="answers", domain=(0, 1), tooltip=["series"]
    ),
    caption=whole_caption,
    controls=("dataset",),
    optional=True,
    height=320,
)
