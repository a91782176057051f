"""What each process pays for loading one checkpoint, the first and those after it: ``python -m benchmarks.loading --processes 3``.

The checkpoint has random weights (Qwen2-VL, 137 M parameters) and lies on the disk, outside the page cache. Each process loads it as a
stage does. At last, two have it at the same time: ``weights held`` is then half of the file where both use one copy. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.extraction import MODELS

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.models import load as module
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.weights import SINGLE
from vlm_spatial.scenes.questions import vocabulary

PARTS = {"identity_with_peft": "identity", "_model": "weights", "self_check": "self-check"}


def load(folder: str, wait: bool) -> None:
    """Load a checkpoint and print what it took, in MB and seconds of processor time; then hold it until the input ends."""
    spent = {"imports": time.process_time()}

    def timed(name: str) -> Any:
        work = getattr(module, name)

        def run(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                spent[PARTS[name]] = time.process_time() - started

        return run

    read = _counter("/proc/self/io", "read_bytes:")
    with mock.patch.multiple(module, **{name: timed(name) for name in PARTS}):
        adapter = module.load_adapter(folder, device="cpu")
    weights = sum(parameter.numel() for parameter in adapter.model.parameters()) / 1e6
    mapped = Path("/proc/self/smaps").read_text(encoding="utf-8").split(SINGLE, 1)[1]
    held = int(mapped.split("Pss:", 1)[1].split()[0]) / 1000
    disk = (_counter("/proc/self/io", "read_bytes:") - read) / 1e6
    print(json.dumps({"MB from disk": disk, "MB of weights held": held, **spent, "million parameters": weights}), flush=True)
    if wait:
        sys.stdin.read()


def _counter(file: str, name: str) -> int:
    return int(Path(file).read_text(encoding="utf-8").split(name, 1)[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        load(given.load, given.wait)
        return
    with tempfile.TemporaryDirectory() as temporary:
        family, size = MODELS["qwen2_vl"]
        folder = new_checkpoint(Path(temporary) / "checkpoint", family, vocabulary(dataset_settings(kind="squares")), size=size)
        weights = os.open(folder / SINGLE, os.O_RDONLY)
        os.fsync(weights)
        os.posix_fadvise(weights, 0, 0, os.POSIX_FADV_DONTNEED)
        print(f"weights: {os.fstat(weights).st_size / 1e6:.0f} MB")
        command = [sys.executable, "-m", "benchmarks.loading", "--load", str(folder)]
        where = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)}

        def show(label: str) -> None:
            done = subprocess.run(command, cwd=temporary, env=where, check=True, stdout=subprocess.PIPE, encoding="utf-8")
            numbers = json.loads(done.stdout)
            print(f"{label}: " + ", ".join(f"{name} {value:.2f}" for name, value in numbers.items()), flush=True)

        for number in range(given.processes):
            show(f"process {number + 1}")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([*command, "--wait"], cwd=temporary, env=where, encoding="utf-8", **pipes) as other:
            assert other.stdout is not None
            other.stdout.readline()
            show("beside another")
            other.communicate()


if __name__ == "__main__":
    main()
