"""Extraction and an interchange sweep of the published 7B and 4B configurations with random weights: throughput and memory.

    python benchmarks/real_size.py --family qwen2_vl                                # whole, in bfloat16; wants a GPU of 24 GB or more
    python benchmarks/real_size.py --family gemma3 --layers 2 --vision-layers 2     # on a CPU: the same widths, fewer layers

Writes ``benchmarks/results/real_size_<family>.json``. Times depend on no weight; the results say nothing of the published models.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.extraction import make_scenes
from benchmarks.genuine import LAYERS, genuine_adapter
from benchmarks.measure import RESULTS, environment, wait_for
from PIL import Image

from vlm_spatial.activations.extraction import extract
from vlm_spatial.activations.store import Store
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.files import write_json
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.tokens import TokenSet, scene_tokens

PROMPT = "which object is on the left ?"
TOKEN_SETS: tuple[TokenSet, ...] = ("object", "strip", "background", "all")
BOXES = [(start, 174, start + 100, 274) for start in (30, 174, 318)]


def extraction_of(adapter: Adapter, scenes: int) -> dict[str, Any]:
    """Every site of ``scenes`` images to a store, which is then verified byte for byte."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = make_scenes(folder / "scenes", scenes)
        table = dataset.scenes.head(scenes)
        started = time.perf_counter()
        manifest = extract(adapter, dataset.image, table, folder / "a.zarr", folder / "a.json", ActivationsSettings())
        took = time.perf_counter() - started
        store = Store.open(folder / "a.zarr")
        for _ in store.verify():
            pass
        written = sum(file.stat().st_size for file in (folder / "a.zarr").rglob("*") if file.is_file())
        return {
            "scenes": len(table),
            "sites": len(store.sites),
            "batch": manifest.config["batch"],
            "seconds": took,
            "images_per_second": len(table) / took,
            "written_mb": written / 1e6,
        }


def interchange_of(adapter: Adapter, pairs: int, memory_gb: float) -> dict[str, Any]:
    """All language layers × four token sets of ``pairs`` pairs of random images."""
    generator = np.random.default_rng(0)

    def run() -> Run:
        return Run(Image.fromarray(generator.integers(0, 256, (448, 448, 3), dtype=np.uint8)), PROMPT)

    made = [PairRuns(f"vision-{index}", run(), {"counterfactual": run()}) for index in range(pairs)]
    tokens = scene_tokens(BOXES, adapter.grid(448, 448), 448, 448, "horizontal")
    cells = [np.flatnonzero(tokens.mask(name, (0, 1))) for name in TOKEN_SETS]
    sites = [site for site in adapter.sites if site.startswith("language")]
    patches = [Patch(pair, site, some) for pair in range(pairs) for site in sites for some in cells]
    engine = PatchEngine(adapter, memory_gb=memory_gb)
    started = time.perf_counter()
    logits = engine.run(made, patches)
    wait_for(adapter.device)
    took = time.perf_counter() - started
    if not bool(torch.isfinite(logits).all()):
        raise SystemExit("error: the patched logits are not finite")
    return {"pairs": pairs, "patches": len(patches), "seconds": took, "patches_per_second": len(patches) / took}


def measured(
    family: Any,
    layers: int | None,
    vision_layers: int | None,
    device: torch.device,
    scenes: int,
    pairs: int,
    memory_gb: float,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Both, of one model; peak memory is that of the GPU, None on a CPU."""
    adapter = genuine_adapter(family, layers, vision_layers, device, dtype=dtype)
    adapter.model.eval().requires_grad_(False)
    text, vision = LAYERS[family]
    result = {
        "family": family,
        "layers": layers or text,
        "vision_layers": vision_layers or vision,
        "parameters": sum(parameter.numel() for parameter in adapter.model.parameters()),
        "dtype": dtype,
        "extraction": extraction_of(adapter, scenes),
        "interchange": interchange_of(adapter, pairs, memory_gb),
    }
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {"environment": environment(device), **result, "peak_gpu_memory_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=LAYERS, required=True)
    parser.add_argument("--layers", type=int, help="of the language model; all of them by default")
    parser.add_argument("--vision-layers", type=int)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--memory-gb", type=float, default=8.0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = measured(given.family, given.layers, given.vision_layers, device, given.scenes, given.pairs, given.memory_gb)
    output = given.output or RESULTS / f"real_size_{given.family}.json"
    output.parent.mkdir(exist_ok=True)
    write_json(result, output)
    for part in ("extraction", "interchange"):
        print(part, *(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in result[part].items()))


if __name__ == "__main__":
    main()
