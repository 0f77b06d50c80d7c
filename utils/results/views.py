"""Views of the results database: the summaries that tables and curves are made of.

They are plain SQL in every dialect, so that any SQL tool can read them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    TableClause,
    and_,
    case,
    column,
    func,
    inspect,
    select,
    table,
    text,
)

from utils.results.methods import Method
from utils.results.schema import OptionalReal, Real, estimates, metrics, runs

CONFIGURATION = ("experiment", "hash", "dataset", "binarisation", "posterior", "loss")
ESTIMATED = ("phase", *Method._fields, "split", "name")


def _mean(value: ColumnElement[Any]) -> ColumnElement[float]:
    whole = func.count(value) == func.count()
    return case((whole, func.avg(value)), else_=None)


def _standard_deviation(value: ColumnElement[Any]) -> ColumnElement[float]:
    """Sample standard deviation (n - 1); NULL for one value, or when one is NaN.

    Written out because SQLite has no STDDEV. Rounding may put the sum of squares below 0; that
    of infinities is neither above nor below it.
    """
    count = func.count(value)
    squares = func.sum(value * value) - count * func.avg(value) * func.avg(value)
    whole = and_(count == func.count(), count > 1)
    return case(
        (and_(whole, squares > 0), func.sqrt(squares / (count - 1))),
        (and_(whole, squares <= 0), 0.0),
    )


def _run_estimates() -> Select[Any]:
    """One row a run, method, split and name, over its data.

    ``standard_error`` is the Monte-Carlo error of the mean (data have independent errors), NULL
    where one datum has none.
    """
    described = [runs.c[name] for name in (*CONFIGURATION, "seed", "status")]
    grouped = [estimates.c[name] for name in ESTIMATED]
    error = estimates.c.standard_error
    known = func.count(error) == func.count()
    return (
        select(
            estimates.c.run,
            *described,
            *grouped,
            _mean(estimates.c.value).label("mean"),
            _standard_deviation(estimates.c.value).label("standard_deviation"),
            case((known, func.sqrt(func.sum(error * error)) / func.count())).label(
                "standard_error"
            ),
            func.count().label("num_data"),
        )
        .join_from(estimates, runs)
        .group_by(estimates.c.run, *described, *grouped)
    )


def _configuration_estimates() -> Select[Any]:
    """The same over the finished runs of each configuration: mean, standard error over seeds."""
    grouped = [run_estimates.c[name] for name in (*CONFIGURATION, *ESTIMATED)]
    mean = run_estimates.c.mean
    return (
        select(
            *grouped,
            _mean(mean).label("mean"),
            (_standard_deviation(mean) / func.sqrt(func.count())).label("standard_error"),
            func.count().label("num_runs"),
        )
        .where(run_estimates.c.status == "finished")
        .group_by(*grouped)
    )


def _last_metrics() -> Select[Any]:
    """The last step of each metric of each run."""
    key = [metrics.c[name] for name in ("run", "phase", "split", "name")]
    last = select(*key, func.max(metrics.c.step).label("step")).group_by(*key).subquery()
    described = [runs.c[name] for name in (*CONFIGURATION, "seed", "status")]
    return (
        select(*key, *described, metrics.c.step, metrics.c.value)
        .join_from(metrics, last, and_(*(metrics.c[entry.name] == entry for entry in last.c)))
        .join(runs, runs.c.id == metrics.c.run)
    )


_REAL_COLUMNS = {
    "value": Real(),
    "mean": Real(),
    "standard_deviation": OptionalReal(),
    "standard_error": OptionalReal(),
}


def _view(name: str, definition: Select[Any]) -> TableClause:
    names = [entry.name for entry in definition.selected_columns]
    return table(name, *(column(entry, _REAL_COLUMNS.get(entry)) for entry in names))


_definitions = {"run_estimates": _run_estimates()}
run_estimates = _view("run_estimates", _definitions["run_estimates"])
_definitions["configuration_estimates"] = _configuration_estimates()
_definitions["last_metrics"] = _last_metrics()


def create_views(connection: Connection) -> None:
    """Create the views that are missing."""
    present = set(inspect(connection).get_view_names())
    for name, definition in _definitions.items():
        if name not in present:
            sql = definition.compile(connection, compile_kwargs={"literal_binds": True})
            connection.execute(text(f"CREATE VIEW {name} AS {sql}"))


def drop_views(connection: Connection) -> None:
    """Drop the views, so that their tables can be changed."""
    for name in inspect(connection).get_view_names():
        if name in _definitions:
            connection.execute(text(f"DROP VIEW {name}"))
