"""Signals: noted for the loop that asks, or raised at once."""

from __future__ import annotations

import os
import signal

import pytest

from experiments.runner.signals import InterruptedRunError, catching


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
