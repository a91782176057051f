"""How much faster is the engine? The same sweep with the engine, with plain hooks and with nnsight, in one process.

    python benchmarks/patch_sweep.py --family qwen2_vl --rounds 3 --output benchmarks/patch_sweep_qwen2_vl.json

All language layers × four token sets (object, strip, background, all) of a random model with 256 visual tokens, for
pairs along both axes. The methods take turns, so that a busy machine slows all of them, and after each round their logits
are compared: a difference above 1e-5 of the largest one ends the benchmark. Processor seconds, of all threads, depend less
on what else runs. ``share_of_ideal`` is the time that the engine's arithmetic would take at the rate of a plain matrix
product of the model's own shape, measured in the same rounds, divided by the engine's time; both in processor seconds.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.midsize import SIDES, MidSize, midsize_adapter
from benchmarks.peers import nnsight_sweep, plain_sweep
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.tokens import Axis, TokenGrid, TokenSet, scene_tokens

TOKEN_SETS: tuple[TokenSet, ...] = ("object", "strip", "background", "all")
AXES: tuple[Axis, ...] = ("horizontal", "vertical")
SLOTS = ((0, 1), (1, 2), (0, 2))
PROMPT = "which object is on the left ?"
Sweep = Callable[[], torch.Tensor]


def pairs_of(count: int, side: int) -> list[PairRuns]:
    """Pairs of random images: what is in them does not matter for time."""
    generator = np.random.default_rng(0)

    def run() -> Run:
        return Run(Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)), PROMPT)

    return [PairRuns(f"vision-{index}", run(), {"counterfactual": run()}) for index in range(count)]


def patches_of(adapter: Adapter, pairs: int) -> list[Patch]:
    """Every language layer × token set, for two of three objects in a row or in a column, as pairs of scenes have them."""
    sites = [site for site in adapter.sites if site.startswith("language")]
    patches = []
    for pair in range(pairs):
        axis, slots = AXES[pair % 2], SLOTS[pair % 3]
        along = [(start, 174, start + 100, 274) for start in (30, 174, 318)]
        boxes = along if axis == "horizontal" else [(top, left, bottom, right) for left, top, right, bottom in along]
        tokens = scene_tokens(boxes, TokenGrid(16, 16), 448, 448, axis)
        cells = [np.flatnonzero(tokens.mask(name, slots)) for name in TOKEN_SETS]
        patches += [Patch(pair, site, some) for site in sites for some in cells]
    return patches


def matmul_rate(size: MidSize) -> float:
    """Floating-point operations a processor second of the MLP's own matrix product, best of several."""
    rows, width = 2048, size.text_width
    left, right = torch.randn(rows, width), torch.randn(width, 3 * width)
    times = []
    for _ in range(20):
        started = time.process_time()
        for _ in range(5):
            left @ right
        times.append((time.process_time() - started) / 5)
    return 2 * rows * width * 3 * width / min(times)


def operations(sweep: Sweep) -> int:
    """Floating-point operations of matrix products and attention."""
    # torch counts attention on a GPU only.
    cpu_attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
    with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        sweep()
    return counter.get_total_flops()


def _attention_operations(query: list[int], key: list[int], value: list[int], *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def measure(adapter: Adapter, size: MidSize, pairs: int, rounds: int, side: int, with_nnsight: bool) -> dict[str, Any]:
    runs, patches = pairs_of(pairs, side), patches_of(adapter, pairs)
    sweeps: dict[str, Sweep] = {
        "engine": lambda: PatchEngine(adapter).run(runs, patches),
        "plain hooks": lambda: plain_sweep(adapter, runs, patches),
    }
    if with_nnsight:
        sweeps["nnsight"] = lambda: nnsight_sweep(adapter, runs, patches)
    wall: dict[str, list[float]] = {name: [] for name in sweeps}
    processor: dict[str, list[float]] = {name: [] for name in sweeps}
    results: dict[str, torch.Tensor] = {}
    rates = []
    for number in range(rounds):
        for name, sweep in sweeps.items():
            started, used = time.perf_counter(), time.process_time()
            results[name] = sweep()
            wall[name].append(round(time.perf_counter() - started, 2))
            processor[name].append(round(time.process_time() - used, 2))
            print(f"round {number + 1}: {name} {wall[name][-1]} s, {processor[name][-1]} processor s", flush=True)
        rates.append(matmul_rate(size))
        for name, logits in results.items():
            apart = ((logits - results["plain hooks"]).abs().max() / results["plain hooks"].abs().max()).item()
            if apart > 1e-5:
                raise SystemExit(f"{name}: logits differ from plain hooks by {apart:.1e} of the largest; the times would mean nothing")
    # Every plain run is the same full forward pass; each pair's source is one more.
    prepared = adapter.prepare([runs[0].clean.image], [PROMPT])
    vision = operations(lambda: adapter.run_vision(prepared)["connector"])
    one_run = operations(lambda: adapter.run(prepared)[0])
    counted = {"engine": operations(sweeps["engine"]), "plain hooks": one_run * (len(patches) + pairs)}
    return {
        "patches": len(patches),
        "seconds": wall,
        "processor_seconds": processor,
        "times_faster": _times(wall),
        "times_faster_processor": _times(processor),
        "operations": counted,
        "vision_share_of_one_run": round(vision / one_run, 2),
        "times_fewer_operations": round(counted["plain hooks"] / counted["engine"], 2),
        "matmul_gflops": round(max(rates) / 1e9, 1),
        "share_of_ideal": round(counted["engine"] / max(rates) / statistics.median(processor["engine"]), 2),
    }


def _times(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times faster the engine is than each other method: median over rounds, of ratios within a round."""
    own = seconds["engine"]
    ratios = {name: [other / mine for other, mine in zip(values, own, strict=True)] for name, values in seconds.items()}
    return {name: round(statistics.median(values), 2) for name, values in ratios.items() if name != "engine"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(SIDES), default="qwen2_vl")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--vision-layers", type=int, default=8, help="4 gives the vision tower the share it has in Qwen2-VL-7B and Gemma-3-4B"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = MidSize(vision_layers=options.vision_layers)
    adapter = midsize_adapter(options.family, size)
    found = importlib.util.find_spec("nnsight") is not None
    if not found:
        print("nnsight is not installed (extra peers): compared with plain hooks only")
    result = {
        "family": options.family,
        "size": vars(size),
        "pairs": options.pairs,
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        **measure(adapter, size, options.pairs, options.rounds, SIDES[options.family], found),
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
