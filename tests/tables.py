"""Reading the tables that ``plot_from_db.py`` prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def rows_of(markdown: str) -> list[dict[str, str]]:
    """The rows of a pipe table, each by its headings."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def over_both(runs: Sequence[float], data: Sequence[float]) -> str:
    """Mean and standard error where run r has the value ``runs[r] + data[i]`` of datum i."""
    mean = statistics.mean(runs) + statistics.mean(data)
    parts = (statistics.variance(values) / len(values) for values in (runs, data))
    return _shown(mean, math.sqrt(math.fsum(parts)))


def spread(values: Sequence[float]) -> str:
    """Mean and standard error s / √n with the decimals that tables print."""
    return _shown(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)))


def _shown(mean: float, error: float) -> str:
    decimals = min(2, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"
