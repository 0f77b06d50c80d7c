"""Estimates as differences from a baseline on the same data: data differ more than methods do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.reporting import ReportError
from experiments.reporting.pivot import COLUMNS, column_of, with_axes
from experiments.reporting.queries import check_choice, with_totals
from utils.results.methods import Method

ALIKE = ("dataset", "binarisation", "data_checksum", "seed")
"""What a run and its baseline have in common."""
PAIRED = ("phase", *Method._fields, "split", "name", "datum")
WORST = {"reliable": np.fmin, "ess": np.fmin, "k_hat": np.fmax}
"""Of what two estimates say of themselves, what is said of their difference."""


def against(
    estimates: pd.DataFrame,
    runs: pd.DataFrame,
    labels: pd.DataFrame,
    values: Sequence[str],
    within: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """Each run's estimates less those of the baseline, datum by datum, and what to say of that.

    The errors of both count as independent, and what cannot be believed of one of them cannot be
    of the difference. Runs without a baseline are left out, and counted; so are baselines.

    Args:
        estimates: out of ``load_estimates``, those named in ``reliability.ABOUT`` among them.
        runs: their rows of the table ``runs``.
        labels: what experiments call the runs (``load_labels``).
        values: ``axis=value`` each, of a label or a column of ``runs``: all the baseline's.
        within: axes on which a run and its baseline have the same value, too.

    Raises ReportError for an axis or a value that is not there, where a run has several
    baselines, or none has one, and where nothing was measured of both.
    """
    placed = with_axes(runs, labels, within)
    baselines = placed[placed["id"].isin(_chosen(runs, labels, values)["id"])]
    alike = [*ALIKE, *map(column_of, within)]
    of_each = placed.merge(baselines[["id", *alike]], on=alike, suffixes=("", "_baseline"))
    others = of_each[~of_each["id"].isin(baselines["id"])]
    if others["id"].duplicated().any():
        several = sorted(baselines["posterior"] + ", " + baselines["loss"])
        raise ReportError(
            f"--against {' '.join(values)}: a run has several baselines ({'; '.join(several)}); "
            "say more of the one that is meant"
        )
    if others.empty:
        raise ReportError(
            f"--against {' '.join(values)}: no other run has its data (by name and checksum) and "
            "its seed"
        )
    found = _differences(with_totals(estimates), others)
    if found.empty:
        raise ReportError(
            f"--against {' '.join(values)}: nothing has been measured of a run and of its "
            "baseline in the same way (method, split, data points)"
        )
    return found, _said(runs, baselines, others, values)


def _chosen(runs: pd.DataFrame, labels: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    pairs = dict(text.split("=", 1) for text in values if "=" in text)
    if len(pairs) < len(values):
        raise ReportError("--against takes AXIS=VALUE, each axis once: posterior=gaussian")
    chosen = runs
    for axis, value in pairs.items():
        labelled = with_axes(runs, labels, [axis])
        called = labelled.set_index("id")[column_of(axis)].astype(str)
        if axis in COLUMNS:  # a label of the same name may say more than the column
            called = pd.concat([called, runs.set_index("id")[COLUMNS[axis]].astype(str)])
        check_choice(axis, [value], sorted(called.unique()))
        chosen = chosen[chosen["id"].isin(called.index[called == value])]
    return chosen


def _differences(estimates: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    own = estimates.merge(
        others[["id", "id_baseline"]].rename(columns={"id": "run", "id_baseline": "baseline"}),
        on="run",
    )
    base = estimates[["run", *PAIRED, "value", "standard_error"]]
    pairs = own.merge(
        base.rename(columns={"run": "baseline"}),
        on=["baseline", *PAIRED],
        suffixes=("", "_baseline"),
    )
    value, other = (pairs[name].astype(float) for name in ("value", "value_baseline"))
    error, of_other = pairs["standard_error"], pairs["standard_error_baseline"]
    pairs["standard_error"] = np.hypot(error.astype(float), of_other.astype(float))
    pairs["value"] = value - other
    for name, worst in WORST.items():
        at = pairs["name"] == name
        pairs.loc[at, "value"] = worst(value[at], other[at])
    return pairs[estimates.columns]


def _said(
    runs: pd.DataFrame, baselines: pd.DataFrame, others: pd.DataFrame, values: Sequence[str]
) -> list[str]:
    said = [
        f"Differences from {', '.join(values)}, of the same data and seed; ± is of the data's own "
        "differences."
    ]
    if alone := len(set(runs["id"]) - set(baselines["id"]) - set(others["id"])):
        said.append(f"{alone} run(s) have no such baseline.")
    return said
