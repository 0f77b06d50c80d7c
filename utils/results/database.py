"""The results database: any SQL that SQLAlchemy speaks, SQLite unless told otherwise."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from utils.results import schema
from utils.results.folder import DamagedError, RunFolder, run_folders
from utils.results.records import Estimate, Link, Metric, RunRecord
from utils.results.upgrade import upgrade
from utils.results.views import create_views

Write = Callable[[Connection], None]

LOGIN_SECONDS = 5
MYSQL = ("mysql", "mariadb")
MYSQL_DEADLOCK, SQL_DEADLOCK = 1213, "40P01"
DEADLOCKS = 5  # in a row; more are no accident
CREATIONS = 20  # tries: of two processes that create tables at once, each may lose at each table
REFUSED = re.compile(
    r"authentication failed|no password supplied|access denied for user|login failed"
    r"|role \S+ does not exist",
    re.IGNORECASE,
)
"""What PostgreSQL, MySQL and SQL Server say to a wrong user or password."""

WRITING = "plumbline_writing"  # the execution option of a transaction that will write

NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "9p", "fuse")


class DatabaseError(RuntimeError):
    """The results database is missing, of another version, or its URL is no use."""


class Rebuilt(NamedTuple):
    """What a rebuild did: the runs it took in, and the folders it could not read, with why."""

    imported: list[str]
    skipped: list[str]


def database_url(root: Path, given: str | None = None) -> str:
    """The URL as given, else $VI_DB, else that of ``results.sqlite`` in the results root."""
    if url := given or os.environ.get("VI_DB"):
        return url
    # Not put together by hand: a path may hold `?`, `#` or `%`.
    path = URL.create("sqlite", database=str(root / "results.sqlite"))
    return path.render_as_string(hide_password=False)


def masked(text: str) -> str:
    """``text`` with *** for every password that a URL in it gives; for whatever people see.

    From the first colon of a URL's user to the last @, for a password may hold any character.
    """
    text = re.sub(r"(:/*[^:@/?]*:).*@", r"\1***@", text)
    return re.sub(r"(?i)([?&;][^=&;?]*(?:passw|pwd|secret|token)[^=&;]*=)[^&;]*", r"\1***", text)


def check_url(url: str) -> URL:
    """The parsed URL.

    Raises DatabaseError when it is no URL, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except ArgumentError:
        raise DatabaseError(
            f"{masked(url)!r} is not a database URL; one is like sqlite:///results/results.sqlite "
            "or postgresql://user@host/name"
        ) from None
    except (NoSuchModuleError, ImportError) as error:
        reason = f"{masked(url)!r} needs a driver that is not there: {error}"
        raise DatabaseError(reason) from error
    return parsed


def check_login(url: str) -> None:
    """Raise DatabaseError where the URL is no use, or the server refuses its user or password.

    A server that does not answer is no error: the run's folder holds the results meanwhile.
    """
    parsed = check_url(url)
    if parsed.get_backend_name() == "sqlite":
        return
    patience = {"connect_timeout": LOGIN_SECONDS} if "connect_timeout" not in parsed.query else {}
    known = parsed.get_backend_name() in ("postgresql", *MYSQL)
    engine = create_engine(parsed, connect_args=patience if known else {})
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        reason = first_line(error)
        if REFUSED.search(reason):
            raise DatabaseError(
                f"{masked(url)!r} refuses the user or the password: {reason}"
            ) from error
    finally:
        engine.dispose()


