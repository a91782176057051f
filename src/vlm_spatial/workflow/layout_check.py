"""Whether a layout of whole visual tokens is that of the models that see it, before any job."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlm_spatial.config.workflow import Config
from vlm_spatial.workflow.file_cache import FileCache

CACHE = Path(".cache/vlm_spatial/grids.json")
"""Where token grids are remembered, below the working folder; safe to delete."""


def misfits(config: Config, cache: Path | None = CACHE) -> Iterator[tuple[str, str]]:
    """Each model that is a folder and sees a dataset laid out for another token grid: the key, and what is wrong.

    Raises:
        UserError: if the model's configuration or processor cannot be read.
    """
    known = FileCache(cache)
    for name, model in config.models.items():
        folder = Path(model.checkpoint or "")
        if model.checkpoint is None or model.is_hub_id or not folder.is_dir():
            continue
        files = sorted(path for path in folder.glob("*.json") if "config" in path.name)
        for dataset in model.datasets:
            settings = config.datasets[dataset]
            if settings.laid_out is None:
                continue
            canvas, cells = settings.laid_out
            asked = json.dumps([str(folder.absolute()), canvas, model.min_pixels, model.max_pixels])
            rows, cols = known.of(f"grid {asked}", files, partial(_grid, folder, canvas, model.min_pixels, model.max_pixels))
            if (rows, cols) != (cells, cells):
                fitting = [each for each in model.datasets if each != dataset]
                left = f"{len(fitting)} other datasets are left" if fitting else "no other dataset is left"
                yield (
                    f"models.{name}.datasets",
                    f"{dataset} is laid out for {cells}×{cells} visual tokens, and an image of {canvas} pixels becomes "
                    f"{rows}×{cols} to this model; give it a dataset with the layout of its own grid ({left})",
                )
    known.save()


def _grid(folder: Path, side: int, least: int | None, most: int | None) -> list[int]:
    # Imports torch, which only an unknown model costs.
    from vlm_spatial.models.load import grid_of_folder

    grid = grid_of_folder(folder, side, least, most)
    return [grid.rows, grid.cols]
