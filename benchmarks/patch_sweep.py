"""How much faster is the engine? The same sweep with the engine, plain hooks, hooks batched by hand, nnsight, pyvene and
TransformerLens, in one process.

    python -m benchmarks.patch_sweep --family qwen2_vl --rounds 3
    python -m benchmarks.patch_sweep --family qwen2_vl --size 7b --dtype bfloat16 --device cuda

All language layers × four token sets (object, strip, background, all) of a random model with 256 visual tokens, for
pairs along both axes. The methods take turns, and after each round their logits are compared: a difference above 1e-5 of
the largest one (float32) ends the benchmark. The engine makes the whole sweep in every round. The others, whose time is one
full forward pass a patch, make a part of it (``--peer-share 3``: every third patch, other ones each round), and their time is scaled to all
patches by the number of forward passes. ``share_of_ideal`` is the time that the engine's arithmetic would take at the rate of a
plain matrix product of the model's own shape, measured here too, divided by the engine's time.
``times_more_operations_than_ideal`` is how many times the operations of plain hooks are those of the engine, if none of its batches
computed a position in vain.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.measure import Unsupported, counted, device_named, environment, operations, rounds_of, scaled, wait_for, write
from benchmarks.midsize import SIZES, MidSize, midsize_adapter, side_of
from benchmarks.peers import TransformerLens, batched_sweep, missing, nnsight_sweep, plain_sweep, pyvene_sweep
from PIL import Image

from vlm_spatial.interventions import plan
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES
from vlm_spatial.tokens import Axis, TokenGrid, TokenSet, scene_tokens

TOKEN_SETS: tuple[TokenSet, ...] = ("object", "strip", "background", "all")
AXES: tuple[Axis, ...] = ("horizontal", "vertical")
SLOTS = ((0, 1), (1, 2), (0, 2))
PROMPT = "which object is on the left ?"
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.05}
REFERENCE = "plain hooks"
BATCHED = "hooks batched by hand"
OURS = "vlm_spatial"
VLM_LENS = "not on PyPI; its repository pins torch 2.6 and transformers 4.51"
Sweep = Callable[[list[Patch]], torch.Tensor]


def pairs_of(count: int, side: int) -> list[PairRuns]:
    """Pairs of random images: what is in them does not matter for time."""
    generator = np.random.default_rng(0)

    def run() -> Run:
        return Run(Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)), PROMPT)

    return [PairRuns(f"vision-{index}", run(), {"counterfactual": run()}) for index in range(count)]


def patches_of(adapter: Adapter, pairs: int, grid: int = 16) -> list[Patch]:
    """Every language layer × token set, for two of three objects in a row or in a column, as pairs of scenes have them."""
    sites = [site for site in adapter.sites if site.startswith("language")]
    patches = []
    for pair in range(pairs):
        axis, slots = AXES[pair % 2], SLOTS[pair % 3]
        along = [(start, 174, start + 100, 274) for start in (30, 174, 318)]
        boxes = along if axis == "horizontal" else [(top, left, bottom, right) for left, top, right, bottom in along]
        tokens = scene_tokens(boxes, TokenGrid(grid, grid), 448, 448, axis)
        cells = [np.flatnonzero(tokens.mask(name, slots)) for name in TOKEN_SETS]
        patches += [Patch(pair, site, some) for site in sites for some in cells]
    return patches


def matmul_rate(size: MidSize, adapter: Adapter) -> float:
    """Floating-point operations a second of the MLP's own matrix product, best of several."""
    return product_rate(adapter, size.text_width, size.text_mlp_width or 3 * size.text_width)


def product_rate(adapter: Adapter, width: int, wide: int, rows: int = 2048) -> float:
    """Floating-point operations a second of one matrix product on the adapter's device, best of several."""
    left, right = (torch.randn(shape, device=adapter.device, dtype=adapter.dtype) for shape in ((rows, width), (width, wide)))
    times = []
    for _ in range(20):
        wait_for(adapter.device)
        started = time.perf_counter()
        for _ in range(5):
            left @ right
        wait_for(adapter.device)
        times.append((time.perf_counter() - started) / 5)
    return 2 * rows * width * wide / min(times)


def peer_sweeps(adapter: Adapter, pairs: list[PairRuns]) -> tuple[dict[str, Sweep], dict[str, str]]:
    """Every peer that can make the sweep, and why each other one cannot."""
    sweeps: dict[str, Sweep] = {}
    reasons = {"vlm-lens": f"{VLM_LENS}; reads activations, replaces none"}
    for name, peer in (("nnsight", nnsight_sweep), ("pyvene", pyvene_sweep)):
        why = missing(name)
        if why is None:
            sweeps[name] = lambda patches, peer=peer: peer(adapter, pairs, patches)
        else:
            reasons[name] = why
    try:
        lens = TransformerLens(adapter)
        sweeps["transformer-lens"] = lambda patches: lens.sweep(pairs, patches)
    except Unsupported as error:
        reasons["transformer-lens"] = str(error)
    return sweeps, reasons


