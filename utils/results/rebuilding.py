"""The database made anew out of the run folders, whatever lies in its place."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from utils.results import schema
from utils.results.database import (
    DatabaseError,
    ResultsDatabase,
    check_url,
    is_damage,
    masked,
)
from utils.results.records import stamp


def database_for_rebuilding(url: str) -> tuple[ResultsDatabase, Path | None]:
    """The database at ``url``, sound and of this version, and where what was there is kept now.

    An SQLite file that is damaged, foreign or of a version without a way to this one, or a folder
    in its place, is moved aside. Raises DatabaseError where nobody should write at all.
    """
    parsed = check_url(url)
    path = Path(parsed.database or "")
    if parsed.get_backend_name() != "sqlite" or not path.name or not path.exists():
        return ResultsDatabase(url), None
    if not path.is_file() and not path.is_dir():
        raise DatabaseError(f"{masked(url)} is a device or a pipe: name a file with --db")
    aside = None if path.is_file() and _is_sound(url, path) else _move_aside(path)
    return ResultsDatabase(url), aside


def _is_sound(url: str, file: Path) -> bool:
    if file.stat().st_size == 0:
        return True  # how SQLite keeps an empty database
    try:
        database = ResultsDatabase(url, create=False)
        try:
            with database.engine.connect() as connection:
                check = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
                found = inspect(connection)
                return check == "ok" and all(
                    found.has_table(table.name)
                    and {column["name"] for column in found.get_columns(table.name)}
                    >= {column.name for column in table.columns}
                    for table in schema.metadata.sorted_tables
                )
        finally:
            database.close()
    except DatabaseError:
        return False
    except DBAPIError as error:
        if is_damage(error):
            return False
        raise  # locked, or not to be read: nothing is wrong with the file


def _move_aside(path: Path) -> Path:
    """Give it, and the journals beside it, another name."""
    aside = path.with_name(f"{path.name}.replaced-{stamp()}")
    path.rename(aside)
    for suffix in ("-wal", "-shm", "-journal"):
        journal = path.with_name(path.name + suffix)
        if journal.exists():
            journal.rename(aside.with_name(aside.name + suffix))
    return aside
