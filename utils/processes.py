"""Processes that this one begins and that do not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl if sys.platform.startswith("linux") else None
ORPHANED = 75  # what a process exits with that finds its parent gone


class Child:
    """A process in a session of its own: Ctrl-C reaches it through this one only.

    Args:
        command: program and arguments.
        options: as of ``subprocess.Popen``.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )

    @property
    def pid(self) -> int:
        """Its number, and that of its session."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal's number; None until then."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """The exit code, once it has ended; None where that takes longer."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self) -> None:
        """SIGTERM, for a checkpoint."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, for it and what it has begun; returns when it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def die_with(parent: int, number: int) -> None:
    """Have the signal sent to this process when ``parent``, which began it, dies.

    Nothing where the system is not Linux. Exits at once where the parent is gone already.
    """
    if _PRCTL is None:
        return
    _PRCTL(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died in between
        os._exit(ORPHANED)
