"""The demo's approximation gap beside that of a reference with a hundred times the draws.

python -m benchmarks.demo_gap [--seeds 0 1 ...]

Reads the results database and trains nothing: where runs are missing it says which commands make
them. One row a seed; the differences are paired over the images.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import pandas as pd

from experiments.drawing import Trained, Wanted, find_all
from experiments.reporting import gap_estimates
from experiments.reporting.gaps import APPROXIMATION, Measured, measure
from experiments.reporting.log_px import Convention
from experiments.reporting.queries import load_runs
from experiments.reporting.statistics import Values
from utils.console import Console
from utils.results.database import ResultsDatabase, database_url
from utils.results.folder import results_root

BASE = "configs/quickstart/base.yaml"
GAPS = "configs/quickstart/additional/gaps.yaml"
REFERENCE = "configs/quickstart/additional/reference.yaml"
NORMAL = 1.96  # a datum's 95 % interval is its estimate ± so many standard errors


class Row(NamedTuple):
    """One seed, in nats; ``inside`` is the share of images whose interval holds the reference."""

    gap: float
    reference: float
    error: float
    largest: float
    inside: float


def compare(run: Measured, largest: Measured, reference: Measured) -> Row:
    """Of one seed: as the table has it, by the largest estimate, and the reference."""
    gap, truth = (of.values[APPROXIMATION] for of in (run, reference))
    difference = gap.minus(truth)
    log_px = run.log_px.values.minus(reference.log_px.values)
    return Row(
        _mean(gap),
        _mean(truth),
        math.sqrt(difference.monte_carlo_variance),
        _mean(largest.values[APPROXIMATION]),
        float((abs(log_px.value) <= NORMAL * log_px.error).mean()),
    )


def _mean(values: Values) -> float:
    return float(values.value.mean())


def _measured(database: ResultsDatabase, run: Trained, convention: Convention) -> Measured:
    runs = load_runs(database)
    chosen: pd.DataFrame = runs[runs["id"] == run.folder.path.name]
    (found,) = measure(gap_estimates.load(database, chosen), chosen, convention=convention)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), metavar="SEED")
    seeds = parser.parse_args().seeds
    wanted = {
        (seed, files): Wanted(BASE, files, [f"seed={seed}"])
        for seed in seeds
        for files in ((GAPS,), (GAPS, REFERENCE))
    }
    runs = find_all(wanted, Console())
    database = ResultsDatabase(database_url(results_root()))
    print(
        "| seed | gap | reference | difference | its Monte-Carlo error | `max` | images inside |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for seed in seeds:
        run, reference = runs[seed, (GAPS,)], runs[seed, (GAPS, REFERENCE)]
        row = compare(
            _measured(database, run, "combined"),
            _measured(database, run, "max"),
            _measured(database, reference, "combined"),
        )
        print(
            f"| {seed} | {row.gap:.4f} | {row.reference:.4f} | {row.gap - row.reference:+.4f} "
            f"| {row.error:.4f} | {row.largest:.4f} | {row.inside:.0%} |"
        )
    database.close()


if __name__ == "__main__":
    main()
