"""The lock of a run's folder: who holds it is at the run. Whether a run goes on or is lost."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

from utils.results.folder import naming

ATTEMPTS = 3
SILENCE = timedelta(minutes=5)  # ten heartbeats


class BusyError(Exception):
    """Another process is at this run."""


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the run's lock; the system drops it when the process dies, however it dies.

    Raises BusyError when another process holds it, OSError, naming it, when it cannot be written
    or the file system has no locks.
    """
    with (path / "lock").open("a+") as file:
        with naming(path / "lock"):
            if not _taken(file):
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise BusyError(f"{path.name} is being run by {owner}: nothing done here")
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"{socket.gethostname()} (pid {os.getpid()})\n".encode())
        yield


def is_free(path: Path) -> bool:
    """Whether a run's lock is there and nobody holds it; False where that cannot be told."""
    try:
        with (path / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_free_here(host: str, path: Path) -> bool:
    """Whether a run's lock is known to be free: by its own host only, which is where it counts."""
    return host == socket.gethostname() and is_free(path)


def shown_status(status: str, heartbeat: str, now: datetime, lock_is_free: bool = False) -> str:
    """The status; ``lost`` for a run that says it is running, and is not.

    That is one whose lock is free, or that has not been heard of lately.
    """
    if status != "running":
        return status
    if lock_is_free:
        return "lost"
    try:
        silent = now - datetime.fromisoformat(heartbeat) > SILENCE
    except (ValueError, TypeError):  # none, or no time at all
        silent = True
    return "lost" if silent else status


def _taken(file: TextIO) -> bool:
    """Take the lock; tries again, for ``is_free`` holds it for a moment."""
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt < ATTEMPTS - 1:
                time.sleep(0.05)
    return False
