"""A job ends when the workflow that started it has: an orphan would compete with the jobs of the next run."""

import os
import sys
import threading
import time
from pathlib import Path

_VARIABLE = "VLM_SPATIAL_WORKFLOW"
_PAUSE_S = 0.5


def lead() -> None:
    """Make this process the one that the jobs it starts depend on."""
    os.environ[_VARIABLE] = _alive(os.getpid())


def follow() -> None:
    """End this process soon after the one that called :func:`lead` has ended, or the shell between them.

    Does nothing for a job started by hand, inside a container that cannot see its leader, or where there is no ``/proc``.
    """
    leader, parent = os.environ.get(_VARIABLE, ""), os.getppid()
    number = leader.partition(" ")[0]
    if not leader or _alive(int(number)) != leader:
        return

    def watch() -> None:
        while _alive(int(number)) == leader and os.getppid() == parent:
            time.sleep(_PAUSE_S)
        print("the workflow that started this job has ended, and so does the job", file=sys.stderr, flush=True)
        # Not sys.exit: nothing of this job may be finished or renamed any more.
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def _alive(process: int) -> str:
    """``"number start-time"`` of a process, which no later process shares; the empty string if there is none."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    # The name of the command, in brackets, may hold blanks. State Z is a process that has ended.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{process} {fields[19]}"
