"""How much memory is free, and how much a piece of work takes."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes free on a device; for the CPU, what this machine and this process's control group leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text(encoding="utf-8").strip() != "max":
        available = min(available, int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")))
    return max(available, 0)


def measured_growth(work: Callable[[int], object], device: torch.device) -> int:
    """Bytes that one image more adds to the peak of ``work(images)``, found with one and with two images.

    On a CPU it is the growth of the process, read every millisecond, at least: the allocator may have had room left.
    """
    work(1)
    peaks = []
    for images in (1, 2):
        with _Peak(device) as peak:
            work(images)
        peaks.append(peak.bytes)
    # Where the second image found room that the first had left, all of the peak is taken to be its own.
    return max(peaks[1] - peaks[0], peaks[1] // 2)


class _Peak:
    """How far memory in use rises above what it was on entering; a context manager."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._done = threading.Event()
        self.bytes = 0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = self._process.memory_info().rss
            self._watch = threading.Thread(target=self._sample, daemon=True)
            self._watch.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.001):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        else:
            self._done.set()
            self._watch.join()
