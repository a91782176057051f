"""One owner for what is being written: a lock that an orphaned process cannot get past."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from vlm_spatial.errors import UserError
from vlm_spatial.workflow.parent_watch import end_if_orphaned

_TAKEN = (errno.EACCES, errno.EAGAIN)
_PAUSE_S = 0.2


class InUseError(UserError):
    """Another process owns the target."""


class Ownership:
    """The right to write ``target``, held by at most one process; a context manager.

    The lock file stands beside the target. The kernel lets go of the lock when its holder dies, however it dies.

    Args:
        what: what the error calls the target.
        patience: seconds to wait for another process to let go.

    Raises:
        InUseError: on entering, if another process holds the lock.
        UserError: on entering, if the file system has no locks, or if it cannot be written.
    """

    def __init__(self, target: Path, what: str = "this store", patience: float = 0.0) -> None:
        self._what, self._patience = what, patience
        self.path = target.with_name(f".{target.name}.lock")
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._take()
        except OSError as error:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, give the right to write, or choose another results folder"
            ) from error
        return self

    def _take(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + self._patience
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                if error.errno in _TAKEN and time.monotonic() < until:
                    time.sleep(_PAUSE_S)
                    continue
                if error.errno in _TAKEN:
                    raise InUseError(f"{self.path}: another process is writing {self._what} ({owner}); end it or wait for it") from error
                raise UserError(f"{self.path}: this file system has no locks ({error.strerror}); choose another results folder") from error
            self._descriptor = descriptor
            if self.held():
                break
            # The former owner removed the file between our open and our lock.
            os.close(descriptor)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def held(self) -> bool:
        """Whether this process has the lock, and the locked file is still the one at the lock's path."""
        if self._descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Call before every change to what is owned; an orphan ends here.

        Raises:
            UserError: if the lock was taken away (its file was removed or replaced).
        """
        end_if_orphaned()
        if not self.held():
            raise UserError(f"{self.path}: the lock was removed and another process may own the store; nothing more is written")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.held():
            self.path.unlink()
        os.close(self._descriptor)
