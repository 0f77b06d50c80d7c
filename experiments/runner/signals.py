"""What asks a run for a checkpoint: SIGTERM, SIGUSR1, Ctrl-C and the end of its time.

The second Ctrl-C does not wait for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.startup import stop


class InterruptedRunError(BaseException):
    """A signal stopped the run; its checkpoint is written.

    No Exception, so that nobody who handles failures takes it for one.
    """

    def __init__(self, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__("--max-time" if signal_number == signal.SIGALRM else name)
        self.signal_number = signal_number


class Interruption:
    """Which signal has arrived, if any."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._at_once = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the loop that asks will stop at its next step (or see ``at_once``)."""
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        if self._at_once:
            raise InterruptedRunError(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal raises InterruptedRunError anywhere in the block: for work done again whole."""
        self.raise_if_any()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def raise_if_any(self) -> None:
        """Raise InterruptedRunError when a signal has arrived."""
        if self.signal_number is not None:
            raise InterruptedRunError(self.signal_number)


@contextmanager
def catching() -> Iterator[Interruption]:
    """Handle the signals inside the block, as before it outside."""
    interruption = Interruption()
    in_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    handled = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)
    wanted = handled if in_main else ()
    before = {number: signal.signal(number, interruption.handle) for number in wanted}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """SIGALRM after so many seconds (None: never); outside of a run it ends the program."""
    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
