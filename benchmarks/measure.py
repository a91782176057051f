"""What every benchmark shares: rounds that take turns, clocks, peak memory, operations, calls, and the JSON file they end in.

Results are compared after every round, and times are handed out only when all rounds agreed: a fast wrong answer has no time.
"""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlm_spatial.models.adapter import Adapter

RESULTS = Path(__file__).parent / "results"
PEERS = ("nnsight", "pyvene", "transformer-lens", "scikit-learn")
PACKAGES = ("torch", "transformers", "numpy", "zarr", *PEERS)
Result = TypeVar("Result")
_MB = 1024**2


class Unsupported(Exception):  # noqa: N818 - an outcome that the table shows, not a failure
    """A library cannot do this; the message says why, as the library itself says it."""


def version(package: str) -> str | None:
    """Installed version, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a result was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "device_name": name,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1024**3, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def wait_for(device: torch.device) -> None:
    """Kernels on a GPU run behind the program; clocks have to wait for them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Peak:
    """Peak memory of a stretch of work above what was held before it, in MB: of the GPU if that is the device, else of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            # Memory that an earlier round freed goes back to the system, or it would hide what this one takes.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            self.before = _status("VmRSS")

    def megabytes(self) -> float:
        now = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")
        return round((now - self.before) / _MB, 1)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, dict[str, float]]:
    """What ``work`` returns; its seconds by the clock, of processor in all threads, and its peak memory in MB."""
    peak = Peak(device)
    wait_for(device)
    started, used = time.perf_counter(), time.process_time()
    result = work()
    wait_for(device)
    taken = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - used}
    return result, {**taken, "peak_mb": peak.megabytes()}


def rounds_of(
    sides: Mapping[str, Callable[[int], Result]],
    rounds: int,
    check: Callable[[dict[str, Result], int], dict[str, float]],
    device: torch.device,
    tolerance: float,
) -> dict[str, dict[str, Any]]:
    """Run all sides in turn, ``rounds`` times, each round in another order.

    Args:
        sides: what each does in the round of that number.
        check: the sides' results of one round, and its number → how far each is from the reference, relative.
        tolerance: the largest distance allowed.

    Returns:
        for every side: summaries of ``seconds``, ``processor_seconds`` and ``peak_mb`` over the rounds, and ``difference``.

    Raises:
        SystemExit: if results differ; no time is given then.
    """
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    apart: dict[str, float] = dict.fromkeys(sides, 0.0)
    names = list(sides)
    for number in range(rounds):
        results = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name], measured = timed(partial(sides[name], number), device)
            for key, value in measured.items():
                taken[name].setdefault(key, []).append(value)
            print(f"  round {number + 1} of {rounds}: {name} done", flush=True)
        for name, distance in check(results, number).items():
            apart[name] = max(apart[name], distance)
            if not distance <= tolerance:
                raise SystemExit(f"{name}: results differ by {distance:.1e} (allowed {tolerance:.0e}); the times would mean nothing")
    return {name: {**{key: spread(values) for key, values in taken[name].items()}, "difference": apart[name]} for name in sides}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the rounds."""
    return {"median": _short(statistics.median(values)), "low": _short(min(values)), "high": _short(max(values))}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def scaled(side: dict[str, Any], factor: float) -> dict[str, Any]:
    """A side that did a part of the work, its times scaled to the whole; memory stays."""
    return {
        key: {name: _short(number * factor) for name, number in value.items()} if key in ("seconds", "processor_seconds") else value
        for key, value in side.items()
    }


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    # torch leaves attention on a CPU out, and refuses it on a GPU where queries have more heads than keys.
    attention = {getattr(torch.ops.aten, name): _attention_operations for name in _ATTENTION if hasattr(torch.ops.aten, name)}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        work()
    return counter.get_total_flops()


_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


def _attention_operations(query: list[int], key: list[int], value: list[int], *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


@contextmanager
def counted(adapter: Adapter) -> Iterator[Counter[str]]:
    """Counts calls of vision and language blocks, and the positions that each computed (``language_positions``)."""
    counter: Counter[str] = Counter()

    def hook_for(part: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            counter[f"{part}_calls"] += 1
            counter[f"{part}_positions"] += output.shape[:-1].numel()

        return hook

    handles = [block.register_forward_hook(hook_for("vision")) for block in adapter.vision_blocks]
    handles += [block.register_forward_hook(hook_for("language")) for block in adapter.language_blocks]
    try:
        yield counter
    finally:
        for handle in handles:
            handle.remove()


def write(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write one benchmark's result to ``folder/<name>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"  {path}", flush=True)
    return path


def device_named(name: str) -> torch.device:
    """``auto``: a GPU if there is one."""
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
