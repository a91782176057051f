"""Time of drawing and writing scenes: ``python benchmarks/scenes.py --scenes 10000 --workers 2``.

Prints one JSON line a kind, with the seconds, scenes a second, bytes a scene, and a checksum over all images, which
must not depend on the number of workers. The target is 10,000 scenes in 60 seconds on 2 cores.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.plan import plan_scenes


def measure(kind: str, scenes: int, workers: int) -> dict[str, object]:
    """Plan, draw and write ``scenes`` scenes of one kind."""
    values = {
        "kind": kind,
        "axes": ["horizontal"],
        "scenes": {"train": max(1, scenes - 3), "validation": 1, "test": 1},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
    }
    started = time.perf_counter()
    planned = plan_scenes(DatasetSettings.model_validate(values), seed=0)
    with tempfile.TemporaryDirectory() as name:
        checksums = write_images(Path(name), {item.scene_id: item.scene for item in planned}, render, workers)
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(name, "images").iterdir())
    return {
        "kind": kind,
        "scenes": len(planned),
        "workers": workers,
        "seconds": round(seconds, 1),
        "scenes_per_second": round(len(planned) / seconds),
        "bytes_per_scene": size // len(planned),
        "sha256": hashlib.sha256("".join(checksums[name] for name in sorted(checksums)).encode()).hexdigest()[:16],
    }


def main() -> None:
    """Measure every kind asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=["squares", "shapes", "objects"])
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        print(json.dumps(measure(kind, arguments.scenes, arguments.workers)), flush=True)


if __name__ == "__main__":
    main()
