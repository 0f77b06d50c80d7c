"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from utils import console
from utils.console import Console


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_the_time_that_compiling_takes_is_not_in_the_first_eta(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with Console(plain_interval=15).progress("epoch", 101) as advance:
        advance(0)
        clock.now = 3000.0  # the compiler's; then 10 seconds an epoch
        advance(1)
        clock.now = 3020.0
        advance(3)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "epoch 1/101  elapsed 0:50:00  ETA ?"
    assert second == "epoch 3/101  elapsed 0:50:20  ETA 0:16:20"


def test_a_resumed_run_counts_what_it_does_itself(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with Console(plain_interval=15).progress("epoch", 100, completed=90) as advance:
        clock.now = 5.0
        advance(91)
        clock.now = 25.0
        advance(95)
    assert capsys.readouterr().err == "epoch 95/100  elapsed 0:00:25  ETA 0:00:25\n"
