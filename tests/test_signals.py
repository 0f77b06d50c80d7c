"""Signals: noted for the loop that asks, or raised at once."""

from __future__ import annotations

import os
import signal
import time

import pytest

import main
import plot_from_db
import sweep
from experiments.runner.asked import shown
from experiments.runner.signals import InterruptedRunError, catching, time_limit
from utils.types import duration


@pytest.mark.parametrize("program", [main, sweep, plot_from_db])
def test_ctrl_c_where_there_is_nothing_to_save_is_one_line(program, monkeypatch, capsys):
    def interrupted() -> int:
        raise KeyboardInterrupt  # while PyTorch is imported, say

    monkeypatch.setattr(program, "main", interrupted)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    assert program.program() == 130
    assert capsys.readouterr().err == "stopped\n"


def test_the_command_that_goes_on_does_not_begin_anew():
    words = ["-config", "a b.yaml", "--resume", "never", "-resume=never", "-set", "x=--resume"]
    assert (
        shown(["python", "main.py", *words]) == "python main.py -config 'a b.yaml' -set x=--resume"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted(number):
    with catching() as interruption:
        os.kill(os.getpid(), number)
        with pytest.raises(InterruptedRunError, match=number.name):
            interruption.raise_if_any()


def test_a_signal_is_raised_where_the_work_is_done_again():
    with catching() as interruption:
        with pytest.raises(InterruptedRunError), interruption.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")
        interruption.signal_number = None
        os.kill(os.getpid(), signal.SIGTERM)  # outside it is noted only
        with pytest.raises(InterruptedRunError), interruption.at_once():
            raise AssertionError("began")


def test_nobody_takes_it_for_a_failure():
    assert not issubclass(InterruptedRunError, Exception)


def test_the_second_ctrl_c_does_not_wait():
    with catching():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_end_of_its_time_reaches_a_run_as_a_signal():
    with time_limit(0.01), catching() as interruption:
        while interruption.signal_number is None:
            time.sleep(0.01)
        with pytest.raises(InterruptedRunError, match="--max-time"):
            interruption.raise_if_any()


def test_before_a_run_begins_the_end_of_its_time_ends_the_program(capsys):
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(SystemExit) as ended, time_limit(0.01):
        time.sleep(60)
    assert ended.value.code == 75
    assert capsys.readouterr().err == "stopped by --max-time; the same command goes on\n"
    assert signal.getsignal(signal.SIGALRM) == handler


def test_a_run_that_ends_in_time_stops_the_clock():
    with time_limit(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("55m", 3300), ("1h30m", 5400), ("90s", 90), ("1d", 86400)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "55", "0s", "m", "1m1h", "-1m", "1.5h", "99999999d"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="55m, 1h30m or 90s"):
        duration(text)
