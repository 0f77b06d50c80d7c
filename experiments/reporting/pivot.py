"""The table of one bound or more over two axes: models down, data sets across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

BOUND = "bound"
"""The axis of quantities and their estimators."""

Coordinates = tuple[str, ...]
"""What a run has on axes."""


class Axes(NamedTuple):
    """What stands in the rows and across: labels of runs, columns of ``runs``, or BOUND.

    ``options`` are those of the command line that say so.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    options: str = "--rows or --columns"


class Placed(NamedTuple):
    """Means over data and seeds, by where they stand: values in the rows, values across, quantity.

    ``rows`` and ``columns`` are in the order in which runs are first met, ``quantities`` with
    what they are called. ``caption`` says what numbers are, ``notes`` what these are of.
    """

    numbers: Mapping[tuple[Coordinates, Coordinates, Quantity], Number]
    rows: Sequence[Coordinates]
    columns: Sequence[Coordinates]
    quantities: Mapping[Quantity, str]
    caption: Sequence[str]
    notes: Sequence[str]


def place(
    estimates: pd.DataFrame,
    runs: pd.DataFrame,
    labels: pd.DataFrame,
    names: Sequence[str],
    axes: Axes,
    *,
    digits: int = 2,
    units: Units = "nats",
) -> Placed:
    """Means over data and seeds by two axes of runs; the best of each column is marked.

    Args:
        estimates: out of ``load_estimates``.
        runs: their rows of the table ``runs``.
        labels: what experiments call the runs (``load_labels``); a label goes before a column.
        names: the quantities shown, each and each method by itself.
        axes: what makes rows and columns.
        digits: decimals shown at most.
        units: of bounds.

    Raises ReportError for an axis that is not there, and where runs that stand in one place
    differ in more than their seed.
    """
    down, across = _of_runs(axes.rows), _of_runs(axes.columns)
    every, runs = runs, with_axes(runs, labels, (*down, *across))
    places = [column_of(name) for name in (*down, *across)]
    found = measured(
        estimates,
        runs,
        names,
        row=(*places, *COMPARABLE, "hash"),
        comparable=(*places[len(down) :], *COMPARABLE),
        digits=digits,
        units=units,
    )
    _check_unique(found, runs, places, axes.options)
    numbers = _by_place(found, down, across, axes.options)
    doubtful = any(MARK in number.note for number in numbers.values())
    there = runs[runs["id"].isin(found.shown["run"])]
    notes = [*data_note(found.shown), *([NOTE] if doubtful else []), *status_note(there)]
    measured_runs = set(estimates.loc[estimates["name"].isin(names), "run"])
    if left_out := measured_runs & set(every["id"]) - set(runs["id"]):
        notes.append(f"{len(left_out)} run(s) have no label for an axis.")
    return Placed(
        numbers,
        _in_order(runs, down),
        _in_order(runs, across),
        dict(zip(found.quantities, in_words(found.quantities, units), strict=True)),
        (ERRORS, CAPTIONS[units]),
        notes,
    )


def pivot_table(placed: Placed, axes: Axes) -> Table:
    """The table of what ``place`` made of ``axes``.

    Several quantities stand above each other; inmost in the columns where BOUND is one of these.
    """
    only = next(iter(placed.quantities)) if len(placed.quantities) == 1 else None
    if only is None and BOUND not in axes.columns and BOUND not in axes.rows:
        axes = axes._replace(rows=(*axes.rows, BOUND))
    of_rows, of_columns = (
        placed.quantities if BOUND in names else [None] for names in (axes.rows, axes.columns)
    )
    down = [_Place(values, quantity) for quantity in of_rows for values in placed.rows]
    across = [_Place(values, quantity) for values in placed.columns for quantity in of_columns]

    def number(row: _Place, column: _Place) -> Number | None:
        quantity = row.quantity or column.quantity or only
        return quantity and placed.numbers.get((row.values, column.values, quantity))

    down = [row for row in down if any(number(row, column) for column in across)]
    across = [column for column in across if any(number(row, column) for row in down)]
    rows: list[list[Cell]] = [
        [
            *map(Text, _words(row, axes.rows, placed.quantities)),
            *(number(row, column) or Number(None, None, 0) for column in across),
        ]
        for row in down
    ]
    headings = [Heading(PRETTY.get(name, name)) for name in axes.rows]
    headings += [
        Heading(", ".join(_words(column, axes.columns, placed.quantities)), True)
        for column in across
    ]
    what = [f"{placed.quantities[only]} by {', '.join(axes.columns)}."] if only else []
    return Table(headings, rows, (*what, *placed.caption, *placed.notes))


