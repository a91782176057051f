"""Whether models see a dataset's images as they are laid out, before any job: on the grid meant, and in their own shape."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlm_spatial.config.workflow import Config
from vlm_spatial.models import families
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.folder import family_in
from vlm_spatial.workflow.file_cache import FileCache

FAMILIES = Path(families.__file__).parent
CACHE = Path(".cache/vlm_spatial/grids.json")
"""Where token grids are remembered, below the working folder; safe to delete."""


def misfits(config: Config, cache: Path | None = CACHE) -> Iterator[tuple[str, str]]:
    """Each model that sees a dataset laid out for another token grid, or images that it would squeeze: the key, and what is wrong.

    Models that are hub ids are judged when they are loaded.

    Raises:
        UserError: if the model's configuration or processor cannot be read.
    """
    known = FileCache(cache)
    yield from _squeezed(config, known)
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


def _squeezed(config: Config, known: FileCache) -> Iterator[tuple[str, str]]:
    for name, model in config.models.items():
        oblong = [dataset for dataset in model.datasets if config.datasets[dataset].own_shapes]
        if not oblong or (model.organism is None and (model.is_hub_id or not Path(model.checkpoint or "").is_dir())):
            continue
        family = config.organisms[model.organism].family if model.organism is not None else family_in(Path(model.checkpoint or ""))
        if not known.of(f"keeps shape {family}", sorted(FAMILIES.glob("*.py")), partial(_keeps_shape, family)):
            yield (
                f"models.{name}.datasets",
                f"{oblong[0]} shows photographs in their own shape (canvas: native or as_is), and {family} makes a square of every "
                "image; give this model the same photographs with canvas: square, or squeezed (as published for Gemma-3)",
            )


def _keeps_shape(family: str) -> bool:
    # Imports torch, which only an unknown family costs.
    return family_named(family).keeps_shape


def _grid(folder: Path, side: int, least: int | None, most: int | None) -> list[int]:
    # Imports torch, which only an unknown model costs.
    from vlm_spatial.models.load import grid_of_folder

    grid = grid_of_folder(folder, side, least, most)
    return [grid.rows, grid.cols]
