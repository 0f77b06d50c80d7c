"""CPU time that main.py takes to say --help, and to see that a run is finished.

python -m benchmarks.startup [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.runner import recognition

RUN = ("-config", "configs/quickstart/base.yaml", "-set", "training.epochs=1", "-q")


def call(*arguments: str) -> float:
    """CPU seconds of main.py and all its threads."""
    before = os.times()
    subprocess.run([sys.executable, "main.py", *arguments], check=True, capture_output=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])  # of children: user, system


def main() -> None:
    """Run quickstart once in a fresh results folder, then time what comes after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as results:
        again = (*RUN, "--results", results)
        call(*again)

        def as_if_unknown() -> float:
            Path(results, recognition.FILE).unlink(missing_ok=True)
            return call(*again)

        programs: dict[str, Callable[[], float]] = {
            "python main.py --help": lambda: call("--help"),
            "a finished run, not known by its configuration": as_if_unknown,
            "a finished run, recognised and skipped": lambda: call(*again),
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, program in programs.items():
                times[name].append(program())
    for name, values in times.items():
        print(f"{name:46} {statistics.median(values):5.2f} s of CPU (median of {rounds})")


if __name__ == "__main__":
    main()
