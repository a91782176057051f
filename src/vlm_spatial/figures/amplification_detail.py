"""Figures: the chosen corrections by slot and kind of question, and what a setting chosen on one dataset does on another."""

from collections.abc import Iterator

import altair as alt
import polars as pl

from vlm_spatial.amplification.calibration import calibration
from vlm_spatial.figures.chart_layers import PERCENT, estimate_tooltip
from vlm_spatial.figures.figure import BOTH, INTERVAL, Figure, Layers, Tables, counts
from vlm_spatial.figures.theme import CONTROL, SHAPES, colours
from vlm_spatial.measures.amplification import METHODS, at, choose, outcome, random_corrected_share, random_net, spatial
from vlm_spatial.statistics import Interval

RANDOM_OF = {"projection": "control: random subspaces", "oracle": "control: random directions"}
SERIES = [*METHODS, *RANDOM_OF.values()]
NET, CORRECTED, BRIER = "net accuracy", "errors corrected", "Brier score"
ALL, CONTENT = "all spatial questions", "not spatial: content"
PRESENT = "not spatial: names what is there"
DRAWS = 1000


def group_rows(tables: Tables) -> pl.DataFrame:
    """A row an axis, group of questions, method and measure: the test split at the site and alpha that validation chose."""
    table = tables.get("amplification")
    if table is None or table.is_empty():
        return pl.DataFrame()
    found: list[dict[str, object]] = []
    for method in METHODS:
        choice = choose(table, method)
        if choice is None:
            continue
        for axis in [BOTH, *sorted(table["axis"].unique())]:
            for group, part in _groups(table if axis == BOTH else table.filter(axis=axis)):
                measured = _measured(part, method, *choice)
                # Probabilities are those of the spatial answer, not of what is there.
                found += [{"axis": axis, "group": group, **row} for row in measured if group != PRESENT or row["measure"] == NET]
    return _frame(found)


def transfer_rows(tables: Tables) -> pl.DataFrame:
    """A row a dataset that chose the setting, method and measure: this dataset's test split under that site and alpha.

    The correction's subspace is this dataset's own; only the choice of site and alpha comes from elsewhere.
    """
    table, choices = tables.get("amplification"), tables.get("amplification_choices")
    if table is None or table.is_empty() or choices is None or choices["chosen_on"].n_unique() < 2:
        return pl.DataFrame()
    found: list[dict[str, object]] = []
    for source, method, site, alpha in choices.iter_rows():
        if not at(table, "test", method, site, alpha).is_empty():
            found += [{"axis": BOTH, "chosen_on": source, **row} for row in _measured(spatial(table), method, site, alpha)]
    return _frame(found)


def _groups(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    asked = spatial(table)
    yield ALL, asked
    for slot in sorted(asked["slot"].unique()):
        yield f"slot {slot}", asked.filter(slot=slot)
    for template in sorted(asked["template"].unique()):
        yield template.replace("_", " "), asked.filter(template=template)
    naming = asked.drop_nulls("present")
    if not naming.is_empty():
        # Among all of the dataset's object words, not only those of the picture: right wherever the object stands.
        yield PRESENT, naming.with_columns(correct=pl.col("present"), correct_before=pl.col("present_before"))
    other = table.filter(pl.col("template") == "content")
    if not other.is_empty():
        # The outcomes leave out what is not spatial; here that is what is counted.
        yield CONTENT, other.with_columns(template=pl.lit(CONTENT))


def _measured(part: pl.DataFrame, method: str, site: str, alpha: float) -> list[dict[str, object]]:
    rows = at(part, "test", method, site, alpha)
    if rows.is_empty():
        return []
    result = outcome(rows, draws=DRAWS)
    where = {"site": site, "alpha": alpha}
    tested = {"errors": result.errors, "corrected": result.corrected, "broken": result.broken, "p_value": result.p_value}
    measured = [
        (method, NET, result.net, tested),
        (method, CORRECTED, result.corrected_share, {}),
        (method, BRIER, calibration(rows, draws=DRAWS).brier_change, {}),
    ]
    # Each form has random controls of its own, which move tokens as far as it does.
    random = ((NET, random_net(part, site, alpha, method)), (CORRECTED, random_corrected_share(part, site, alpha, method)))
    measured += [(RANDOM_OF[method], measure, interval, {}) for measure, interval in random if interval.n]
    return [{"series": series, "measure": measure, **where, **_numbers(interval), **more} for series, measure, interval, more in measured]


def _numbers(interval: Interval) -> dict[str, object]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}


