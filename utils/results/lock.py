"""The lock of a run's folder: who holds it is at the run."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(Exception):
    """Another process is at this run."""


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the run's lock; the system drops it when the process dies, however it dies.

    Raises BusyError when another process holds it, OSError when the folder cannot be written.
    """
    with (path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise BusyError(f"{path.name} is being run by {owner}: nothing done here") from None
        file.truncate(0)
        file.write(f"{socket.gethostname()} (pid {os.getpid()})\n")
        file.flush()
        yield
