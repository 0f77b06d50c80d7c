"""How to time on a small shared machine: pinned threads, programs interleaved, medians; memory."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

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


def peak_memory() -> float:
    """MiB that this process has had at most (Linux only).

    Not by getrusage: what it tells begins with the peak of the process that started this one.
    """
    return _status("VmHWM")


def memory() -> float:
    """MiB that this process has now (Linux only); ``peak_memory`` begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    (found,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1024
