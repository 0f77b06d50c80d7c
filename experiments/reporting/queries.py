"""What reports are made of, as data frames: runs, metrics, summaries of estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Select, select

from experiments.reporting import ReportError
from experiments.reporting.statistics import Values
from utils.cli import did_you_mean
from utils.results import schema
from utils.results.database import ResultsDatabase
from utils.results.methods import UNITS, Method
from utils.results.records import MEMBERSHIP

LOCAL, ESTIMATE, SIMULATED = "local_optimisation", "estimate", "simulated"
"""The phases that estimate, and the split of data drawn from the model."""


def load_runs(database: ResultsDatabase, experiments: Sequence[str] = ()) -> pd.DataFrame:
    """The table ``runs``, of all or the given experiments, by experiment, hash and seed.

    A run counts for every experiment that asked for it, though it was done but once: ``home`` is
    the first, and of those that are wanted ``experiment`` is one. Raises ReportError when there
    are no runs, or none of an experiment.
    """
    c = schema.runs.c
    runs = _frame(database, select(schema.runs).order_by(c.experiment, c.hash, c.seed))
    if runs.empty:
        raise ReportError(
            f"the results database {database.name} is empty; `python main.py -config FILE` "
            "makes a run, `python plot_from_db.py rebuild` takes in the folders of earlier ones"
        )
    runs["home"] = runs["experiment"]
    if not experiments:
        return runs
    wanted = choose(_with_memberships(database, runs), "experiment", experiments)
    return wanted.drop_duplicates("id").reset_index(drop=True)


def _with_memberships(database: ResultsDatabase, runs: pd.DataFrame) -> pd.DataFrame:
    c = schema.links.c
    query = select(c.run.label("id"), c.target).where(c.kind == MEMBERSHIP)
    members = runs.merge(_frame(database, query), on="id")
    members["experiment"] = members.pop("target")
    everything = pd.concat([runs, members]) if len(members) else runs
    return everything.sort_values(["experiment", "hash", "seed"])


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The finished ones. Raises ReportError, saying what the others are, when there are none."""
    chosen = runs[runs["status"] == "finished"]
    if chosen.empty:
        counts = runs["status"].value_counts()
        others = ", ".join(f"{count} {status}" for status, count in counts.items())
        raise ReportError(f"no run is finished ({others}); --all includes the others")
    return chosen


def load_metrics(
    database: ResultsDatabase, runs: pd.DataFrame, names: Sequence[str] = ()
) -> pd.DataFrame:
    """Metrics of ``runs`` (run, phase, step, split, name, value), all names or the given ones.

    Raises ReportError when there are none.
    """
    table = schema.metrics
    query = select(table).order_by(*table.primary_key)
    metrics = _of_runs(_frame(database, _restricted(query, table, runs)), runs)
    if metrics.empty:
        raise ReportError(f"no metrics in {_count(runs)}")
    return choose(metrics, "name", names)


def estimate_names(database: ResultsDatabase, runs: pd.DataFrame) -> pd.DataFrame:
    """Which estimates ``runs`` have: the columns phase, split and name.

    Raises ReportError when there are none.
    """
    table = schema.estimates
    c = table.c
    query = select(c.run, c.phase, c.split, c.name).distinct()
    found = _of_runs(_frame(database, _restricted(query, table, runs)), runs)
    if found.empty:
        raise ReportError(f"no estimates in {_count(runs)}")
    return found[["phase", "split", "name"]].drop_duplicates()


def of_posteriors(estimates: pd.DataFrame) -> pd.DataFrame:
    """The rows about a run's posterior on its data: not of local optima, not of simulated data.

    All rows where there are no others: ``gaps`` shows what is left out here.
    """
    chosen = (estimates["phase"] != LOCAL) & (estimates["split"] != SIMULATED)
    return estimates[chosen] if chosen.any() else estimates


