"""Jobs of the scenes stage to kill: some stop themselves where a test wants them, so that no machine is too fast or too slow for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from PIL import Image

from vlm_spatial.workflow.provenance import read_record

# Only so that a hang is an error: ten times what a slow, busy machine needs.
PATIENCE_S = 1800
SCENES = {
    "kind": "squares",
    "axes": ["horizontal"],
    "scenes": {"train": 150, "validation": 4, "test": 4},
    "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
    "pairs": {"vision": 0, "language": 0, "conflict": 0},
}

# The stage, but stopped (SIGSTOP) once it has written everything and renamed nothing.
STOPS_BEFORE_THE_END = """
import os, signal
from vlm_spatial.stages import scenes

def write_contact_sheet(*given, write=scenes.write_contact_sheet, **named):
    write(*given, **named)
    os.kill(os.getpid(), signal.SIGSTOP)

scenes.write_contact_sheet = write_contact_sheet
scenes.run_stage("scenes", scenes.scenes)
"""


def scenes_command(folder: Path, code: str | None = None) -> list[str]:
    """The job that draws `folder`, or the same with `code` in the stage's place."""
    settings = {"dataset": SCENES, "name": "many", "seed": 0}
    program = ["-m", "vlm_spatial.stages.scenes"] if code is None else ["-c", code]
    return [sys.executable, *program, "--settings", repr(settings), "--output", f"folder={folder}"]


def made(folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(scenes_command(folder), capture_output=True, encoding="utf-8", check=False, **options)  # type: ignore[call-overload]


def holds(folder: Path) -> dict[str, str]:
    """The checksum of each file, as recorded."""
    record = read_record(folder)
    assert record is not None
    return {name: record.sha256 for name, record in record.files.items()}


def drawn_forever(folder: str) -> Image.Image:
    """A drawing that is never done; a file in `folder` tells which process is at it."""
    Path(folder, f"drawn-by-process.{os.getpid()}").touch()
    while True:
        time.sleep(1)


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def is_stopped(process: psutil.Process) -> bool:
    """Whether SIGSTOP has reached it; an end is an error."""
    assert not has_ended(process), "ended before it was stopped"
    return process.status() == psutil.STATUS_STOPPED


def has_ended(process: psutil.Process) -> bool:
    """Also if nobody asked for its exit status: not every container has somebody who does."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
