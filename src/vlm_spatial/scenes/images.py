"""Writing a dataset's images with all cores, the same whatever their number."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_spatial.progress import progress
from vlm_spatial.scenes.plan import image_path
from vlm_spatial.scenes.png import png

# Fewer images than this are drawn before a second process has started.
_WORTH_A_POOL = 400
_CHUNK = 50


def write_images(folder: Path, drawings: Mapping[str, Any], draw: Callable[[Any], Image.Image], workers: int | None = None) -> None:
    """Draw every scene and write it as PNG below ``folder``.

    Args:
        drawings: what to draw, by scene id.
        draw: a module-level function (it runs in other processes).
        workers: processes; by default the cores this process may use, one for few images.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    items = list(drawings.items())
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    count = workers or (len(os.sched_getaffinity(0)) if len(items) >= _WORTH_A_POOL else 1)
    if count == 1:
        for chunk in progress(chunks, "images"):
            _write(folder, chunk, draw)
        return
    # Forking a process that holds thread pools can deadlock.
    spawn = multiprocessing.get_context("spawn")
    # Left alone, the processes of a pool outlive a parent that was killed.
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_end_with_parent) as pool:
        done = pool.map(_write, [folder] * len(chunks), chunks, [draw] * len(chunks))
        for _ in progress(done, "images", total=len(chunks)):
            pass


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write(folder: Path, items: Sequence[tuple[str, Any]], draw: Callable[[Any], Image.Image]) -> None:
    for scene_id, drawing in items:
        (folder / image_path(scene_id)).write_bytes(png(draw(drawing)))
