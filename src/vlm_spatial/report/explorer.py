"""What the scene explorer shows: pictures, boxes, token sets, strip maps, answers, and patched answers of pairs."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from vlm_spatial.activations.grids import GRIDS, size_name
from vlm_spatial.figures.sites import site_order
from vlm_spatial.figures.strip_maps import picture
from vlm_spatial.report.packing import digits, levels
from vlm_spatial.report.results import Results
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import TokenGrid

SIDE = 448
"""Longer side of a picture in the page, in pixels."""
PAIRS = 4
"""Pairs of each experiment and axis."""


def explorer(results: Results, per_axis: int) -> dict[str, Any]:
    """By dataset: scenes, pairs, and for each model its grid, strip maps, answers and patched answers."""
    return {name: _dataset(results, name, per_axis) for name in sorted(results.datasets)}


def _dataset(results: Results, name: str, per_axis: int) -> dict[str, Any]:
    dataset = results.datasets[name]
    models = [model.name for model in results.models if name in model.datasets]
    pairs = _pairs(dataset)
    scenes = _scenes(results, name, models, per_axis)
    of_pairs = sorted({pair[key] for pair in pairs for key in ("clean", "counterfactual")} - set(scenes))
    grids = {model: grid_of(results, model, name) for model in models}
    own = [own_grids(results, model, name) for model in models]
    return {
        "scenes": [_scene(dataset, scene_id, list(grids.values()), own, listed=scene_id in scenes) for scene_id in [*scenes, *of_pairs]],
        "pairs": pairs,
        "models": {model: _model(results, model, name, scenes, pairs, grids[model]) for model in models},
    }


def _scenes(results: Results, dataset: str, models: Sequence[str], per_axis: int) -> list[str]:
    """Scenes that have a strip map, or the first main test scenes where nobody has one; the same for all models."""
    maps = [results.tables[model, dataset]["strip_map"] for model in models if "strip_map" in results.tables[model, dataset]]
    scenes = results.datasets[dataset].scenes.filter((pl.col("variant") == "main") & (pl.col("split") == "test"))
    mapped = scenes.filter(pl.col("scene_id").is_in(maps[0]["scene_id"].unique().to_list())) if maps else scenes
    chosen = mapped if not mapped.is_empty() else scenes
    return [scene for _, part in sorted(chosen.partition_by("axis", as_dict=True).items()) for scene in sorted(part["scene_id"])[:per_axis]]


def _pairs(dataset: Dataset) -> list[dict[str, Any]]:
    if dataset.pairs.is_empty():
        return []
    chosen = dataset.pairs.sort("pair_id").group_by("experiment", "axis", maintain_order=True).head(PAIRS).sort("pair_id")
    return [
        {
            "id": row["pair_id"],
            "experiment": row["experiment"],
            "axis": row["axis"],
            "prompt": row["prompt"],
            "clean": row["clean_scene"],
            "counterfactual": row["counterfactual_scene"],
            "hypotheses": {name: answer for name, answer in row["hypotheses"].items() if answer is not None},
        }
        for row in chosen.iter_rows(named=True)
    ]


def own_grids(results: Results, model: str, dataset: str) -> dict[str, list[int]]:
    """Rows and columns by the size of a scene's image (``448x336``), where scenes have token grids of their own; else empty."""
    found = results.manifests.get((model, dataset), {}).get("config", {}).get(GRIDS, {})
    return {str(size): [int(side) for side in sides] for size, sides in found.items()}


def grid_of(results: Results, model: str, dataset: str) -> TokenGrid | None:
    """The model's token grid: from its strip map, or from the manifest of its activations."""
    table = results.tables[model, dataset].get("strip_map")
    if table is not None and not table.is_empty():
        return TokenGrid(int(table["row"].max()) + 1, int(table["col"].max()) + 1)  # type: ignore[arg-type]
    grid = results.manifests.get((model, dataset), {}).get("grid")
    match grid:
        case {"rows": rows, "cols": cols}:
            return TokenGrid(int(rows), int(cols))
        case [rows, cols]:
            return TokenGrid(int(rows), int(cols))
    return None


