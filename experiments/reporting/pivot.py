"""The table of one bound or more over two axes: models down, data sets across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import pandas as pd

from experiments.reporting import ReportError
from experiments.reporting.labels import configuration_labels
from experiments.reporting.queries import status_note
from experiments.reporting.reliability import MARK, NOTE
from experiments.reporting.summary import (
    CAPTIONS,
    COMPARABLE,
    ERRORS,
    PRETTY,
    SHOWN,
    Measured,
    Quantity,
    Units,
    data_note,
    in_words,
    measured,
)
from experiments.reporting.tables import Cell, Heading, Number, Table, Text
from utils.cli import did_you_mean


class Axes(NamedTuple):
    """What stands in the rows and across the columns: labels of runs, or columns of ``runs``."""

    rows: Sequence[str]
    columns: Sequence[str]


def pivot_table(
    estimates: pd.DataFrame,
    runs: pd.DataFrame,
    labels: pd.DataFrame,
    names: Sequence[str],
    axes: Axes,
    *,
    digits: int = 2,
    units: Units = "nats",
) -> Table:
    """Means over data and seeds by two axes; the best of each column is marked.

    Args:
        estimates: out of ``load_estimates``.
        runs: their rows of the table ``runs``.
        labels: what experiments call the runs (``load_labels``); a label goes before a column.
        names: the quantities shown, each and each method in a line of its own.
        axes: what makes rows and columns.
        digits: decimals shown at most.
        units: of bounds.

    Raises ReportError for an axis that is not there, and where runs that stand in one place
    differ in more than their seed.
    """
    every, runs = runs, _with_axes(runs, labels, (*axes.rows, *axes.columns))
    places = [_column(name) for name in (*axes.rows, *axes.columns)]
    found = measured(
        estimates,
        runs,
        names,
        row=(*places, *COMPARABLE, "hash"),
        comparable=(*places[len(axes.rows) :], *COMPARABLE),
        digits=digits,
        units=units,
    )
    _check_unique(found, runs, places)
    table = _arranged(found, runs, axes, units)
    measured_runs = set(estimates.loc[estimates["name"].isin(names), "run"])
    left_out = measured_runs & set(every["id"]) - set(runs["id"])
    notes = [f"{len(left_out)} run(s) have no label for an axis."] if left_out else []
    return replace(table, caption=(*table.caption, *notes))


_COLUMNS = {name: column for column in SHOWN for name in (column, PRETTY.get(column, column))}
"""What stands in the table ``runs``, by its name there and by the one that tables show."""


def _column(name: str) -> str:
    return f"axis {name}"


def _with_axes(runs: pd.DataFrame, labels: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The runs with a column for each axis; those without a value are left out, and counted."""
    present = sorted(set(labels["name"]))
    for name in dict.fromkeys(names):
        label = next((of for of in (name, name.replace(".", " ")) if of in present), None)
        if label is not None:
            values = labels[labels["name"] == label].set_index("run")["value"]
            runs = runs.assign(**{_column(name): runs["id"].map(values)})
        elif name in _COLUMNS:
            runs = runs.assign(**{_column(name): runs[_COLUMNS[name]]})
        else:
            known = list(dict.fromkeys([*present, *_COLUMNS]))
            raise ReportError(
                f"no run has a label {name!r}; there are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    chosen = runs.dropna(subset=[_column(name) for name in names])
    if chosen.empty:
        raise ReportError(f"no run has all of the labels {', '.join(names)}")
    return chosen


def _check_unique(found: Measured, runs: pd.DataFrame, places: Sequence[str]) -> None:
    """Raise ReportError where several configurations stand in one place."""

    def place(key: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(key[name] for name in (*places, *COMPARABLE))

    for _, keys in groupby(sorted(found.keys, key=place), key=place):
        hashes = {key["hash"] for key in keys}
        if len(hashes) > 1:
            of = configuration_labels(runs[runs["hash"].isin(hashes)], ())
            shown = " and ".join(sorted(of[key] for key in hashes)[:2])
            raise ReportError(
                f"{len(hashes)} configurations stand in one place: {shown}; add what they differ "
                "in to --rows or --columns, or choose an -experiment"
            )


def _arranged(found: Measured, runs: pd.DataFrame, axes: Axes, units: Units) -> Table:
    """Rows and columns in the order in which the runs are first met."""
    several = len(found.quantities) > 1
    across = _in_order(runs, axes.columns)
    down = _in_order(runs, axes.rows)
    numbers: dict[tuple[tuple[str, ...], tuple[str, ...], Quantity], Number] = {}
    owners: dict[tuple[tuple[str, ...], tuple[str, ...], Quantity], Mapping[str, str]] = {}
    for key, line in zip(found.keys, found.numbers, strict=True):
        row, column = (
            tuple(key[_column(name)] for name in of) for of in (axes.rows, axes.columns)
        )
        for quantity, number in zip(found.quantities, line, strict=True):
            if number.mean is None:
                continue
            place = row, column, quantity
            other = owners.setdefault(place, key)
            if place in numbers:
                differing = [PRETTY.get(of, of) for of in COMPARABLE if key[of] != other[of]]
                raise ReportError(
                    f"a place holds numbers that differ in {', '.join(differing)}: choose a split "
                    "by -split, add the others to --rows or --columns"
                )
            numbers[place] = number
    words = dict(zip(found.quantities, in_words(found.quantities, units), strict=True))
    rows: list[list[Cell]] = [
        [
            *map(Text, row),
            *([Text(words[quantity])] if several else []),
            *(numbers.get((row, column, quantity), Number(None, None, 0)) for column in across),
        ]
        for quantity in found.quantities
        for row in down
        if any((row, column, quantity) in numbers for column in across)
    ]
    headings = [Heading(PRETTY.get(name, name)) for name in axes.rows]
    headings += [Heading("bound")] if several else []
    headings += [Heading(", ".join(column), True) for column in across]
    doubtful = any(MARK in number.note for number in numbers.values())
    what = [] if several else [f"{words[found.quantities[0]]} by {', '.join(axes.columns)}."]
    caption = (*what, ERRORS, CAPTIONS[units], *data_note(found.shown))
    there = runs[runs["id"].isin(found.shown["run"])]
    return Table(headings, rows, (*caption, *([NOTE] if doubtful else []), *status_note(there)))


def _in_order(runs: pd.DataFrame, names: Sequence[str]) -> list[tuple[str, ...]]:
    columns = [_column(name) for name in names]
    ordered = runs.sort_values("started", kind="stable")
    return list(dict.fromkeys(ordered[columns].astype(str).itertuples(index=False, name=None)))
