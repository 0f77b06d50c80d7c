"""Time of a run's measurements by the number of its workers: on the clock, and of processors.

python -m benchmarks.workers [--workers 1 2] [--threads 2] [--data 250] [--batches 8]
    [--rounds 3]

All have the same threads in all. What processors do more with several workers is the price: each
has to start Python, and keeps its searches. On the clock they can gain only where there are as
many free cores as threads. Ends with code 1 where the numbers differ; the threads of a worker can
change their last digits.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

CONFIG = ("-config", "configs/quickstart/base.yaml", "-q", "-set")
WORK = (
    "phases=[local_optimisation, estimate]",
    "local_optimisation.setting={name: fast, max_steps: 400, num_samples: 20}",
    "evaluation.estimators=[{name: ais, num_chains: 20, num_distributions: 25}]",
)


class Cost(NamedTuple):
    """Seconds of one run, with all processes that it began, and its rows."""

    clock: float
    processors: float
    rows: bytes


def measure(workers: int, threads: int, num_data: int, num_batches: int) -> Cost:
    """Carry out the run in a fresh folder."""
    size = max(1, num_data // num_batches)
    batches = (f"evaluation.batch_size={size}", f"local_optimisation.batch_size={size}")
    runtime = (f"runtime.workers={workers}", f"runtime.threads={threads}")
    assignments = (*WORK, *batches, *runtime, f"evaluation.max_data={num_data}")
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "main.py", *CONFIG, *assignments, "--results", results]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        clock = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"main.py ended with {process.returncode}: {' '.join(command)}")
        (rows,) = Path(results).glob("runs/*/estimates.csv")
        return Cost(clock, usage.ru_utime + usage.ru_stime, rows.read_bytes())


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=int, default=250)
    parser.add_argument("--batches", type=int, default=8, help="of data, for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sizes = options.threads, options.data, options.batches
    rounds: list[dict[int, Cost]] = []
    for number in range(options.rounds):  # one order, then the other
        order = options.workers[:: -1 if number % 2 else 1]
        rounds.append({workers: measure(workers, *sizes) for workers in order})
    first = options.workers[0]
    for workers in options.workers:
        costs = [(by[workers], by[first]) for by in rounds]
        shown = []
        for name in ("clock", "processors"):
            seconds = statistics.median(getattr(cost, name) for cost, _ in costs)
            ratio = statistics.median(getattr(c, name) / getattr(f, name) for c, f in costs)
            shown.append(f"{name} {seconds:7.2f} s  {ratio:5.2f} ×")
        print(f"{workers} workers   {'   '.join(shown)}")
    if len({cost.rows for by in rounds for cost in by.values()}) > 1:
        sys.exit("the numbers differ")


if __name__ == "__main__":
    main()
