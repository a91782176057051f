"""One lock for a results folder: one workflow at a time, and none while jobs of a killed one still run.

The workflow holds ``.workflow.lock`` for itself. Its jobs share ``.jobs.lock``, which a killed workflow's jobs go on holding: the next
workflow waits until the last of them has ended, plans with what they have finished, and only then starts jobs of its own. A job that
begins late, when another workflow has taken over, sees that in ``.workflow.lock`` and ends. The kernel lets go of a lock when its
holder ends, however it ends. What proves both files necessary: ``tests/test_orphans.py``.
"""

import errno
import fcntl
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from vlm_spatial.errors import UserError
from vlm_spatial.files import remove_leftovers

VARIABLE = "VLM_SPATIAL_WORKFLOW"
"""What jobs find in their environment: the name of the run that started them, a blank, and its results folder."""
_WORKFLOW, _JOBS = ".workflow.lock", ".jobs.lock"
_PAUSE_S = 0.2


class InUseError(UserError):
    """Another workflow has the results."""


class UnwritableError(UserError):
    """The results' folder cannot be written."""


class WorkflowLock:
    """The right to change ``results``, for one workflow."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._file: _LockFile | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def take(self, say: Callable[[str], None], before_waiting: Callable[[], None] = lambda: None) -> None:
        """Have the results for this process and the jobs that it starts from now on; what killed writers left behind is removed.

        Args:
            say: tells the user what is waited for.
            before_waiting: called when no other workflow can start jobs any more, before jobs of an earlier one are waited for.

        Raises:
            InUseError: if another workflow has them.
            UnwritableError: if the folder cannot be written.
            UserError: if its file system has no locks, or by ``before_waiting``.
        """
        file = _LockFile(self._results / _WORKFLOW)
        if not file.take(fcntl.LOCK_EX | fcntl.LOCK_NB):
            owner = file.text().partition(", run")[0] or "unknown"
            file.close()
            raise InUseError(f"{self._results}: another workflow is using these results ({owner}); wait for it or end it")
        self._file = file
        try:
            self._begin(say, before_waiting)
        except BaseException:
            self.release()
            raise

    def _begin(self, say: Callable[[str], None], before_waiting: Callable[[], None]) -> None:
        assert self._file is not None
        name = uuid.uuid4().hex
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}, run {name}\n")
        before_waiting()
        with closing(_LockFile(self._results / _JOBS)) as jobs:
            if not jobs.take(fcntl.LOCK_EX | fcntl.LOCK_NB):
                running = ", ".join(_alive(jobs.text())) or "on other machines"
                say(f"waiting for jobs of an earlier workflow, which was killed: {running}; to go on at once, end them")
                while not jobs.take(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    time.sleep(_PAUSE_S)
            jobs.write("")
            remove_leftovers(self._results, depth=3)
        os.environ[VARIABLE] = f"{name} {self._results}"

    def release(self) -> None:
        """Let go, as the end of the process does."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def job_lock(stage: str, outputs: Iterable[Path]) -> Iterator[None]:
    """What a job holds while it works: a share in its workflow's results. A job started by hand takes them as a workflow does.

    Raises:
        InUseError: for a job started by hand, if a workflow is using the results.
        UserError: if the job's workflow has ended and another one has taken over.
    """
    run, _, folder = os.environ.get(VARIABLE, "").partition(" ")
    if not run:
        with _by_hand(outputs):
            yield
        return
    with closing(_LockFile(Path(folder, _JOBS))) as jobs:
        jobs.take(fcntl.LOCK_SH)
        # Only now: a workflow that takes over names itself first, and then waits for all who have a share.
        with closing(_LockFile(Path(folder, _WORKFLOW))) as owner:
            if f"run {run}\n" not in owner.text():
                raise UserError(f"{folder}: the workflow that started this job has ended and another one has begun; nothing is written")
        jobs.append(f"process {os.getpid()} on {socket.gethostname()} ({stage})\n")
        yield


@contextmanager
def _by_hand(outputs: Iterable[Path]) -> Iterator[None]:
    results = next((parent for path in outputs for parent in path.parents if (parent / _WORKFLOW).exists()), None)
    if results is None:
        yield
        return
    lock = WorkflowLock(results)
    lock.take(print)
    try:
        yield
    finally:
        lock.release()
        os.environ.pop(VARIABLE)


class _LockFile:
    """A file to lock; it stays, so that nobody locks a file that another one removes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Who may write the results may lock them: the umask says who that is.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o666)
        except OSError as error:
            raise self._unwritable(error) from error

    def take(self, kind: int) -> bool:
        """Whether this process has the lock now."""
        try:
            fcntl.flock(self._descriptor, kind)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            self.close()
            raise UserError(f"{self.path}: this file system has no locks ({error.strerror}); choose another results folder") from error
        return True

    def text(self) -> str:
        return os.pread(self._descriptor, 100_000, 0).decode(errors="replace")

    def write(self, text: str) -> None:
        """Put ``text`` in the place of what the file holds."""
        os.ftruncate(self._descriptor, 0)
        self.append(text)

    def append(self, text: str) -> None:
        try:
            os.write(self._descriptor, text.encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _unwritable(self, error: OSError) -> UnwritableError:
        return UnwritableError(
            f"{self.path}: cannot be written ({error.strerror}); make room, give the right to write, or choose another results folder"
        )


def _alive(text: str) -> Iterator[str]:
    """The jobs of this machine that still run, and all of other machines."""
    for line in text.splitlines():
        found = re.match(r"process (\d+) on (\S+)", line)
        if found and (found[2] != socket.gethostname() or Path("/proc", found[1]).exists()):
            yield line
