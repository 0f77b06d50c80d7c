"""Brings a database of an earlier version up to date, in its place."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, Table, insert, select, text, update

from utils.results import schema
from utils.results.migrations import method_of
from utils.results.views import create_views, drop_views

FIRST, WITHOUT_LABELS = 1, 2


def upgrade(connection: Connection, version: int | None) -> bool:
    """Give a database of an earlier ``version`` the tables of today; whether that is known how.

    All within the caller's transaction: other processes see the old form or the new one.
    """
    if version not in (FIRST, WITHOUT_LABELS):
        return False
    if version == FIRST:
        _to_second(connection)
    schema.labels.create(connection)
    connection.execute(update(schema.schema_version).values(version=schema.VERSION))
    return True


def _to_second(connection: Connection) -> None:
    drop_views(connection)
    connection.execute(text("ALTER TABLE runs ADD COLUMN code TEXT NOT NULL DEFAULT '{}'"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN x_size BIGINT"))
    _renew_estimates(connection)
    create_views(connection)


def _renew_estimates(connection: Connection) -> None:
    """Make the labels of the first version into columns."""
    old = Table("estimates", MetaData(), autoload_with=connection)
    runs = connection.execute(select(schema.runs.c.id, schema.runs.c.config))
    configs = {row.id: row.config for row in runs}
    rows = [
        {**row, **method_of(row["phase"], row["estimator"], configs[row["run"]])._asdict()}
        for row in connection.execute(select(old)).mappings()
    ]
    old.drop(connection)
    schema.estimates.create(connection)
    if rows:
        connection.execute(insert(schema.estimates), rows)
