"""Figures: which routes from the image over the question to the answer are needed, as a diagram and by layer."""

import altair as alt
import polars as pl

from vlm_spatial.figures.chart_layers import estimate_tooltip, over_sites
from vlm_spatial.figures.figure import INTERVAL, Figure, Layers, Tables, counts, most_aside, with_sites
from vlm_spatial.figures.theme import colours
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import select

CLOSED, HALF = "closed", "half closed"
WHOLE = "between image, question and answer"
# Where the diagram's nodes stand: the image left, the answer right, the question above them. Each edge writes one node's name.
_NODES = {"image": (0.0, 0.0), "question": (1.0, 1.0), "answer": (2.0, 0.0)}
_EDGES = {"image to question": "image", "question to answer": "question", "image to answer": "answer"}
_SHORTER = 0.2
_COLUMNS = {name: name for name in ("axis", "site", "condition", "estimate", "low", "high", "n", "set_aside")} | {"token_set": "route"}
_BETWEEN = ["image to question", "image to answer", "image to both", "question to answer", "between slots", "background to objects"]
_PARTS = ["object", "strip", "rim", "reference", "background"]


def _damages(tables: Tables) -> pl.DataFrame:
    shown = select(tables.get("measures"), "knockout", ["damage"], _COLUMNS)
    return shown.with_columns(pl.col("route").str.replace_all("_", " "))


def diagram_rows(tables: Tables) -> pl.DataFrame:
    """A row an edge of the diagram, with where it begins and ends, its label, and the name of one node."""
    damages = _damages(tables).filter(pl.col("route").is_in(list(_EDGES)), site=ALL_LAYERS).drop("site")
    if damages.is_empty():
        return damages
    places = pl.DataFrame([{"route": name, "node": node, **_ends(name, node)} for name, node in _EDGES.items()])
    half = damages.filter(condition=HALF).select("axis", "route", half="estimate")
    percent = [(pl.col(name) * 100).round(0).cast(pl.Int64, strict=False).cast(pl.String) + "%" for name in ("estimate", "half")]
    return (
        damages.join(places, on="route", how="left", maintain_order="left")
        .join(half, on=["axis", "route"], how="left", maintain_order="left")
        .with_columns(label=percent[0], beside=pl.when(pl.col("half").is_null()).then(pl.lit("")).otherwise("half: " + percent[1]))
    )


def _ends(route: str, node: str) -> dict[str, float]:
    start, end = route.split(" to ")
    (x, y), (x2, y2) = _NODES[start], _NODES[end]
    # Edges stop short of the nodes' names.
    across, up = (x2 - x) * _SHORTER, (y2 - y) * _SHORTER
    at = {"node_x": _NODES[node][0], "node_y": _NODES[node][1]}
    return {"x": x + across, "y": y + up, "x2": x2 - across, "y2": y2 - up, "middle_x": (x + x2) / 2, "middle_y": (y + y2) / 2, **at}


def _diagram(palette: str) -> Layers:
    """Edges as wide as the damage of closing them; the number on each, and that of its control below."""
    scales = {"x": alt.Scale(domain=[-0.3, 2.3]), "y": alt.Scale(domain=[-0.3, 1.3])}
    width = alt.StrokeWidth("estimate:Q", scale=alt.Scale(domain=[0, 1], range=[1, 30]), legend=None)

    def at(x: str, y: str) -> dict[str, alt.X | alt.Y]:
        return {"x": alt.X(f"{x}:Q", axis=None, scale=scales["x"]), "y": alt.Y(f"{y}:Q", axis=None, scale=scales["y"])}

    base = alt.Chart()
    line = base.mark_rule(opacity=0.5, color=colours(palette, 1)[0]).encode(
        **at("x", "y"), x2="x2:Q", y2="y2:Q", strokeWidth=width, tooltip=estimate_tooltip("route", "condition")
    )
    number = base.mark_text(fontWeight="bold").encode(**at("middle_x", "middle_y"), text="label:N")
    control = base.mark_text(dy=14, fontSize=9).encode(**at("middle_x", "middle_y"), text="beside:N")
    name = base.mark_text(fontSize=13).encode(**at("node_x", "node_y"), text="node:N")
    return alt.layer(line, number, control, name)


def diagram_caption(shown: pl.DataFrame) -> str:
    return (
        "Attention is closed in all language layers, one route at a time: from the image to the question's tokens, from the image to the "
        "tokens from which the answer is read, from the question to those. Width and bold number: right answers that are lost. "
        "half: with a random half of the keys closed, the control. On screen also with values removed while the weights stay, and the 95% "
        "interval of each line. "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} set aside: the model answers one of the two scenes wrong)."
    )


def layer_rows(tables: Tables) -> pl.DataFrame:
    """A row a window, axis, route and way of closing."""
    shown = _damages(tables).filter(pl.col("site") != ALL_LAYERS)
    if shown.is_empty():
        return shown
    ends = pl.col("route").str.split(" to ").list
    between = pl.col("route").is_in(_BETWEEN)
    shown = shown.with_columns(
        series=pl.when(between).then("route").otherwise(ends.first()),
        routes=pl.when(between).then(pl.lit(WHOLE)).otherwise("parts of the image to the " + ends.last()),
    )
    return with_sites(shown.drop("route"))


def layer_caption(shown: pl.DataFrame) -> str:
    return (
        "Attention is closed in a window of layers around each layer. Share of right answers that are lost. On screen also single parts of "
        "the image, and the controls: random closed (as many random visual tokens), half closed (a random half of the keys). "
        f"{counts(shown, 'pairs')} (at most {most_aside(shown)} a setting set aside: the model answers one of the two scenes wrong). "
        f"{INTERVAL} (exact)."
    )


DIAGRAM = Figure(
    name="routes",
    title="Routes from image to answer",
    question="Does the answer look at the image, or at text that looked before?",
    rows=diagram_rows,
    draw=_diagram,
    caption=diagram_caption,
    controls=("dataset", "axis", "condition"),
    paper={"condition": CLOSED},
    optional=True,
    height=260,
)

BY_LAYER = Figure(
    name="routes_by_layer",
    title="Where each route is used",
    question="In which layers must attention be open?",
    rows=layer_rows,
    draw=lambda palette: over_sites(
        "series", [*_BETWEEN, *_PARTS], palette, y_title="answers lost", tooltip=["series", "routes", "condition"]
    ),
    caption=layer_caption,
    controls=("dataset", "axis", "routes", "condition"),
    paper={"routes": WHOLE, "condition": CLOSED},
    by_site=True,
    optional=True,
    height=320,
)
