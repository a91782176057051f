"""The pictures beside the figures: what each experiment replaces by what, on scenes of this report."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from vlm_spatial.activations.grids import size_name
from vlm_spatial.figures.experiments import LEGEND as LEGEND
from vlm_spatial.figures.experiments import OF_FIGURE, SIDE, pictures
from vlm_spatial.figures.strip_maps import picture
from vlm_spatial.report.explorer import grid_of, own_grids
from vlm_spatial.report.results import Results
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import TokenGrid


def sketches(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Panels by figure, of the first model and dataset that has scenes for the experiment; none for other figures."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for model in results.models:
        for name in model.datasets:
            grid = grid_of(results, model.name, name)
            if grid is None:
                continue
            for part, of_part in parts_of_one_grid(results.datasets[name], grid, own_grids(results, model.name, name)):
                missing = {figure: experiment for figure, experiment in OF_FIGURE.items() if figure not in found}
                drawn = pictures(part, of_part, missing.values())
                for figure, experiment in missing.items():
                    if experiment in drawn:
                        found[figure] = [
                            {"label": label, "image": picture(image, SIDE), "width": image.width, "height": image.height}
                            for label, image in drawn[experiment]
                        ]
    return found


def parts_of_one_grid(dataset: Dataset, grid: TokenGrid, own: Mapping[str, Sequence[int]]) -> Iterator[tuple[Dataset, TokenGrid]]:
    """The dataset and its token grid; where scenes have grids of their own, the scenes of each image size, most scenes first.

    Args:
        own: rows and columns by :func:`.size_name`.
    """
    if not own:
        yield dataset, grid
        return
    by_size = dataset.scenes.partition_by("width", "height", maintain_order=True)
    for scenes in sorted(by_size, key=lambda part: -part.height):
        sides = own.get(size_name(scenes.row(0, named=True)))
        if sides is not None:
            here = scenes["scene_id"].implode()
            pairs = dataset.pairs.filter(pl.col("clean_scene").is_in(here), pl.col("counterfactual_scene").is_in(here))
            yield Dataset(dataset.folder, scenes, dataset.questions.filter(pl.col("scene_id").is_in(here)), pairs), TokenGrid(*sides)
