"""One lock for a results folder: one workflow at a time, and none while jobs of a killed one still run.

The workflow holds ``.workflow.lock`` for itself. Its jobs share ``.jobs.lock``, which a killed workflow's jobs go on holding: the next
workflow waits until the last of them has ended, plans with what they have finished, and only then starts jobs of its own. A job that
begins late, when another workflow has taken over, sees that in ``.workflow.lock`` and ends: so do jobs that a killed workflow has left in
a cluster's queue. The kernel lets go of a lock when its holder ends, however it ends. What proves both files necessary:
``tests/test_orphans.py``, on a cluster ``tests/slurm/test_faults.py``.
"""

import fcntl
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from vlm_spatial.errors import UserError
from vlm_spatial.files import remove_leftovers

VARIABLE = "VLM_SPATIAL_WORKFLOW"
"""What jobs find in their environment: the name of the run that started them, a blank, and its results folder."""
_WORKFLOW, _JOBS = ".workflow.lock", ".jobs.lock"


class WorkflowLock:
    """The right to change ``results``, for one workflow."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._file: FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def take(self, say: Callable[[str], None]) -> None:
        """Have the results for this process and the jobs that it starts from now on; what killed writers left behind is removed.

        Args:
            say: tells the user what is waited for.

        Raises:
            UserError: if another workflow has them, the folder cannot be written or its file system has no locks.
        """
        try:
            file = _opened(self._results / _WORKFLOW)
            if not _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                owner = _text(file).partition(", run")[0] or "unknown"
                raise UserError(f"{self._results}: another workflow is using these results ({owner}); wait for it or end it")
            name = uuid.uuid4().hex
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, run {name}\n".encode())
            with _opened(self._results / _JOBS) as jobs:
                if not _locked(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    running = ", ".join(_alive(_text(jobs))) or "on other machines"
                    say(f"waiting for jobs of an earlier workflow, which was killed: {running}; to go on at once, end them")
                    _locked(jobs, fcntl.LOCK_EX)
                jobs.truncate(0)
                remove_leftovers(self._results, depth=3)
        except OSError as error:
            raise UserError(
                f"{error.filename or self._results}: cannot be written ({error.strerror}); make room, give the right to write, "
                "or choose another results folder"
            ) from error
        self._file = file
        os.environ[VARIABLE] = f"{name} {self._results}"

    def release(self) -> None:
        """Let go, as the end of the process does."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def job_lock(what: str) -> Iterator[None]:
    """What a job holds while it works: a share in its workflow's results; nothing where it is started by hand.

    Args:
        what: the stage, for those who wait.

    Raises:
        UserError: if the job's workflow has ended and another one has taken over.
    """
    run, _, folder = os.environ.get(VARIABLE, "").partition(" ")
    if not run:
        yield
        return
    with _opened(Path(folder, _JOBS)) as jobs:
        _locked(jobs, fcntl.LOCK_SH)
        # Only now: a workflow that takes over names itself first, and then waits for all who have a share.
        with _opened(Path(folder, _WORKFLOW)) as owner:
            if f"run {run}\n" not in _text(owner):
                raise UserError(f"{folder}: the workflow that started this job has ended and another one has begun; nothing is written")
        submitted = f", SLURM job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
        jobs.write(f"process {os.getpid()} on {socket.gethostname()} ({what}{submitted})\n".encode())
        yield


def _opened(path: Path) -> FileIO:
    """A file to lock; it stays, so that nobody locks a file that another one removes. What is written goes to its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileIO(path, "a+")


def _locked(file: FileIO, kind: int) -> bool:
    """Whether this process has the lock now."""
    try:
        fcntl.flock(file, kind)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise UserError(f"{file.name}: this file system has no locks ({error.strerror}); choose another results folder") from error
    return True


def _text(file: FileIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _alive(text: str) -> Iterator[str]:
    """The jobs of this machine that still run, and all of other machines."""
    for line in text.splitlines():
        found = re.match(r"process (\d+) on (\S+)", line)
        if found and (found[2] != socket.gethostname() or Path("/proc", found[1]).exists()):
            yield line
