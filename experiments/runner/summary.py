"""What main.py prints of a finished run."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.cli import write_results
from utils.console import Console
from utils.results.folder import RunFolder
from utils.results.methods import INFORMATION, UNITS, Method
from utils.results.records import Estimate, RunRecord

SHOWN = {"elbo": "ELBO", "log_px": "log p(x)"}


def show(record: RunRecord, results: Path, console: Console) -> None:
    """Print the summary, at once: print would let runs side by side write between."""
    folder = results / "runs" / record.id
    try:
        write_results(summary(record, folder) + "\n")
    except OSError as error:
        console.warn(f"the results cannot be shown ({error.strerror}); they are in {folder}")


def summary(record: RunRecord, folder: Path) -> str:
    """A finished run's estimates: mean ± standard error over data points, in nats."""
    lines = [
        f"{record.experiment} {record.id}: {record.posterior}, {record.loss}, {record.dataset}"
    ]
    rows = RunFolder(folder).estimates.read()
    lines += [*_means(rows), *_usage(rows)]
    return "\n".join(lines)


def _means(rows: Sequence[Estimate]) -> Iterator[str]:
    groups: dict[tuple[str, Method, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.name in SHOWN:
            groups[row.split, row.method, row.name].append(row.value)
    for (split, method, name), values in groups.items():
        count, mean = len(values), _mean(values)
        data = "data point" if count == 1 else "data points"
        yield f"  {split} ({count} {data}): {SHOWN[name]} by {method.label} {mean}"


def _usage(rows: Sequence[Estimate]) -> Iterator[str]:
    """How much of z each split's posteriors use."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.estimator in (INFORMATION, UNITS):
            groups[row.split, row.name].append(row.value)
    for split in dict.fromkeys(split for split, _ in groups):
        active, told = groups[split, "active_units"], groups[split, "mutual_information"]
        yield (
            f"  {split} ({len(told)} data points): {sum(active):.0f} of {len(active)} units "
            f"active, mutual information {_mean(told)} of at most {math.log(len(told)):.3f}, KL "
            f"of the aggregate {_mean(groups[split, 'aggregate_kl'])}"
        )


def mean(values: Sequence[float]) -> float:
    """Of one or more numbers; infinities and NaN are not averaged away."""
    total = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
    return total / len(values)


def _mean(values: Sequence[float]) -> str:
    """Mean ± standard error over data."""
    count, spread = len(values), ""
    if count > 1 and all(map(math.isfinite, values)):
        spread = f" ± {statistics.stdev(values) / math.sqrt(count):.3f}"
    return f"{mean(values):.3f}{spread}"
