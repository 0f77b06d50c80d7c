"""Means over runs that differ in their seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class SeedMean(NamedTuple):
    """Mean over runs and its standard error s / √n; None for one run."""

    mean: float
    standard_error: float | None
    num_runs: int


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Average over seeds, s the sample standard deviation (n - 1); NaN if any value is."""
    array = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and shall be
        mean = float(array.mean())
        if len(array) == 1:
            return SeedMean(mean, None, 1)
        error = float(array.std(ddof=1)) / math.sqrt(len(array))
    return SeedMean(mean, error, len(array))
