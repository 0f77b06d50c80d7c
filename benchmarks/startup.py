"""How long main.py takes to say --help, and to see that a run is finished.

python -m benchmarks.startup [--rounds 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

from benchmarks.timing import interleaved

RUN = ("-config", "configs/quickstart/base.yaml", "-set", "training.epochs=1", "-q")


def main() -> None:
    """Run quickstart once in a fresh results folder, then time what comes after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    def call(*arguments: str) -> None:
        command = [sys.executable, "main.py", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as results:
        again = (*RUN, "--results", results)
        call(*again)
        programs = {
            "python main.py --help": lambda: call("--help"),
            "a finished run, recognised and skipped": lambda: call(*again),
        }
        for name, seconds in interleaved(programs, rounds).items():
            print(f"{name:42} {seconds:5.2f} s (median of {rounds})")


if __name__ == "__main__":
    main()
