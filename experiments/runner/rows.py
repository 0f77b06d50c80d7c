"""Rows of estimates: out of what estimators give, and what they amount to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from estimators.protocol import Estimate, Quantity
from experiments.runner.summary import mean
from utils.results.methods import Method
from utils.results.records import Estimate as EstimateRow


def make_rows(
    estimate: Estimate, phase: str, method: Method, split: str, offset: int
) -> list[EstimateRow]:
    """The rows of an estimate whose first datum is ``offset``."""
    return rows_of({"log_px": estimate.log_px, **estimate.stats}, phase, method, split, offset)


def rows_of(
    quantities: Mapping[str, Quantity], phase: str, method: Method, split: str, offset: int
) -> list[EstimateRow]:
    """The rows of quantities (B,), whose first datum is ``offset``."""
    rows = []
    for name, (values, errors) in quantities.items():
        numbers = values.tolist()
        bars = [None] * len(numbers) if errors is None else errors.tolist()
        rows += [
            EstimateRow(phase, *method, split, name, offset + index, value, bar)
            for index, (value, bar) in enumerate(zip(numbers, bars, strict=True))
        ]
    return rows


def means(rows: Iterable[EstimateRow]) -> dict[tuple[Method, str], float]:
    """Mean over the data of each number, by method and name."""
    values = defaultdict(list)
    for row in rows:
        values[row.method, row.name].append(row.value)
    return {key: mean(numbers) for key, numbers in values.items()}


def metrics(rows: Iterable[EstimateRow]) -> dict[str, float]:
    """The same under the names of metrics, ``IWAE-5000/elbo``."""
    return {f"{method.label}/{name}": mean for (method, name), mean in means(rows).items()}


def num_before_last_batch(rows: Sequence[EstimateRow], batch_sizes: Mapping[str, int]) -> int:
    """How many rows stand before the batch written last: a run that was cut off may have torn it.

    ``batch_sizes`` are by phase.
    """

    def batch(row: EstimateRow) -> tuple[str, Method, str, int]:
        return row.phase, row.method, row.split, row.datum // batch_sizes[row.phase]

    count = len(rows)
    while count > 0 and batch(rows[count - 1]) == batch(rows[-1]):
        count -= 1
    return count
