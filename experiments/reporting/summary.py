"""The table of estimates: one row a configuration, means over data and seeds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pandas as pd

from experiments.reporting import ReportError, queries
from experiments.reporting.labels import configuration_labels
from experiments.reporting.queries import SIMULATED, by_method, status_note, values_of
from experiments.reporting.reliability import MARK, MARKED, NOTE, is_reliable, mark
from experiments.reporting.statistics import mean_of
from experiments.reporting.tables import Cell, Heading, Number, Table, Text
from utils.results.methods import FROM_ABOVE, UNITS, Method

BOUNDS = ("elbo", "log_px")  # larger is better, so these have a best
PRETTY = {
    "elbo": "ELBO",
    "log_px": "log p(x)",
    "ess": "ESS",
    "eubo": "EUBO",
    "mmd2": "MMD²",
    "sinkhorn": "Sinkhorn divergence",
    "mode_coverage": "mode coverage",
    "k_hat": "k-hat",
    "dataset": "data set",
    "kl": "KL",
    "active_units": "active units",
    "mutual_information": "mutual information",
    "aggregate_kl": "KL of the aggregate",
}
SHOWN = ("experiment", "dataset", "binarisation", "posterior", "loss")
ROW = (*SHOWN, "hash", "phase", "split")  # what makes a row
COMPARABLE = ("dataset", "binarisation", "phase", "split")  # what "best" is best of

Quantity = tuple[str, Method]
"""A number's name, and by what it was measured."""

ERRORS = (
    "Mean ± standard error: the total of Monte-Carlo error and spread over data and, of several "
    "runs, over seeds. CSV has the 95 % interval."
)
Units = Literal["nats", "bits"]
CAPTIONS: Mapping[Units, str] = {
    "nats": (
        "ELBO and log p(x) in nats, higher is better; the estimator and its settings in brackets."
    ),
    "bits": (
        "-ELBO and -log p(x) in bits per dimension of x, lower is better; the estimator and its "
        "settings in brackets."
    ),
}


def estimate_table(
    estimates: pd.DataFrame,
    runs: pd.DataFrame,
    names: Sequence[str],
    *,
    digits: int = 2,
    with_hash: bool = False,
    units: Units = "nats",
) -> Table:
    """Table of estimates, one column a quantity and estimator.

    Args:
        estimates: out of ``load_estimates``, those named in ``reliability.ABOUT`` among them.
        runs: their rows of the table ``runs``.
        names: the quantities shown.
        digits: decimals shown at most.
        with_hash: add the configuration's hash, for programs.
        units: of bounds; bits are per dimension of x, log p(x) turned into a length of code.

    Raises ReportError where bits are asked for and a run does not say how large its x is.
    """
    keys, quantities, numbers, shown = measured(
        estimates, runs, names, row=ROW, comparable=COMPARABLE, digits=digits, units=units
    )
    described = _described(keys, configuration_labels(runs, SHOWN), with_hash)
    rows: list[list[Cell]] = [
        [*(Text(key[column]) for column in described), *cells]
        for key, cells in zip(keys, numbers, strict=True)
    ]
    headings = [Heading(PRETTY.get(column, column)) for column in described]
    headings += [Heading(label, True) for label in in_words(quantities, units)]
    doubtful = any(MARK in number.note for line in numbers for number in line)
    notes = [*data_note(shown), *([NOTE] if doubtful else []), *status_note(runs)]
    return Table(headings, rows, (ERRORS, CAPTIONS[units], *notes))


class Measured(NamedTuple):
    """Means over data and seeds: a key and a line of numbers for each group of runs.

    ``shown`` are the estimates that they are made of.
    """

    keys: list[dict[str, str]]
    quantities: list[Quantity]
    numbers: list[list[Number]]
    shown: pd.DataFrame


def measured(
    estimates: pd.DataFrame,
    runs: pd.DataFrame,
    names: Sequence[str],
    *,
    row: Sequence[str],
    comparable: Sequence[str],
    digits: int,
    units: Units,
) -> Measured:
    """The means of groups that agree in ``row``, columns of ``runs`` or ``estimates``.

    The best of those that agree in ``comparable`` are marked.
    """
    if units == "bits":
        estimates = _in_bits(estimates, runs)
    columns = dict.fromkeys((*SHOWN, *row, "hash", "data_checksum"))
    about = runs.set_index("id")[[name for name in columns if name in runs]]
    estimates = queries.with_totals(estimates).join(about, on="run", how="inner")
    shown = estimates[estimates["name"].isin(names)]
    quantities = sorted(_by_quantity(shown), key=_order)
    keys: list[dict[str, str]] = []
    numbers: list[list[Number]] = []
    groups = dict(iter(estimates.groupby(list(row))))
    for key, of in shown.groupby(list(row)):
        num_runs = of["run"].nunique()
        keys.append(dict(zip(row, map(str, key), strict=True)) | {"runs": str(num_runs)})
        found = by_method(groups[key])
        numbers.append(
            [_number(found.get(by), name, by, num_runs, digits) for name, by in quantities]
        )
    _mark_best(keys, quantities, numbers, comparable, units)
    return Measured(keys, quantities, numbers, shown)