class _Place(NamedTuple):
    """A row or a column: values of its axes that runs have, and its quantity if it has one."""

    values: Coordinates
    quantity: Quantity | None


def _words(place: _Place, names: Sequence[str], quantities: Mapping[Quantity, str]) -> list[str]:
    """The place's value on each axis."""
    values = iter(place.values)
    of_bound = quantities[place.quantity] if place.quantity else ""
    return [of_bound if name == BOUND else next(values) for name in names]


COLUMNS = {name: column for column in SHOWN for name in (column, PRETTY.get(column, column))}
"""What stands in the table ``runs``, by its name there and by the one that tables show."""


def column_of(name: str) -> str:
    """Where ``with_axes`` puts an axis."""
    return f"axis {name}"


def _of_runs(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != BOUND]


def with_axes(runs: pd.DataFrame, labels: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The runs with a column for each axis; those without a value are left out, and counted."""
    present = sorted(set(labels["name"]))
    for name in dict.fromkeys(names):
        label = next((of for of in (name, name.replace(".", " ")) if of in present), None)
        if label is not None:
            values = labels[labels["name"] == label].set_index("run")["value"]
            runs = runs.assign(**{column_of(name): runs["id"].map(values)})
        elif name in COLUMNS:
            runs = runs.assign(**{column_of(name): runs[COLUMNS[name]]})
        else:
            known = list(dict.fromkeys([*present, *COLUMNS, BOUND]))
            raise ReportError(
                f"no run has a label {name!r}; there are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    chosen = runs.dropna(subset=[column_of(name) for name in names])
    if chosen.empty:
        raise ReportError(f"no run has all of the labels {', '.join(names)}")
    return chosen


def _check_unique(
    found: Measured, runs: pd.DataFrame, places: Sequence[str], options: str
) -> None:
    """Raise ReportError where several configurations stand in one place."""

    def spot(key: Mapping[str, str]) -> Coordinates:
        return tuple(key[name] for name in (*places, *COMPARABLE))

    for _, keys in groupby(sorted(found.keys, key=spot), key=spot):
        hashes = {key["hash"] for key in keys}
        if len(hashes) > 1:
            of = configuration_labels(runs[runs["hash"].isin(hashes)], ())
            shown = " and ".join(sorted(of[key] for key in hashes)[:2])
            raise ReportError(
                f"{len(hashes)} configurations stand in one place: {shown}; add what they differ "
                f"in to {options}, or choose an -experiment"
            )


def _by_place(
    found: Measured, down: Sequence[str], across: Sequence[str], options: str
) -> dict[tuple[Coordinates, Coordinates, Quantity], Number]:
    numbers: dict[tuple[Coordinates, Coordinates, Quantity], Number] = {}
    owners: dict[tuple[Coordinates, Coordinates, Quantity], Mapping[str, str]] = {}
    for key, line in zip(found.keys, found.numbers, strict=True):
        row, column = (tuple(key[column_of(name)] for name in names) for names in (down, across))
        for quantity, number in zip(found.quantities, line, strict=True):
            if number.mean is None:
                continue
            spot = row, column, quantity
            other = owners.setdefault(spot, key)
            if spot in numbers:
                differing = [PRETTY.get(of, of) for of in COMPARABLE if key[of] != other[of]]
                raise ReportError(
                    f"a place holds numbers that differ in {', '.join(differing)}: choose a split "
                    f"by -split, add the others to {options}"
                )
            numbers[spot] = number
    return numbers


def _in_order(runs: pd.DataFrame, names: Sequence[str]) -> list[Coordinates]:
    columns = [column_of(name) for name in names]
    ordered = runs.sort_values("started", kind="stable")[columns].astype(str)
    return list(dict.fromkeys(map(tuple, ordered.to_numpy())))
