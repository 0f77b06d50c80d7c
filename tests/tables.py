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


def spread(values: Sequence[float]) -> str:
    """Mean and standard error as tables print them."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.2f} ± {error:.2f}"