def _in_bits(estimates: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The estimates with bounds as bits per dimension, -log p / (D log 2)."""
    if unknown := sorted(runs.loc[runs["x_size"].isna(), "id"]):
        raise ReportError(f"--units bits: these runs do not say how large x is: {unknown}")
    sizes = estimates["run"].map(runs.set_index("id")["x_size"]).astype(float)
    is_bound = estimates["name"].isin(BOUNDS)
    factor = (1 / (sizes * math.log(2))).where(is_bound, 1.0)
    return estimates.assign(
        value=estimates["value"] * factor.where(~is_bound, -factor),
        standard_error=estimates["standard_error"] * factor,
    )


def in_words(quantities: Sequence[Quantity], units: Units) -> list[str]:
    """``ELBO (IWAE-5000)``, ``-ELBO, bits/dim (IWAE-5000)``.

    Where two optima are called the same, by what each was measured.
    """

    def words(name: str) -> str:
        pretty = PRETTY.get(name, name)
        return f"-{pretty}, bits/dim" if units == "bits" and name in BOUNDS else pretty

    labels = [f"{words(name)} ({method.label})" for name, method in quantities]
    counts = Counter(labels)
    measured_by = [method._replace(family="", search="").label for _, method in quantities]
    return [
        label if counts[label] == 1 else f"{label[:-1]} by {by})"
        for label, by in zip(labels, measured_by, strict=True)
    ]


def default_names(present: Sequence[str]) -> list[str]:
    """The bounds among the names that are there; every name where there is no bound."""
    return [name for name in BOUNDS if name in present] or sorted(present)


def _order(quantity: Quantity) -> tuple[Any, ...]:
    """Bounds first; IWAE-100 before IWAE-5000."""
    name, method = quantity
    return BOUNDS.index(name) if name in BOUNDS else len(BOUNDS), name, method.order


def _by_quantity(estimates: pd.DataFrame) -> set[Quantity]:
    return {
        (name, method) for method, of in by_method(estimates).items() for name in set(of["name"])
    }


def _number(
    found: pd.DataFrame | None, name: str, method: Method, num_runs: int, digits: int
) -> Number:
    """The mean over runs of the values of ``name`` among the rows of ``method``."""
    chosen = None if found is None else found[found["name"] == name]
    if found is None or chosen is None or chosen.empty:
        return Number(None, None, 0, digits)
    same_data = chosen["data_checksum"].nunique() == 1 and chosen["split"].iloc[0] != SIMULATED
    mean = mean_of([values_of(of) for _, of in chosen.groupby("run")], same_data=same_data)
    note = "" if mean.num_runs == num_runs else f" (n={mean.num_runs})"
    if name in MARKED:
        note += mark(is_reliable(found, method).to_numpy())
    return Number.of(mean, digits, note)


def _mark_best(
    keys: Sequence[Mapping[str, str]],
    quantities: Sequence[Quantity],
    numbers: list[list[Number]],
    comparable: Sequence[str],
    units: Units,
) -> None:
    """Mark in each column of a bound the best of rows on the same data; all that look like it.

    None of an estimate from above, which is the higher the more a posterior misses.
    """
    better = max if units == "nats" else min
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        alike[tuple(key[name] for name in comparable)].append(row)
    for column, (name, method) in enumerate(quantities):
        for rows in alike.values():
            means = {row: numbers[row][column].mean for row in rows}
            finite = {row: m for row, m in means.items() if m is not None and math.isfinite(m)}
            if name not in BOUNDS or method.estimator == FROM_ABOVE or len(finite) < 2:
                continue
            best = numbers[better(finite, key=finite.__getitem__)][column]
            for row in finite:
                if numbers[row][column].rounded(best.decimals) == best.rounded():
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


def data_note(estimates: pd.DataFrame) -> list[str]:
    """How many data points the means are over, and a warning where numbers differ in that."""
    parts = []
    of_data = estimates[estimates["estimator"] != UNITS]
    for (dataset, split), group in of_data.groupby(["dataset", "split"]):
        sizes = group.groupby(["run", "phase", *Method._fields, "name"]).size()
        low, high = sizes.min(), sizes.max()
        size = str(low) if low == high else f"{low} to {high}, NOT the same for all numbers"
        parts.append(f"{dataset} {split} {size}")
    return [f"Data points: {'; '.join(parts)}."] if parts else []