class ResultsDatabase:
    """Reads and writes the results database at ``url``.

    Args:
        url: any SQLAlchemy URL.
        create: make file, tables and views where they are missing.
        busy_timeout: seconds to wait for another writer (SQLite).

    Raises DatabaseError for a useless URL, another version's schema, or, unless ``create``, when
    there is no such database; SQLAlchemy's errors when it does not answer.
    """

    def __init__(self, url: str, *, create: bool = True, busy_timeout: float = 10.0) -> None:
        self.name = masked(url)
        self.engine = _engine(check_url(url), create, busy_timeout)
        try:
            self._prepare(create)
        except BaseException:
            self.close()
            raise

    def _prepare(self, create: bool) -> None:
        """See to it that the schema is this program's."""
        found = self._version()
        if found is None and create:
            self._create_schema()
        elif found is None:
            raise DatabaseError(f"{self.name} is not a results database: its tables are missing")
        elif found != schema.VERSION and not self._upgrade():
            raise DatabaseError(
                f"{self.name} has schema {found}, this program needs {schema.VERSION}: move it "
                "away and build a new one with `python plot_from_db.py rebuild`"
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def query(self, statement: Select[Any]) -> list[dict[str, Any]]:
        """The rows that a SELECT gives."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def rows(self, statement: Select[Any]) -> list[tuple[Any, ...]]:
        """The same without names, which take memory where rows are many."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(statement)]

    def apply(self, writes: Iterable[Write]) -> None:
        """Do all ``writes`` in one transaction, which is repeated where it met a deadlock."""
        writes = list(writes)
        for _ in range(DEADLOCKS):
            try:
                return self._apply(writes)
            except OperationalError as error:
                if not is_deadlock(error):
                    raise
        return self._apply(writes)

    def _apply(self, writes: Iterable[Write]) -> None:
        with self._writing() as connection:
            for write in writes:
                write(connection)

    def upsert_run(self, record: RunRecord) -> None:
        """Insert the run, or replace what is known of it."""
        self.apply([run_write(record)])

    def add_metrics(self, run: str, rows: Sequence[Metric]) -> None:
        """Add rows; one with the same phase, step, split and name is replaced."""
        self.apply([rows_write(schema.metrics, run, rows)])

    def add_estimates(self, run: str, rows: Sequence[Estimate]) -> None:
        """Add rows; one with the same phase, method, split, name and datum is replaced."""
        self.apply([rows_write(schema.estimates, run, rows)])

    def add_links(self, run: str, rows: Sequence[Link]) -> None:
        """Add links; one that is there stays."""
        self.apply([rows_write(schema.links, run, rows)])

    def import_run(self, folder: RunFolder) -> str:
        """Make the database hold of a run exactly what its folder holds; returns the run's id.

        Raises ValueError when the folder is no run's, has not its name, or a file is damaged, or
        when a finished run would lose rows that the database has; nothing is changed then.
        """
        record = folder.read_status()
        if record is None:
            raise ValueError(f"{folder.path} is not a run folder: it has no status.json")
        if Path(os.path.abspath(folder.path)).name != record.id:  # noqa: PTH100 (follows links)
            raise ValueError(f"{folder.path} is a copy of run {record.id} under another name")
        record = replace(record, folder=str(folder.path.resolve()))
        logs = (
            (schema.metrics, folder.metrics.read()),
            (schema.estimates, folder.estimates.read()),
            (schema.links, folder.links.read()),
            (schema.labels, folder.labels.read()),
        )
        if damage := folder.damage():
            raise DamagedError("; ".join(damage))
        vouched_for = record.status != "finished" or folder.is_vouched_for()
        with self._writing() as connection:
            if not vouched_for:
                _refuse_to_lose_rows(connection, folder, record, logs)
            run_write(record)(connection)
            for table, rows in logs:
                connection.execute(delete(table).where(table.c.run == record.id))
                _insert(connection, table, record.id, rows)
        return record.id

    def rebuild(self, root: Path) -> Rebuilt:
        """Import every run folder below a results root; runs from elsewhere stay as they are."""
        rebuilt = Rebuilt([], [])
        for folder in run_folders(root):
            try:
                rebuilt.imported.append(self.import_run(folder))
            except (ValueError, OSError) as error:
                rebuilt.skipped.append(str(error))
            except (IntegrityError, DataError) as error:
                rebuilt.skipped.append(f"{folder.path}: {first_line(error)}")
        return rebuilt

    def _writing(self) -> AbstractContextManager[Connection]:
        return self.engine.execution_options(**{WRITING: True}).begin()

    def _create_schema(self) -> None:
        for _ in range(CREATIONS - 1):
            try:
                self._create_missing()
                return
            except DBAPIError:  # another process may have created a table between look and leap
                continue
        self._create_missing()

    def _create_missing(self) -> None:
        with self._writing() as connection:
            schema.metadata.create_all(connection)
            create_views(connection)
            if connection.scalar(select(schema.schema_version.c.version)) is None:
                connection.execute(insert(schema.schema_version).values(version=schema.VERSION))

    def _upgrade(self) -> bool:
        """Bring an earlier version up to date; whether the schema is now that of the program."""
        with self._writing() as connection:  # another process may have done it by now
            version = connection.scalar(select(schema.schema_version.c.version))
            return version == schema.VERSION or upgrade(connection, version)

    def _version(self) -> int | None:
        if not inspect(self.engine).has_table(schema.schema_version.name):
            return None
        with self.engine.connect() as connection:
            return connection.scalar(select(schema.schema_version.c.version))


def first_line(error: BaseException) -> str:
    """An error in one line: the driver's own words rather than SQLAlchemy's page."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n", 1)[0] or type(cause).__name__


def is_deadlock(error: DBAPIError) -> bool:
    """Whether MySQL or PostgreSQL says that two transactions waited for each other."""
    number = next(iter(getattr(error.orig, "args", ())), None)
    return number == MYSQL_DEADLOCK or getattr(error.orig, "sqlstate", None) == SQL_DEADLOCK


def is_damage(error: DBAPIError) -> bool:
    """Whether SQLite says that a file is none of its own, or is damaged."""
    code = getattr(error.orig, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def run_write(record: RunRecord) -> Write:
    """Insert or update the row of a run."""
    row = record.as_row()

    def write(connection: Connection) -> None:
        known = connection.execute(
            update(schema.runs).where(schema.runs.c.id == record.id).values(row)
        )
        if known.rowcount == 0:
            connection.execute(insert(schema.runs).values(row))

    return write


def rows_write(table: Table, run: str, rows: Sequence[tuple[Any, ...]]) -> Write:
    """Insert rows (``Metric``, ``Estimate``, ...) in place of those with the same key."""
    key = [column for column in table.primary_key if column.name != "run"]
    same = and_(table.c.run == run, *(column == bindparam(f"old_{column.name}") for column in key))

    def write(connection: Connection) -> None:
        old = [{f"old_{c.name}": getattr(row, c.name) for c in key} for row in rows]
        if old:
            connection.execute(delete(table).where(same), old)
        _insert(connection, table, run, rows)

    return write


def _refuse_to_lose_rows(
    connection: Connection,
    folder: RunFolder,
    record: RunRecord,
    logs: Iterable[tuple[Table, Sequence[Any]]],
) -> None:
    status = select(schema.runs.c.status).where(schema.runs.c.id == record.id)
    if connection.scalar(status) != "finished":
        return
    for table, rows in logs:
        query = select(func.count()).select_from(table).where(table.c.run == record.id)
        known = connection.scalar(query) or 0
        if known > len(rows):
            raise DamagedError(
                f"{folder.path} has {len(rows)} rows of {table.name}, the database has {known}: "
                "rows of the folder are lost"
            )


def _insert(
    connection: Connection, table: Table, run: str, rows: Iterable[tuple[Any, ...]]
) -> None:
    names = [column.name for column in table.columns if column.name != "run"]
    key = [column.name for column in table.primary_key if column.name != "run"]
    key_of = attrgetter(*key)
    by_key = {key_of(row): row for row in rows}  # the last one wins
    values = [{"run": run, **dict(zip(names, row, strict=True))} for row in by_key.values()]
    if values:
        connection.execute(insert(table), values)


def _engine(url: URL, create: bool, busy_timeout: float) -> Engine:
    if url.get_backend_name() in MYSQL:
        # Its default locks gaps between rows, too, over which runs that write at once deadlock.
        return create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    file = Path(url.database or "")
    if create:
        file.parent.mkdir(parents=True, exist_ok=True)
    elif not file.exists():
        raise DatabaseError(
            f"there is no results database {file}; `python main.py -config FILE` makes one, "
            "`python plot_from_db.py rebuild` builds it out of run folders"
        )
    engine = create_engine(url)

    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # `begin` below begins, not the driver when it likes
        connection.create_function("sqrt", 1, _sqrt, deterministic=True)  # not in every build
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {round(busy_timeout * 1000)}")
        cursor.execute("PRAGMA foreign_keys = ON")
        if not on_network(file):
            # SQLite does not wait for others here, so two that start together may collide; the
            # journal works either way, and the next connection switches
            with contextlib.suppress(sqlite3.OperationalError):
                cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()

    def begin(connection: Connection) -> None:
        # A writer takes the lock before it looks: a transaction that began as a reader fails at
        # once, without waiting, when another has written since
        writing = connection.get_execution_options().get(WRITING, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def _sqrt(value: float | None) -> float | None:
    return None if value is None or value < 0 else math.sqrt(value)


def on_network(file: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether ``file`` is on a network file system, where WAL's shared memory does not work."""
    if not mounts.exists():
        return False
    words = [line.split() for line in mounts.read_text(errors="surrogateescape").splitlines()]
    kinds = {Path(_unescaped(line[1])): line[2] for line in words}
    resolved = file.resolve()
    mount = next((path for path in resolved.parents if path in kinds), None)
    return mount is not None and kinds[mount].startswith(NETWORK_FILE_SYSTEMS)


def _unescaped(path: str) -> str:
    """A path of /proc/mounts, where a blank is written as its octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
