"""Time of drawing and writing scenes: ``python benchmarks/scenes.py --scenes 10000 --workers 2``.

Prints one JSON line a kind, with the seconds, scenes a second, bytes a scene, and a checksum over all images, which must not depend
on the number of workers. The target is 10,000 scenes in 60 seconds on 2 cores. ``-noisy`` kinds have small objects, noise,
clutter and marks, ``-blurred`` ones blur as well.
``whatsup`` cuts and merges photos: those below ``--root`` (a folder in What'sUp's format), else of a made set; it has as many scenes as
the photos give, and ``seconds_for_10000`` is in proportion.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.photo_dataset import plan_photos
from vlm_spatial.scenes.photo_merges import draw_photo
from vlm_spatial.scenes.plan import plan_scenes

NOISY = {"object_size": [0.08, 0.16], "distractors": 12, "clutter": 8, "noise": 0.08}
DIFFICULTY: dict[str, dict[str, Any]] = {"": {}, "noisy": NOISY, "blurred": {**NOISY, "blur": 1.0}}
KINDS = ("squares", "shapes", "objects", "squares-noisy", "shapes-noisy", "objects-noisy", "objects-blurred", "whatsup")


def measure(kind: str, scenes: int, workers: int, root: Path | None) -> dict[str, object]:
    """Plan, draw and write ``scenes`` scenes of one kind."""
    started = time.perf_counter()
    drawings, draw = _photos(scenes, root) if kind == "whatsup" else _rendered(kind, scenes)
    planned = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), drawings, draw, workers)
        seconds = time.perf_counter() - started
        contents = [path.read_bytes() for path in sorted(Path(name, "images").iterdir())]
    return {
        "kind": kind,
        "scenes": len(drawings),
        "workers": workers,
        "seconds": round(seconds, 1),
        "seconds_planning": round(planned, 1),
        "seconds_for_10000": round(seconds / len(drawings) * 10_000, 1),
        "bytes_per_scene": sum(map(len, contents)) // len(drawings),
        "sha256": hashlib.sha256("".join(hashlib.sha256(content).hexdigest() for content in contents).encode()).hexdigest()[:16],
    }


def _rendered(kind: str, scenes: int) -> tuple[Mapping[str, Any], Callable[[Any], Any]]:
    name, _, difficulty = kind.partition("-")
    values = {
        "kind": name,
        "axes": ["horizontal"],
        "scenes": {"train": max(1, scenes - 3), "validation": 1, "test": 1},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
        "difficulty": DIFFICULTY[difficulty],
    }
    planned = plan_scenes(dataset_settings(values), seed=0)
    return {item.scene_id: item.scene for item in planned}, render


def _photos(scenes: int, root: Path | None) -> tuple[Mapping[str, Any], Callable[[Any], Any]]:
    values = {"kind": "whatsup", "root": str(root or _made()), "scenes": {"train": scenes, "validation": scenes, "test": scenes}}
    drawings = plan_photos(dataset_settings(values), seed=0).drawings
    return dict(list(drawings.items())[:scenes]), draw_photo


def _made() -> Path:
    """The tests' own photo set, made anew; making it is no part of what is timed elsewhere, but here it is small."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from photo_set import write_photo_set

    root = Path(tempfile.mkdtemp(prefix="photos-"))
    write_photo_set(root)
    return root


def main() -> None:
    """Measure every kind asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--root", type=Path, help="whatsup: the folder that holds data/controlled_clevr_dataset.json")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        print(json.dumps(measure(kind, arguments.scenes, arguments.workers, arguments.root)), flush=True)


if __name__ == "__main__":
    main()
