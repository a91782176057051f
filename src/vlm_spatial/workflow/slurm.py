"""What a workflow that was killed has left in SLURM's queue.

The jobs of a killed workflow live on, and those that still wait would start later. A workflow that is started again submits the same
jobs anew, so the old ones have to be gone first: otherwise two jobs would write one result.
"""

import re
import subprocess
import time
from pathlib import Path

from vlm_spatial.errors import UserError

# snakemake-executor-plugin-slurm names every job after the run: a UUID, with a prefix if one is set.
_RUN = re.compile(r"(?:[A-Za-z0-9_-]{1,50}_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def left_over(folder: Path) -> list[str]:
    """Numbers of this user's jobs, waiting, running or ending, that Snakemake submitted from ``folder``.

    Raises:
        UserError: if SLURM cannot be asked.
    """
    rows = (line.split("|", 2) for line in _slurm("squeue", "--me", "--noheader", "--format=%A|%j|%Z").splitlines())
    return sorted({job for job, name, where in rows if _RUN.fullmatch(name) and Path(where) == folder}, key=int)


def cancel_left_over(folder: Path, patience_s: float = 300) -> list[str]:
    """Cancel the jobs that an earlier run left behind and wait until each has ended; returns their numbers.

    Call it only while no other workflow runs in ``folder`` (Snakemake holds its lock).

    Raises:
        UserError: if SLURM cannot be asked, or if a job has not ended after ``patience_s`` seconds.
    """
    cancelled = left_over(folder)
    if cancelled:
        _slurm("scancel", *cancelled)
    deadline = time.monotonic() + patience_s
    while still := left_over(folder):
        if time.monotonic() > deadline:
            raise UserError(f"SLURM jobs {' '.join(still)} of an earlier run do not end; end them (scancel, then squeue) before a new run")
        time.sleep(1)
    return cancelled


def _slurm(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: not found; the slurm executor needs SLURM's commands on this machine") from error
    if done.returncode != 0:
        raise UserError(f"{command[0]}: {done.stderr.strip() or done.returncode}; jobs of an earlier run cannot be looked for")
    return done.stdout
