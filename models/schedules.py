"""Schedules that rise from 0 to 1, as plain numbers, so that compilers see constants."""

from __future__ import annotations

import math


def linear(num_steps: int) -> list[float]:
    """t/T for t = 0 ... T."""
    return [t / num_steps for t in range(num_steps + 1)]


def sigmoidal(num_steps: int) -> list[float]:
    """(s(t) - s(0)) / (s(T) - s(0)), s(t) = sigmoid(4 (2t/T - 1)): slow at both ends.

    As Grosse et al. 2015 (arXiv 1511.02543) anneal.
    """
    centred = [math.tanh(4 * (share - 0.5)) for share in linear(num_steps)]
    return [0.5 * (1 + value / centred[-1]) for value in centred]
