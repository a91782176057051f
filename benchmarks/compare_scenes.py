"""Drawing scenes, in rounds: ``python -m benchmarks.compare_scenes``. No peer draws any; every round must give the same bytes."""

import argparse
import os
from typing import Any

import torch
from benchmarks.measure import environment, spread, write
from benchmarks.patch_sweep import OURS
from benchmarks.scenes import measure

KINDS = ("squares", "shapes", "objects")


def compare(scenes: int, workers: int, rounds: int) -> dict[str, Any]:
    kinds = {}
    for kind in KINDS:
        found = [measure(kind, scenes, workers, None) for _ in range(rounds)]
        if len({one["sha256"] for one in found}) > 1:
            raise SystemExit(f"{kind}: the rounds drew different images; the times would mean nothing")
        rate = [float(str(one["scenes"])) / max(float(str(one["seconds"])), 0.05) for one in found]
        kinds[kind] = {"scenes_per_second": spread(rate), "bytes_per_scene": found[0]["bytes_per_scene"]}
        print(f"  {kind} done", flush=True)
    none = "draws no scenes"
    reasons = {"nnsight": none, "pyvene": none, "transformer-lens": none, "vlm-lens": none}
    return {"scenes": scenes, "workers": workers, "kinds": kinds, "methods": {OURS: {}}, "unsupported": reasons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    result = compare(given.scenes, given.workers, given.rounds)
    write("scenes", {"benchmark": "scenes", **result, **environment(torch.device("cpu"))})


if __name__ == "__main__":
    main()
