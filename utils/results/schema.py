"""The results database: tables, views, and what SQL dialects do to numbers.

NaN is stored as NULL, because SQLite does so anyway: ``value`` is never unknown, so NULL there
reads as NaN. Views give NULL for the mean of values of which one is NaN, never the mean of the
others. Infinities stay what they are; SQLite turns -0.0 into 0.0.
"""

from __future__ import annotations

import json
import math
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

VERSION = 1


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


def _short_text(name: str, length: int = 160, **options: Any) -> Column[str]:
    return Column(name, String(length), nullable=False, **options)


def _run_key() -> Column[str]:
    return Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)


metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", String(96), primary_key=True),
    _short_text("experiment"),
    _short_text("hash", 96),
    Column("seed", BigInteger, nullable=False),
    _short_text("status", 16),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger),
    _short_text("started", 32),
    _short_text("heartbeat", 32),
    _short_text("finished", 32),
    Column("message", Text, nullable=False),
    Column("git_commit", Text, nullable=False),
    Column("git_dirty", Boolean),
    Column("versions", JsonText, nullable=False),
    Column("device", Text, nullable=False),
    _short_text("dataset"),
    _short_text("binarisation"),
    Column("data_checksum", Text, nullable=False),
    Column("config", JsonText, nullable=False),
    Column("posterior", Text, nullable=False),
    Column("loss", Text, nullable=False),
    Column("num_parameters", BigInteger),
    Column("wall_seconds", OptionalReal),
    Column("peak_memory_mb", OptionalReal),
    Column("folder", Text, nullable=False),
    Index("runs_by_experiment", "experiment", "hash"),
)

# sqlite_with_rowid=False keeps rows in the order of their key: half the size, and one run's rows
# lie together. Other dialects ignore it.
metrics = Table(
    "metrics",
    metadata,
    _run_key(),
    _short_text("phase", 64, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    _short_text("split", 64, primary_key=True),
    _short_text("name", primary_key=True),
    Column("value", Real),
    Index("metrics_by_name", "name", "split"),
    sqlite_with_rowid=False,
)

estimates = Table(
    "estimates",
    metadata,
    _run_key(),
    _short_text("phase", 64, primary_key=True),
    _short_text("estimator", primary_key=True),
    _short_text("split", 64, primary_key=True),
    _short_text("name", primary_key=True),
    Column("datum", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Real),
    Column("standard_error", OptionalReal),
    sqlite_with_rowid=False,
)

# No foreign key on target: the run pointed at may live in another folder or come in later.
links = Table(
    "links",
    metadata,
    _run_key(),
    Column("target", String(96), primary_key=True),
    _short_text("kind", 64, primary_key=True),
    sqlite_with_rowid=False,
)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)
