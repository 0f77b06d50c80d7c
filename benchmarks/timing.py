"""How to time on a small shared machine: pinned threads, programs interleaved, medians."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

# Before torch is imported: unpinned OpenMP threads stall now and then by 5-20×.
os.environ.setdefault("OMP_PROC_BIND", "true")
os.environ.setdefault("OMP_PLACES", "cores")


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each program; every round runs them all, one after the other."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(seconds(program))
    return {name: statistics.median(values) for name, values in times.items()}
