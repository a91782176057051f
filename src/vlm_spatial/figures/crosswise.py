"""Figure: whose code, laid on the other slot while the content stays, changes the answer, by layer."""

import polars as pl

from vlm_spatial.figures.chart_layers import over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Tables, counts, most_aside, with_sites
from vlm_spatial.measures.table import select

SETS = ["object", "strip", "rim", "all", "random_object", "random_strip"]
FORMS = {"crosswise": "other picture", "mirror": "mirror image"}
MEASURES = {
    "flip_rate": "answers flipped",
    "recovery": "recovery",
    "probability_flip": "probability of the other answer",
    "probability_stay": "probability of the own answer",
    "candidate_mass": "probability of all candidates",
    "broken": "answers no question",
}


_COLUMNS = {name: name for name in ("axis", "site", "condition", "measure", "estimate", "low", "high", "n", "set_aside")}


def rows(tables: Tables) -> pl.DataFrame:
    """A row a site, axis, token set, condition, form (whose code it is) and measure."""
    parts = [
        select(tables.get("measures"), experiment, list(MEASURES), _COLUMNS | {"token_set": "series"}).with_columns(form=pl.lit(form))
        for experiment, form in FORMS.items()
    ]
    shown = pl.concat(parts)
    return shown if shown.is_empty() else with_sites(shown.with_columns(pl.col("measure").replace_strict(MEASURES)))


def caption(shown: pl.DataFrame) -> str:
    return (
        "The tokens of two slots are exchanged with those of a picture in which the two objects have changed places, by layer. "
        "Each object stays where it is and takes the other place's ordering code; an answer that flips was read from that code. "
        "On screen also recovery (how far the log-odds move from the clean run to the other picture's, as a ratio of sums over pairs), the "
        "probabilities of the answers, and the mirror form (the code of the mirrored picture, left and right only). random_object: as many "
        "background tokens as the object has, exchanged between the two strips; random_strip: as many as the strip has, or all there are, "
        "of the third strip. "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} a setting set aside because the model, "
        "under the same condition, answers them wrong). "
        f"{INTERVAL} (exact for shares, else Student's over pairs)."
    )


FIGURE = Figure(
    name="crosswise",
    title="The code moves, the content stays",
    question="Up to which layer is the answer read from the ordering code of object or strip?",
    rows=rows,
    draw=lambda palette: over_sites("series", SETS, palette, y_title="share", tooltip=["series", "measure", "condition", "form"]),
    caption=caption,
    controls=("dataset", "axis", "condition", "form", "measure"),
    paper={"condition": "intact", "form": "other picture", "measure": MEASURES["flip_rate"]},
    by_site=True,
    optional=True,
    height=320,
)