def _scene(
    dataset: Dataset, scene_id: str, grids: Sequence[TokenGrid | None], own: Sequence[dict[str, list[int]]], *, listed: bool
) -> dict[str, Any]:
    row = dataset.row(scene_id)
    width, height = dataset.size(scene_id)
    boxes = dataset.boxes(scene_id)
    sets = {}
    of_size = [found.get(size_name(row)) for found in own]
    usual = [None if grid is None else [grid.rows, grid.cols] for grid in grids]
    shown = {tuple(sides) for sides in (mine or common for mine, common in zip(of_size, usual, strict=True)) if sides}
    for grid in sorted(shown):
        tokens = dataset.tokens(scene_id, TokenGrid(grid[0], grid[1]))
        sets[f"{grid[0]}x{grid[1]}"] = {"object": digits(tokens.object_of_cell.tolist()), "strip": digits(tokens.strip_of_cell.tolist())}
    return {
        "id": scene_id,
        "axis": row["axis"],
        "listed": listed,
        "width": width,
        "height": height,
        "image": picture(dataset.image(scene_id), SIDE),
        "objects": row["phrases"],
        "boxes": [[round(value, 2) for value in box] for box in boxes],
        "sets": sets,
    }


def _model(
    results: Results, model: str, dataset: str, scenes: Sequence[str], pairs: Sequence[dict[str, Any]], grid: TokenGrid | None
) -> dict[str, Any]:
    tables = results.tables[model, dataset]
    return {
        "grid": None if grid is None else [grid.rows, grid.cols],
        "grids": own_grids(results, model, dataset),
        "maps": maps(tables.get("strip_map"), scenes),
        "answers": _answers(tables.get("behaviour"), results.datasets[dataset], scenes),
        "patched": _patched([tables.get(name) for name in ("interchange", "conflict")], [pair["id"] for pair in pairs]),
    }


def maps(table: pl.DataFrame | None, scenes: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Scene → site → predicted slot and its probability at every cell."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    if table is None or table.is_empty():
        return found
    chosen = table.filter(pl.col("kind") == "logistic", pl.col("scene_id").is_in(list(scenes))).sort("scene_id", "site", "token")
    for (scene_id, site), part in chosen.partition_by("scene_id", "site", as_dict=True).items():
        confident = part["probability"].list.max().to_list()
        # What surrounds a photograph on its canvas belongs to no slot.
        slots = part.select(pl.when(pl.col("slot").is_null()).then(-1).otherwise(pl.col("predicted")))["literal"].to_list()
        found.setdefault(str(scene_id), {})[str(site)] = {"slot": digits(slots), "sure": levels(confident)}
    return {scene_id: dict(sorted(sites.items(), key=lambda item: site_order(item[0]))) for scene_id, sites in found.items()}


def _answers(table: pl.DataFrame | None, dataset: Dataset, scenes: Sequence[str]) -> dict[str, list[list[Any]]]:
    """Scene → prompt, right answer, model's answer, probability of the right one."""
    if table is None or table.is_empty():
        return {}
    asked = (
        table.filter(pl.col("scene_id").is_in(list(scenes)))
        .join(dataset.questions.select("question_id", "prompt"), on="question_id", how="left")
        .sort("scene_id", "template", "slot")
    )
    found: dict[str, list[list[Any]]] = {}
    for row in asked.iter_rows(named=True):
        found.setdefault(row["scene_id"], []).append([row["prompt"], row["answer"], row["predicted"], round(row["answer_probability"], 3)])
    return found


def _patched(tables: Sequence[pl.DataFrame | None], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Pair → answers of the untouched model, and of the patched one by site and token set."""
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        if table is None or table.is_empty():
            continue
        chosen = table.filter(pl.col("pair_id").is_in(list(pairs)) & (pl.col("source") != "unrelated") & (pl.col("condition") == "intact"))
        for row in chosen.iter_rows(named=True):
            pair = found.setdefault(
                row["pair_id"],
                {
                    "included": row["included"],
                    "clean": row["clean_predicted"],
                    "counterfactual": row["counterfactual_predicted"],
                    "rows": [],
                },
            )
            pair["rows"].append([row["site"], row["token_set"], row["predicted"], row["outcome"], row["tokens"]])
    for pair in found.values():
        pair["rows"].sort(key=lambda row: (site_order(row[0]), row[1]))
    return found