def load_estimates(
    database: ResultsDatabase, runs: pd.DataFrame, names: Sequence[str]
) -> pd.DataFrame:
    """Estimates of single data of ``runs`` by the given names; empty where there are none.

    Columns: those of the table ``estimates``.
    """
    table = schema.estimates
    query = select(table).where(table.c.name.in_(names)).order_by(*table.primary_key)
    return _of_runs(_frame(database, _restricted(query, table, runs)), runs)


def load_labels(database: ResultsDatabase, runs: pd.DataFrame) -> pd.DataFrame:
    """What the experiment of each row of ``runs`` calls it: the columns run, name and value."""
    table = schema.labels
    found = _frame(database, _restricted(select(table), table, runs))
    wanted = runs[["id", "experiment"]].rename(columns={"id": "run"})
    return found.merge(wanted, on=["run", "experiment"])[["run", "name", "value"]]


def with_totals(estimates: pd.DataFrame) -> pd.DataFrame:
    """The rows about dimensions of z as one row a run and name, their sum: so many active units.

    What the seed changes in it is all that is known of its error.
    """
    is_unit = estimates["estimator"] == UNITS
    if not is_unit.any():
        return estimates
    key = [name for name in estimates if name not in ("datum", "value", "standard_error")]
    totals = estimates[is_unit].groupby(key, as_index=False)["value"].sum()
    return pd.concat([estimates[~is_unit], totals.assign(datum=0, standard_error=np.nan)])


def values_of(rows: pd.DataFrame) -> Values:
    """The values of one run's rows of one name and method, by datum."""
    rows = rows.sort_values("datum")
    value, error = (rows[name].to_numpy(dtype=float) for name in ("value", "standard_error"))
    return Values(rows["datum"].to_numpy(), value, error)


def by_method(frame: pd.DataFrame) -> dict[Method, pd.DataFrame]:
    """The rows of ``frame``, or of anything with a method's columns, by method."""
    groups = frame.groupby(list(Method._fields))
    return {Method(*map(str, key)): rows for key, rows in groups}


def status_note(runs: pd.DataFrame) -> list[str]:
    """What a caption says of runs that are not finished; nothing where all are."""
    counts = runs["status"].value_counts().drop("finished", errors="ignore")
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    return [f"Includes runs that are not finished ({parts})."] if parts else []


def choose(frame: pd.DataFrame, column: str, wanted: Sequence[Any]) -> pd.DataFrame:
    """Rows whose ``column`` is one of ``wanted``; all rows when nothing is wanted.

    Raises ReportError, naming what there is, when one of ``wanted`` is not.
    """
    if not wanted:
        return frame
    check_choice(column, wanted, sorted(frame[column].unique()))
    return frame[frame[column].isin(wanted)]


def check_choice(kind: str, wanted: Sequence[Any], present: Sequence[Any]) -> None:
    """Raise ReportError, naming what there is, when one of ``wanted`` is not ``present``."""
    for value in wanted:
        if value not in present:
            raise ReportError(
                f"no {kind} '{value}' here; there is: {', '.join(present)}"
                f"{did_you_mean(value, present)}"
            )


def _frame(database: ResultsDatabase, query: Select[Any]) -> pd.DataFrame:
    columns = [column.name for column in query.selected_columns]
    return pd.DataFrame(database.rows(query), columns=columns)


def _restricted(query: Select[Any], table: Any, runs: pd.DataFrame) -> Select[Any]:
    """Let the database drop other experiments; a list of all run ids could be too long for it."""
    experiments = runs["home"].unique().tolist()
    of_experiment = select(schema.runs.c.id).where(schema.runs.c.experiment.in_(experiments))
    return query.where(table.c.run.in_(of_experiment))


def _of_runs(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["run"].isin(runs["id"])]


def _count(runs: pd.DataFrame) -> str:
    return "the one run chosen" if len(runs) == 1 else f"the {len(runs)} runs chosen"
