"""A quick picture of a site: its first principal components over the image grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.activations.store import Store
from vlm_spatial.errors import UserError
from vlm_spatial.files import written_then_renamed

COMPONENTS = 3
FORMATS = ("png", "svg", "html")


def principal_components(values: Float[np.ndarray, "rows features"], count: int = COMPONENTS) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[rows, count]`` on the first principal components, and each one's share of the variance.

    A component's sign is that which makes its largest loading positive. Constant values have scores and shares of 0.
    """
    centred = values - values.mean(axis=0, dtype=np.float64)
    _, singular, loadings = np.linalg.svd(centred, full_matrices=False)
    loadings = loadings[:count]
    signs = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    power = singular**2
    return centred @ (loadings * signs[:, None]).T, power[:count] / max(power.sum(), np.finfo(float).tiny)


def draw(store: Store, site: str, target: Path, scene_ids: Sequence[str] | None = None) -> None:
    """Draw a site's first principal components, found over the drawn scenes together, to a png, svg or html file.

    Args:
        scene_ids: by default the first scene of each axis.

    Raises:
        UserError: for another kind of file, or as :meth:`Store.read`.
    """
    kind = target.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"{target}: a picture is a file ending in {', '.join('.' + name for name in FORMATS)}")
    chosen = list(
        scene_ids or store.scenes.filter(store.scenes["slots"].list.len() > 1).group_by("axis", maintain_order=True).first()["scene_id"]
    )
    if not chosen:
        chosen = store.scenes["scene_id"].head(1).to_list()
    values = store.read(site, chosen)
    # What lies beyond a scene's own grid is no activation.
    cells = [store.own_grids.get(scene, store.grid).within(store.grid) for scene in chosen]
    found, shares = principal_components(np.concatenate([of_scene[own] for of_scene, own in zip(values, cells, strict=True)]))
    scores = np.split(found, np.cumsum([len(own) for own in cells])[:-1])
    columns = [
        alt.vconcat(
            *(_panel(store, scene, scores[row][:, component]) for row, scene in enumerate(chosen)),
            title=f"component {component + 1}, {shares[component]:.0%} of the variance",
        )
        for component in range(found.shape[-1])
    ]
    # A component means the same in every scene: one scale a column.
    chart = alt.hconcat(*columns, title=f"{site}, {store.manifest.model['checkpoint']}").resolve_scale(color="independent")
    with written_then_renamed(target) as temporary:
        chart.save(str(temporary), format=kind, **({"ppi": 150} if kind == "png" else {}))


def _panel(store: Store, scene: str, scores: Float[np.ndarray, " token"]) -> Any:
    grid = store.own_grids.get(scene, store.grid)
    row, col = np.divmod(np.arange(grid.size), grid.cols)
    cells = [
        {"row": int(r), "col": int(c), "row_end": int(r) + 1, "col_end": int(c) + 1, "score": float(s)}
        for r, c, s in zip(row, col, scores, strict=True)
    ]
    x = alt.X("col:Q", title="token column", scale=alt.Scale(domain=[0, grid.cols], nice=False))
    y = alt.Y("row:Q", title="token row", scale=alt.Scale(domain=[grid.rows, 0], nice=False))
    heat = (
        alt.Chart(alt.Data(values=cells))
        .mark_rect()
        .encode(x, y, x2="col_end", y2="row_end", color=alt.Color("score:Q", title=None, scale=alt.Scale(scheme="blueorange", domainMid=0)))
    )
    layers = [heat, *_outlines(store, scene)]
    return alt.layer(*layers).properties(
        width=220, height=220 * grid.rows / grid.cols, title=alt.TitleParams(scene, fontSize=11, fontWeight="normal")
    )


def _outlines(store: Store, scene: str) -> list[Any]:
    described = store.scenes.row(by_predicate=pl.col("scene_id") == scene, named=True)
    grid = store.own_grids.get(scene, store.grid)
    across, down = grid.cols / described["width"], grid.rows / described["height"]
    boxes = [
        {"left": left * across, "right": right * across, "top": top * down, "bottom": bottom * down}
        for left, top, right, bottom in described["boxes"]
    ]
    if not boxes:
        return []
    outline = alt.Chart(alt.Data(values=boxes)).mark_rect(fillOpacity=0, stroke="black", strokeWidth=1.5)
    return [outline.encode(x="left:Q", x2="right:Q", y="top:Q", y2="bottom:Q")]
