"""How our cost grows: the patch sweep with layers, visual tokens, pairs and width; extraction with scenes.

    python -m benchmarks.scaling --rounds 3

One quantity grows at a time, from a small random Qwen2-VL. Beside the seconds stand the operations of matrix products and attention that
the engine makes, those of one full forward pass a patch, and the ideal seconds: the engine's operations at the rate of a plain matrix
product. ``growth`` is the exponent b of cost = a · quantity^b (least squares on logarithms), of the seconds and of the operations:
where the two agree, time follows arithmetic.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.extraction import MODELS, extraction, make_scenes
from benchmarks.measure import device_named, environment, operations, spread, timed, write
from benchmarks.midsize import SIZES, MidSize, midsize_adapter, side_of
from benchmarks.patch_sweep import PROMPT, matmul_rate, pairs_of, patches_of

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.scenes.questions import vocabulary

BASE = MidSize(text_layers=8, text_width=256, text_heads=4, text_key_value_heads=1, vision_layers=4, vision_width=128, vision_heads=2)
SWEEPS: dict[str, Sequence[int]] = {
    "layers": (4, 8, 12, 16),
    "tokens": (8, 12, 16, 20),
    "pairs": (1, 2, 4, 8),
    "width": (128, 256, 512),
}
SCENES = (64, 128, 256, 512)
QUICK: dict[str, Sequence[int]] = {"layers": (2, 4), "tokens": (8, 12), "pairs": (1, 2), "width": (64, 128)}


def of_size(quantity: str, value: int, base: MidSize = BASE) -> tuple[MidSize, int]:
    """The model and the number of pairs when ``quantity`` is ``value``."""
    match quantity:
        case "layers":
            return replace(base, text_layers=value), 1
        case "tokens":
            return replace(base, grid=value), 1
        case "width":
            # Heads of 64 features throughout.
            return replace(base, text_width=value, text_heads=max(1, value // 64), text_key_value_heads=1), 1
    return base, value


def sweep_point(quantity: str, value: int, rounds: int, device: torch.device, base: MidSize) -> dict[str, Any]:
    """One point of a curve of the patch sweep."""
    size, pairs = of_size(quantity, value, base)
    adapter = midsize_adapter("qwen2_vl", size, device)
    runs, patches = pairs_of(pairs, side_of("qwen2_vl", size)), patches_of(adapter, pairs, size.grid)

    def work() -> torch.Tensor:
        return PatchEngine(adapter).run(runs, patches)

    made = operations(work)
    taken = [timed(work, device)[1] for _ in range(rounds)]
    one_run = operations(lambda: adapter.run(adapter.prepare([runs[0].clean.image], [PROMPT])))
    return {
        "value": size.grid**2 if quantity == "tokens" else value,
        "patches": len(patches),
        "seconds": spread([one["seconds"] for one in taken]),
        "peak_mb": spread([one["peak_mb"] for one in taken]),
        "operations": made,
        "operations_plain": one_run * (len(patches) + pairs),
        "ideal_seconds": made / matmul_rate(size, adapter),
    }


def scene_points(counts: Sequence[int], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Extraction of more and more scenes with the default organism's size; the ideal is the same number of bare forward passes."""
    family, size = MODELS["organism"]
    points = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = vocabulary(dataset_settings(kind="squares"))
        dataset = make_scenes(folder / "scenes", max(counts))
        adapter = load_adapter(new_checkpoint(folder / "checkpoint", family, words, size=size), device=device.type)
        table = dataset.scenes.filter(pl.col("variant") == "main")
        extraction(adapter, dataset, table.head(32), folder / "warm")
        for count in counts:
            ids = table["scene_id"].to_list()[:count]
            ready = [adapter.prepare([dataset.image(i) for i in part], [PROMPT] * len(part)) for part in _parts(ids)]

            def store(count: int = count) -> None:
                shutil.rmtree(folder / "store", ignore_errors=True)
                extraction(adapter, dataset, table.head(count), folder / "store")

            def bare(ready: list[Any] = ready) -> None:
                for prepared in ready:
                    adapter.run(prepared)

            taken = [(timed(store, device)[1], timed(bare, device)[1]) for _ in range(rounds)]
            points.append(
                {
                    "value": len(ids),
                    "seconds": spread([mine["seconds"] for mine, _ in taken]),
                    "peak_mb": spread([mine["peak_mb"] for mine, _ in taken]),
                    "ideal_seconds": spread([ideal["seconds"] for _, ideal in taken])["median"],
                }
            )
    return points


def _parts(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + 32] for start in range(0, len(ids), 32)]


def growth(points: list[dict[str, Any]], cost: Callable[[dict[str, Any]], float]) -> float:
    """Exponent b of cost = a · value^b."""
    values = np.log([point["value"] for point in points])
    return round(float(np.polyfit(values, np.log([cost(point) for point in points]), 1)[0]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args()
    device = device_named(given.device)
    base = replace(SIZES["quick"], grid=8) if given.quick else BASE
    curves = {}
    for quantity, values in (QUICK if given.quick else SWEEPS).items():
        points = [sweep_point(quantity, value, given.rounds, device, base) for value in values]
        exponents = {
            "seconds": growth(points, lambda point: point["seconds"]["median"]),
            "operations": growth(points, lambda point: point["operations"]),
            "operations_plain": growth(points, lambda point: point["operations_plain"]),
        }
        curves[quantity] = {"work": "patch sweep", "points": points, "growth": exponents}
        print(f"  {quantity} done", flush=True)
    points = scene_points((32, 64) if given.quick else SCENES, given.rounds, device)
    exponents = {
        "seconds": growth(points, lambda point: point["seconds"]["median"]),
        "ideal_seconds": growth(points, lambda point: point["ideal_seconds"]),
    }
    curves["scenes"] = {"work": "extraction", "points": points, "growth": exponents}
    write("scaling", {"benchmark": "scaling", "base": vars(base), "curves": curves, **environment(device)})


if __name__ == "__main__":
    main()
