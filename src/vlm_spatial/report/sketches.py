"""The pictures beside the figures: what each experiment replaces by what, on scenes of this report."""

from collections import defaultdict
from typing import Any

from vlm_spatial.figures.experiments import LEGEND as LEGEND
from vlm_spatial.figures.experiments import OF_FIGURE, SIDE, pictures
from vlm_spatial.figures.strip_maps import picture
from vlm_spatial.report.explorer import grid_of, own_grids
from vlm_spatial.report.results import Results


def sketches(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Panels by figure, of the first model and dataset that has scenes for the experiment; none for other figures."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for model in results.models:
        for dataset in model.datasets:
            grid = grid_of(results, model.name, dataset)
            missing = {figure: name for figure, name in OF_FIGURE.items() if figure not in found}
            # Scenes of several grids are shown with their own in the explorer.
            if grid is None or not missing or own_grids(results, model.name, dataset):
                continue
            drawn = pictures(results.datasets[dataset], grid)
            for figure, name in missing.items():
                if name in drawn:
                    found[figure] = [
                        {"label": label, "image": picture(image, SIDE), "width": image.width, "height": image.height}
                        for label, image in drawn[name]
                    ]
    return found