def measure(adapter: Adapter, size: MidSize, pairs: int, rounds: int, share: int, peers: bool = True) -> dict[str, Any]:
    """Everything about one model; see the module's own description. Without ``peers``: plain hooks only."""
    runs, patches = pairs_of(pairs, side_of(adapter.family, size)), patches_of(adapter, pairs, size.grid)
    sweeps: dict[str, Sweep] = {
        REFERENCE: lambda some: plain_sweep(adapter, runs, some),
        BATCHED: lambda some: batched_sweep(adapter, runs, some),
    }
    others, reasons = peer_sweeps(adapter, runs) if peers else ({}, {})
    sweeps |= others

    def part(number: int) -> list[int]:
        return list(range(number % share, len(patches), share))

    def check(results: dict[str, torch.Tensor], number: int) -> dict[str, float]:
        results = {**results, OURS: results[OURS][part(number)]}
        expected = results[REFERENCE].cpu()
        return {name: ((logits.cpu() - expected).abs().max() / expected.abs().max()).item() for name, logits in results.items()}

    def of_peer(sweep: Sweep) -> Callable[[int], torch.Tensor]:
        return lambda number: sweep([patches[index] for index in part(number)])

    sides: dict[str, Callable[[int], torch.Tensor]] = {OURS: lambda _: PatchEngine(adapter).run(runs, patches)}
    sides |= {name: of_peer(sweep) for name, sweep in sweeps.items()}
    found = rounds_of(sides, rounds, check, adapter.device, TOLERANCE[adapter.identity.dtype])
    # Every plain run is the same full forward pass; each pair's source is one more.
    prepared = adapter.prepare([runs[0].clean.image], [PROMPT])
    vision = operations(lambda: adapter.run_vision(prepared)["connector"])
    one_run = operations(lambda: adapter.run(prepared)[0])
    rate = matmul_rate(size, adapter)
    with counted(adapter) as calls:
        PatchEngine(adapter).run(runs, patches)
    found[OURS] |= {
        "operations": operations(lambda: PatchEngine(adapter).run(runs, patches)),
        "language_block_calls": calls["language_calls"],
    }
    # No batch computes a position in vain: what is left, no patch can do without.
    with mock.patch.object(plan, "WASTE", 0.0):
        ideal = operations(lambda: PatchEngine(adapter).run(runs, patches))
    for name in sweeps:
        # pyvene runs the source again for every patch.
        passes, done = (2 * len(patches), 2 * len(part(0))) if name == "pyvene" else (len(patches) + pairs, len(part(0)) + pairs)
        found[name] = scaled(found[name], passes / done)
        found[name]["operations"] = one_run * passes
        if name != BATCHED:
            found[name]["language_block_calls"] = passes * len(adapter.language_blocks)
    own = found[OURS]
    for name in sweeps:
        other = found[name]
        found[name]["times_slower"] = {
            key: round(other[key]["median"] / own[key]["median"], 2) for key in ("seconds", "processor_seconds") if own[key]["median"]
        }
        found[name]["times_more_operations"] = round(other["operations"] / own["operations"], 2)
    return {
        "patches": len(patches),
        "pairs": pairs,
        "share_of_patches_by_peers": f"1/{share}",
        "methods": found,
        "unsupported": reasons,
        "times_more_operations_than_ideal": round(one_run * (len(patches) + pairs) / ideal, 2),
        "vision_share_of_one_run": round(vision / one_run, 2),
        "matmul_gflops": round(rate / 1e9, 1),
        "share_of_ideal": round(own["operations"] / rate / own["seconds"]["median"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=NAMES, default="qwen2_vl")
    parser.add_argument("--size", choices=sorted(SIZES), default="mid")
    parser.add_argument("--vision-layers", type=int, help="other than the size's own, which is 8 for mid")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-share", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--name", help="of the result file; patch_sweep_<family> by default")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    size = SIZES[given.size]
    if given.vision_layers:
        size = MidSize(**{**vars(size), "vision_layers": given.vision_layers})
    device = device_named(given.device)
    adapter = midsize_adapter(given.family, size, device, given.dtype)
    result = {
        "benchmark": "patch_sweep",
        "family": given.family,
        "size": vars(size),
        "dtype": given.dtype,
        **measure(adapter, size, given.pairs, given.rounds, given.peer_share),
        **environment(device),
    }
    write(given.name or f"patch_sweep_{given.family}", result)
    for name, side in result["methods"].items():
        print(f"  {name}: {side['seconds']['median']} s ({side['seconds']['low']} to {side['seconds']['high']})")


if __name__ == "__main__":
    main()
