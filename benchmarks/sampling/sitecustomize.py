"""Samples what a process does, in every Python process that has this folder on its path and ``PROFILE_FOLDER`` set.

A thread looks at the stacks of all threads a hundred times a second and adds the time since its last look to one kind. Time in which
any thread is in model compute is model compute, whatever the main thread does meanwhile (prepare the next inputs, write the last
results). Else it is what the main thread does; where that only waits for another thread, what the other one does. At exit the sums go to
a file in ``PROFILE_FOLDER``. Only the standard library: nothing that is to be measured is imported here.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

INTERVAL = 0.01
COMPUTE = "model compute"
OTHER = "other Python"
# The first rule with a frame of that file (and function, if given) anywhere on the stack decides.
RULES = (
    ("importing", "<frozen importlib", ""),
    ("loading the model", "vlm_spatial/models/load.py", ""),
    ("loading the model", "vlm_spatial/models/organisms/resume.py", ""),
    ("checksums", "vlm_spatial/workflow/provenance.py", ""),
    ("checksums", "vlm_spatial/workflow/code_identity.py", ""),
    ("checksums", "vlm_spatial/models/weights.py", ""),
    (COMPUTE, "torch/nn/modules/module.py", "_call_impl"),
    (COMPUTE, "torch/autograd/", ""),
    (COMPUTE, "torch/optim/", ""),
    ("preparing inputs", "vlm_spatial/models/inputs.py", ""),
    ("preparing inputs", "PIL/", ""),
    ("writing", "vlm_spatial/activations/writer.py", ""),
    ("writing", "vlm_spatial/activations/shards.py", ""),
    ("writing", "vlm_spatial/files.py", ""),
    ("reading", "vlm_spatial/activations/store.py", ""),
)


def kind_of(frame: object) -> str:
    """The kind of a stack."""
    places = []
    while frame is not None:
        code = frame.f_code  # type: ignore[attr-defined]
        places.append((code.co_filename, code.co_name))
        frame = frame.f_back  # type: ignore[attr-defined]
    for kind, part, function in RULES:
        if any(part in file and function in name for file, name in places):
            return kind
    return OTHER


def kind_of_all(main: object, others: Iterable[object]) -> str:
    """The kind of a moment, from the main thread's stack and those of the others."""
    own = kind_of(main)
    # Imports, loading and checksums call modules, too, and are none of the model's compute.
    kinds = {kind_of(frame) for frame in others}
    if COMPUTE in (own, *kinds):
        return COMPUTE
    if own == OTHER and _waits(main):
        return next((kind for kind, _, _ in RULES if kind in kinds), OTHER)
    return own


def _waits(frame: object) -> bool:
    """Whether a thread waits for another one: for a lock, a condition, a future or a thread's end."""
    return frame is not None and frame.f_code.co_filename.endswith("/threading.py")  # type: ignore[attr-defined]


def sample(sums: dict[str, float], main: int, stop: threading.Event) -> None:
    """Sample until ``stop`` is set."""
    last = time.perf_counter()
    own = threading.get_ident()
    while not stop.wait(INTERVAL):
        frames = sys._current_frames()
        now = time.perf_counter()
        kind = kind_of_all(frames.pop(main, None), [frame for thread, frame in frames.items() if thread != own])
        sums[kind] = sums.get(kind, 0.0) + now - last
        last = now


def start(folder: Path) -> None:
    """Start sampling and say at exit what was found."""
    sums: dict[str, float] = {}
    began = time.time()
    stop = threading.Event()
    sampler = threading.Thread(target=sample, args=(sums, threading.main_thread().ident or 0, stop), daemon=True)
    sampler.start()

    def write() -> None:
        # A thread that wakes while the interpreter is taken down would abort the process.
        stop.set()
        sampler.join()
        ended = time.time()
        path = folder / f"{os.getpid()}-{began:.3f}.json"
        path.write_text(json.dumps({"arguments": sys.orig_argv, "began": began, "ended": ended, "kinds": dict(sums)}), encoding="utf-8")

    atexit.register(write)


if "PROFILE_FOLDER" in os.environ:
    start(Path(os.environ["PROFILE_FOLDER"]))
