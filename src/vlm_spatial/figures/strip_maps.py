"""Figure: strip maps, the slot that a probe reads at every cell, over the picture."""

import base64
import io
from collections.abc import Sequence

import altair as alt
import polars as pl
from PIL import Image

from vlm_spatial.figures.figure import Layers, Tables
from vlm_spatial.figures.sites import site_order
from vlm_spatial.figures.theme import SLOT_COLOURS
from vlm_spatial.scenes.dataset import Dataset

NAME, TITLE = "strip_maps", "Strip maps"
QUESTION = "Does the whole strip know its slot, or the object alone?"
SLOT_NAMES = ["slot 0", "slot 1", "slot 2"]
PANEL = 96
"""Longer side of one panel on paper, in pixels."""
PICTURE_BYTES = 40_000
"""Largest picture of a scene in page or figure, before base64."""


def scenes_shown(tables: Tables, per_axis: int) -> dict[str, list[str]]:
    """The first scenes of the strip map of each axis."""
    table = tables.get("strip_map")
    if table is None or table.is_empty():
        return {}
    ids = table.select("axis", "scene_id").unique(maintain_order=True).sort("axis", "scene_id")
    return {str(axis): part["scene_id"].to_list()[:per_axis] for (axis,), part in sorted(ids.partition_by("axis", as_dict=True).items())}


def sites_shown(sites: Sequence[str]) -> list[str]:
    """First and last vision layer, connector, middle and last language layer: those of them that were probed."""
    ordered = sorted(set(sites), key=site_order)
    vision, language = ([site for site in ordered if site.startswith(place)] for place in ("vision.", "language."))
    chosen = [
        *vision[:1],
        *vision[-1:],
        *(site for site in ordered if site == "connector"),
        *language[len(language) // 2 :][:1],
        *language[-1:],
    ]
    return list(dict.fromkeys(chosen))


def rows(tables: Tables, scenes: Sequence[str]) -> pl.DataFrame:
    """A row a cell of the chosen scenes and sites that is no padding: place in the grid, predicted slot and its probability."""
    table = tables.get("strip_map")
    if table is None or table.is_empty():
        return pl.DataFrame()
    shown = table.filter(
        pl.col("kind") == "logistic",
        pl.col("scene_id").is_in(list(scenes)) & pl.col("site").is_in(sites_shown(table["site"].unique().to_list())),
    )
    sides = {f"{side}s": pl.col(side).max().over("scene_id") + 1 for side in ("row", "col")}
    # What surrounds a photograph on its canvas has no slot, and no wash of colour.
    return (
        shown.with_columns(**sides, confidence=pl.col("probability").list.max())
        .filter(pl.col("slot").is_not_null())
        .select("scene_id", "axis", "site", "row", "col", "rows", "cols", "slot", "predicted", "token_set", "confidence")
    )


def picture(image: Image.Image, side: int, *, limit: int = PICTURE_BYTES) -> str:
    """The image as a data URL, its longer side at most ``side`` pixels, coarser where it would take more than ``limit`` bytes."""
    encoded = b""
    # Noise does not compress: without a limit, a dozen noisy scenes would make a page of many megabytes.
    for quality, share in ((88, 1.0), (70, 1.0), (50, 1.0), (50, 0.7), (40, 0.5)):
        scale = min(1.0, share * side / max(image.size))
        small = image if scale == 1.0 else image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
        encoded = buffer.getvalue()
        if len(encoded) <= limit:
            break
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()


def draw(cells: pl.DataFrame, dataset: Dataset) -> alt.VConcatChart | None:
    """One line of panels a scene, one panel a site; None if there are no cells."""
    if cells.is_empty():
        return None
    sites = sorted(cells["site"].unique().to_list(), key=site_order)
    lines = []
    for number, scene_id in enumerate(cells["scene_id"].unique(maintain_order=True)):
        image = dataset.image(scene_id)
        shown = picture(image, 4 * PANEL)
        sides = (round(PANEL * image.width / max(image.size)), round(PANEL * image.height / max(image.size)))
        panels = [
            _panel(cells.filter((pl.col("scene_id") == scene_id) & (pl.col("site") == site)), shown, sides, site if number == 0 else "")
            for site in sites
        ]
        lines.append(alt.hconcat(*panels, spacing=8))
    return alt.vconcat(*lines, spacing=8)


def _panel(cells: pl.DataFrame, shown: str, sides: tuple[int, int], title: str) -> Layers:
    width, height = sides
    placed = cells.with_columns(
        x=pl.col("col") / pl.col("cols"),
        x2=(pl.col("col") + 1) / pl.col("cols"),
        y=1 - pl.col("row") / pl.col("rows"),
        y2=1 - (pl.col("row") + 1) / pl.col("rows"),
        predicted="slot " + pl.col("predicted").cast(pl.String),
    ).select("x", "x2", "y", "y2", "predicted", "confidence")
    unit = alt.Scale(domain=[0, 1], nice=False)
    image = (
        alt.Chart(pl.DataFrame({"url": [shown]}))
        .mark_image(width=width, height=height, aspect=False)
        .encode(url="url:N", x=alt.value(width / 2), y=alt.value(height / 2))
    )
    wash = (
        alt.Chart(placed)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("x:Q", scale=unit, axis=None),
            x2="x2",
            y=alt.Y("y:Q", scale=unit, axis=None),
            y2="y2",
            color=alt.Color("predicted:N", title="slot read by the probe", scale=alt.Scale(domain=SLOT_NAMES, range=list(SLOT_COLOURS))),
            opacity=alt.Opacity("confidence:Q", legend=None, scale=alt.Scale(domain=[1 / 3, 1], range=[0.05, 0.75], clamp=True)),
        )
    )
    return alt.layer(image, wash).properties(width=width, height=height, title=alt.Title(title, anchor="middle"))


def caption(cells: pl.DataFrame) -> str:
    scenes = cells["scene_id"].n_unique() if not cells.is_empty() else 0
    return (
        f"The slot that the logistic probe reads at every visual token, over the picture, for {scenes} held-out scenes (n = "
        f"{cells.height} cells) at several sites; the fuller the colour, "
        "the surer the probe (faint: one third). Single cells carry no interval; the scores by token set do."
    )
