"""The results database: tables, views, and what SQL dialects do to numbers.

NaN is stored as NULL, because SQLite does so anyway: ``value`` is never unknown, so NULL there
reads as NaN. Views give NULL for the mean of values of which one is NaN, never the mean of the
others. Infinities stay what they are; SQLite turns -0.0 into 0.0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from utils.results.columns import columns_of
from utils.results.records import RUN_ID_LENGTH, Estimate, Label, Link, Metric, RunRecord

VERSION = 3


class OptionalReal(TypeDecorator[float]):
    """A double; NaN and None are both NULL and read as None."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """NaN to NULL."""
        return None if value is None or math.isnan(value) else value


class Real(OptionalReal):
    """A double; NaN is NULL and reads as NaN."""

    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> float:
        """NULL to NaN."""
        return math.nan if value is None else value


class JsonText(TypeDecorator[Any]):
    """Plain data as JSON text, in every SQL dialect."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Data to text; what JSON does not know (paths, dates) by its str."""
        return json.dumps(value, default=str)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Text to data."""
        return json.loads(value)


TYPES: Mapping[Any, tuple[type[TypeEngine[Any]], bool]] = {
    str: (Text, False),
    int: (BigInteger, False),
    int | None: (BigInteger, True),
    bool | None: (Boolean, True),
    float: (Real, True),
    float | None: (OptionalReal, True),
    Mapping[str, str]: (JsonText, False),
    Mapping[str, Any]: (JsonText, False),
}
"""By the type of a row's column: the SQL type, and whether it may be NULL."""


def _columns(row_type: type) -> Iterator[Column[Any]]:
    """The SQL columns of a row type; a text of limited length is a VARCHAR."""
    for name, kind, (length, is_key) in columns_of(row_type):
        sql_type, nullable = TYPES.get(kind, (Text, False))
        yield Column(
            name,
            sql_type() if length is None else String(length),
            nullable=nullable,
            primary_key=is_key,
            autoincrement=False,
        )


def _table_of_rows(name: str, row_type: type, *others: SchemaItem) -> Table:
    """Table of the rows that runs have, each with the run's id before it.

    ``sqlite_with_rowid=False`` keeps rows in the order of their key: half the size, and one run's
    rows lie together. Other dialects ignore it.
    """
    run: Column[str] = Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    return Table(name, metadata, run, *_columns(row_type), *others, sqlite_with_rowid=False)


metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", String(RUN_ID_LENGTH), primary_key=True),
    *_columns(RunRecord),
    Index("runs_by_experiment", "experiment", "hash"),
)
metrics = _table_of_rows("metrics", Metric, Index("metrics_by_name", "name", "split"))
estimates = _table_of_rows("estimates", Estimate)
# No foreign key on target: the run pointed at may live in another folder or come in later.
links = _table_of_rows("links", Link)
labels = _table_of_rows("labels", Label)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)
