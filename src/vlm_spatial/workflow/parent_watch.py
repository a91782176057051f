"""A job ends when the workflow that started it has: an orphan would compete with the jobs of the next run.

A thread looks every half second. What counts is the look right before a result is made final (:func:`end_if_orphaned`): an orphan
may work a moment longer, it finishes nothing.
"""

import atexit
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = "VLM_SPATIAL_WORKFLOW"
_PAUSE_S = 0.5


@dataclass(frozen=True)
class _Bond:
    """Whom ``process`` depends on: its ``parent``, and the ``leader``, ``"number start-time"``."""

    process: int
    leader: str
    parent: int

    def holds(self) -> bool:
        return os.getppid() == self.parent and _alive(int(self.leader.partition(" ")[0])) == self.leader


_bond: _Bond | None = None


def lead() -> None:
    """Make this process the one that the jobs it starts depend on."""
    name = own_name()
    os.environ[_VARIABLE] = f"{name} {_processes()}" if name else ""


def follow() -> None:
    """End this process soon after the one that called :func:`lead` has ended, or the shell between them; now, if it already has.

    Does nothing for a job started by hand, inside a container that cannot see its leader, or where there is no ``/proc``.
    """
    leader, _, processes = os.environ.get(_VARIABLE, "").rpartition(" ")
    if leader and processes and processes == _processes():
        _bind(_Bond(os.getpid(), leader, os.getppid()))


def follow_parent(name: str) -> None:
    """For a process of a pool, which nothing else ends: as :func:`follow`, for the parent whose :func:`own_name` is ``name``."""
    if name:
        _bind(_Bond(os.getpid(), name, int(name.partition(" ")[0])))


def own_name() -> str:
    """``"number start-time"`` of this process, which no later process shares; the empty string where there is no ``/proc``."""
    return _alive(os.getpid())


def end_if_orphaned() -> None:
    """Call right before anything that makes a result final. Does nothing for a process that follows nobody."""
    # A forked child has the bond of its parent, which is not its own.
    if _bond is None or _bond.process != os.getpid() or _bond.holds():
        return
    print("the workflow that started this job has ended, and so does the job", file=sys.stderr, flush=True)
    # Not sys.exit: nothing of this job may be finished or renamed any more.
    os._exit(1)


def _bind(bond: _Bond) -> None:
    global _bond
    _bond = bond
    end_if_orphaned()

    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_PAUSE_S):
            end_if_orphaned()

    watcher = threading.Thread(target=watch, daemon=True, name="parent watch")
    watcher.start()

    def let_go() -> None:
        # A thread that wakes while the interpreter is taken down would abort the process, its work done.
        stop.set()
        watcher.join()

    atexit.register(let_go)


def _processes() -> str:
    """Where the numbers of processes mean what they mean here: this start of this machine, and the container, if any."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _alive(process: int) -> str:
    """The name of a process, as :func:`own_name`; the empty string if it has ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    # The name of the command, in brackets, may hold blanks. State Z is a process that has ended.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{process} {fields[19]}"
