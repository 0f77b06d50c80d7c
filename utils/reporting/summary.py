"""The table of estimates: one row a configuration, mean ± standard error over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from utils.reporting.labels import configuration_labels
from utils.reporting.queries import by_method, status_note
from utils.reporting.statistics import seed_mean
from utils.reporting.tables import Cell, Heading, Number, Table, Text
from utils.results.methods import Method

BOUNDS = ("elbo", "log_px")  # larger is better, so these have a best
PRETTY = {
    "elbo": "ELBO",
    "log_px": "log p(x)",
    "ess": "ESS",
    "k_hat": "k-hat",
    "dataset": "data set",
}
SHOWN = ("experiment", "dataset", "binarisation", "posterior", "loss")
ROW = (*SHOWN, "hash", "phase", "split")  # what makes a row
COMPARABLE = ("dataset", "binarisation", "phase", "split")  # what "best" is best of

Quantity = tuple[str, Method]
"""A number's name, and by what it was measured."""

CAPTION = (
    "Mean ± standard error over runs with different seeds (a single run has no ±), "
    "averaged over the data points of the split.",
    "ELBO and log p(x) in nats, higher is better; the estimator and its settings in brackets.",
)


def estimate_table(
    summaries: pd.DataFrame, runs: pd.DataFrame, *, digits: int = 2, with_hash: bool = False
) -> Table:
    """Table of ``summaries``, one column a quantity and estimator.

    Args:
        summaries: one row a run, method, split and name, out of ``load_summaries``.
        runs: their rows of the table ``runs``.
        digits: decimals shown.
        with_hash: add the configuration's hash, for programs.
    """
    quantities = sorted(_by_quantity(summaries), key=_order)
    keys: list[dict[str, str]] = []
    numbers: list[list[Number]] = []
    for key, group in summaries.groupby(list(ROW)):
        num_runs = group["run"].nunique()
        keys.append(dict(zip(ROW, map(str, key), strict=True)) | {"runs": str(num_runs)})
        found = _by_quantity(group)
        numbers.append([_number(found.get(of), num_runs, digits) for of in quantities])
    _mark_best(keys, quantities, numbers)
    described = _described(keys, configuration_labels(runs, SHOWN), with_hash)
    rows: list[list[Cell]] = [
        [*(Text(key[column]) for column in described), *cells]
        for key, cells in zip(keys, numbers, strict=True)
    ]
    headings = [Heading(PRETTY.get(column, column)) for column in described]
    headings += [
        Heading(f"{PRETTY.get(name, name)} ({by.label})", True) for name, by in quantities
    ]
    return Table(headings, rows, (*CAPTION, _data_note(summaries), *status_note(runs)))


def default_names(summaries: pd.DataFrame) -> list[str]:
    """The bounds among the names of ``summaries``; every name where there is no bound."""
    present = set(summaries["name"])
    return [name for name in BOUNDS if name in present] or sorted(present)


def _order(quantity: Quantity) -> tuple[Any, ...]:
    """Bounds first; IWAE-100 before IWAE-5000."""
    name, method = quantity
    return BOUNDS.index(name) if name in BOUNDS else len(BOUNDS), name, method.order


def _by_quantity(summaries: pd.DataFrame) -> dict[Quantity, pd.DataFrame]:
    return {
        (str(name), method): rows
        for method, of in by_method(summaries).items()
        for name, rows in of.groupby("name")
    }


def _number(chosen: pd.DataFrame | None, num_runs: int, digits: int) -> Number:
    if chosen is None:
        return Number(None, None, 0, digits)
    mean = seed_mean(chosen["mean"].tolist())
    note = "" if mean.num_runs == num_runs else f" (n={mean.num_runs})"
    return Number(*mean, digits, note)


def _mark_best(
    keys: Sequence[Mapping[str, str]],
    quantities: Sequence[Quantity],
    numbers: list[list[Number]],
) -> None:
    """Mark in each column of a bound the best of rows on the same data; all that look like it."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        places[tuple(key[name] for name in COMPARABLE)].append(row)
    for column, (name, _) in enumerate(quantities):
        for rows in places.values():
            means = {row: numbers[row][column].mean for row in rows}
            finite = {row: m for row, m in means.items() if m is not None and math.isfinite(m)}
            if name not in BOUNDS or len(finite) < 2:
                continue
            best = numbers[max(finite, key=finite.__getitem__)][column].rounded()
            for row in finite:
                if numbers[row][column].rounded() == best:
                    numbers[row][column] = replace(numbers[row][column], best=True)


def _described(
    keys: list[dict[str, str]], labels: Mapping[str, str], with_hash: bool
) -> list[str]:
    """The columns in words, ``settings`` filled in; those that say nothing are left out."""
    for key in keys:
        key["settings"] = labels[key["hash"]]
    left_out = set() if with_hash else {"hash"}
    if not any(key["settings"] for key in keys):
        left_out.add("settings")
    if len({key["phase"] for key in keys}) == 1:
        left_out.add("phase")
    columns = (*SHOWN, "settings", "hash", "phase", "split", "runs")
    return [column for column in columns if column not in left_out]


def _data_note(summaries: pd.DataFrame) -> str:
    """How many data points the means are over, and a warning where rows differ in that."""
    parts = []
    for (dataset, split), group in summaries.groupby(["dataset", "split"]):
        low, high = group["num_data"].min(), group["num_data"].max()
        size = str(low) if low == high else f"{low} to {high}, NOT the same in all runs"
        parts.append(f"{dataset} {split} {size}")
    return f"Data points: {'; '.join(parts)}."
