"""Small activation stores from random numbers, and a small dataset, for tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.activations.schema import Pooling
from vlm_spatial.activations.writer import Description, write_arrays
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

GRID = TokenGrid(3, 4)
PATCHES = 4
SHAPES = {"vision.0": (12, PATCHES, 5), "connector": (12, 1, 7), "language.0": (12, 1, 7)}
MODEL = {"checkpoint": "here", "revision": None, "architecture": "Fake", "weights": "ab" * 32, "dtype": "bfloat16"}


def scene_table(count: int) -> pl.DataFrame:
    """Three objects in every scene but the last two, which have one and none."""
    rows = []
    for index in range(count):
        boxes = [[40.0 * slot + 4, 30.0, 40.0 * slot + 30, 60.0] for slot in range(3)]
        slots = [0, 1, 2]
        variant = "main"
        if index >= count - 2:
            slots = [1] if index == count - 2 else []
            variant = "single" if slots else "blank"
        rows.append(
            {
                "scene_id": f"{variant}-horizontal-test-{index:05d}",
                "variant": variant,
                "split": "train" if index % 3 else "test",
                "axis": "horizontal",
                "width": 120,
                "height": 90,
                "objects": [("square", "ball", "cat")[slot] for slot in slots],
                "boxes": [boxes[slot] for slot in slots],
                "slots": slots,
            }
        )
    return pl.DataFrame(
        rows, schema_overrides={"slots": pl.List(pl.Int32), "boxes": pl.List(pl.List(pl.Float32)), "objects": pl.List(pl.String)}
    )


def description(count: int = 21, pooling: Pooling = "cell", shard_scenes: int = 8, **changes: object) -> Description:
    """What a store of ``count`` scenes says of itself."""
    given = {
        "shapes": SHAPES,
        "scenes": scene_table(count),
        "grid": GRID,
        "patches": PATCHES,
        "pooling": pooling,
        "shard_scenes": shard_scenes,
        "model": MODEL,
        "code": "c0de",
        "config": {"prompt": "?"},
    }
    return Description(**{**given, **changes})  # type: ignore[arg-type]


def bfloat16_values(described: Description, seed: int = 0) -> Mapping[str, Float[np.ndarray, "scene row feature"]]:
    """Random values, exact in bfloat16, for every site."""
    generator = np.random.default_rng(seed)
    made = {}
    for array in described.arrays:
        values = generator.standard_normal(array.shape).astype(np.float32) * np.float32(37)
        made[array.site] = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return made


def written(folder: Path, described: Description, values: Mapping[str, np.ndarray]) -> Path:
    """A whole store in ``folder``; returns its path."""
    write_arrays(folder / "activations.zarr", folder / "activations.json", described, values)
    return folder / "activations.zarr"


def scenes_folder(folder: Path) -> Path:
    """A dataset of 24 small scenes as the scenes stage writes it."""
    dataset = {
        "kind": "squares",
        "axes": ["horizontal", "vertical"],
        "scenes": {"train": 3, "validation": 2, "test": 3},
        "variants": {"decorrelated": {"train": 1, "validation": 0, "test": 1}, "single": 1, "mirror": False},
        "pairs": {"vision": 1, "language": 0, "conflict": 0},
    }
    scenes(Job({"dataset": dataset, "name": "squares", "seed": 0}, {}, {"folder": folder}))
    return folder
