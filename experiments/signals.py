"""SIGTERM, SIGUSR1 and Ctrl-C ask for a checkpoint; the second Ctrl-C does not wait for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptedRunError(Exception):
    """A signal stopped the run; its checkpoint is written."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Interruption:
    """Which signal has arrived, if any."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the loop that asks will stop at its next step."""
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def raise_if_any(self) -> None:
        """Raise InterruptedRunError when a signal has arrived."""
        if self.signal_number is not None:
            raise InterruptedRunError(self.signal_number)


@contextmanager
def catching() -> Iterator[Interruption]:
    """Handle the three signals inside the block, as before it outside."""
    interruption = Interruption()
    wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, interruption.handle) for number in wanted}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