def _frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    made = pl.DataFrame(rows, infer_schema_length=None)
    return made if made.is_empty() else made.with_columns(pl.col("estimate", "low", "high").fill_nan(None))


def dodged(palette: str, column: str) -> Layers:
    """Intervals across, one row a value of ``column``, one mark a series."""
    blue, orange = colours(palette, 2)
    colour = alt.Color("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=[blue, orange, CONTROL, CONTROL]))
    shape = alt.Shape("series:N", title=None, sort=SERIES, scale=alt.Scale(domain=SERIES, range=list(SHAPES[: len(SERIES)])))
    x_title = "change, or share of errors"
    axis = alt.Axis(format=PERCENT, grid=True, tickCount=5)
    base = alt.Chart().encode(
        y=alt.Y(f"{column}:N", title=None, sort=None), yOffset=alt.YOffset("series:N", sort=SERIES, scale=alt.Scale(domain=SERIES))
    )
    return alt.layer(
        alt.Chart().mark_rule(strokeDash=[3, 3]).encode(x=alt.X(datum=0, axis=axis)),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x_title, axis=axis), x2="high:Q", color=colour),
        base.mark_point(filled=True, size=70).encode(
            x=alt.X("estimate:Q", title=x_title, axis=axis),
            color=colour,
            shape=shape,
            tooltip=estimate_tooltip(column, "series", "measure", "site", "alpha", "errors", "corrected", "broken"),
        ),
    )


INTERVALS = (
    f"{INTERVAL}: bootstrap over scenes for changes (paired), Wilson with the design effect of scenes for shares of errors; for random "
    "controls the range of the draws."
)


def group_caption(shown: pl.DataFrame) -> str:
    return (
        "What the correction at the site and α that the validation split chose does to the test questions, by slot and kind of question: "
        "change in accuracy, share of errors corrected, or change of the Brier score over the candidates (below 0 is better). What is not "
        "spatial measures the cost: whether the object word that the model prefers, of all that the dataset has, names something in the "
        "picture, wherever it stands; and questions whether an object is there at all, where the dataset asks them. "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. {INTERVALS}"
    )


def transfer_caption(shown: pl.DataFrame) -> str:
    return (
        "What a site and α chosen on the validation split of one dataset do on the test split of another; the row of the dataset itself "
        "is the ordinary result. The subspace and the slot directions are the dataset's own: only the choice travels. "
        f"{counts(shown.filter(pl.col('series').is_in(METHODS) & (pl.col('measure') == NET)), 'questions')}. {INTERVALS}"
    )


GROUPS = Figure(
    name="amplification_groups",
    title="Who gains, and what it costs",
    question="Which slots and questions does the chosen correction help, and what does it cost elsewhere?",
    rows=group_rows,
    draw=lambda palette: dodged(palette, "group"),
    caption=group_caption,
    controls=("dataset", "axis", "measure"),
    paper={"measure": NET},
    height=360,
)
TRANSFER = Figure(
    name="amplification_transfer",
    title="Does the choice of α travel?",
    question="Does a setting chosen on one dataset work on another?",
    rows=transfer_rows,
    draw=lambda palette: dodged(palette, "chosen_on"),
    caption=transfer_caption,
    controls=("dataset", "axis", "measure"),
    paper={"measure": NET},
    optional=True,
    height=220,
)
