"""The database made anew out of run folders, whatever lies in its place."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import plot_from_db
from tests.run_rows import a_record, sql
from utils.results import database as database_module
from utils.results.database import DatabaseError, ResultsDatabase, database_url
from utils.results.folder import RunFolder
from utils.results.rebuilding import database_for_rebuilding
from utils.results.records import Metric

ROWS = [Metric("train", step, "train", "loss", step / 7) for step in range(300)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One run, in its folder and in the database."""
    record = a_record(status="finished")
    folder = RunFolder(tmp_path / "runs" / record.id)
    folder.create()
    folder.metrics.append(ROWS)
    folder.write_status(record, vouch=True)
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        database.import_run(folder)
    return tmp_path


def spoil(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "random":
        file.write_bytes(bytes((i * 7919 + 13) % 251 for i in range(5000)))
    elif how == "cut in the middle":
        file.write_bytes(content[: len(content) // 2])
    elif how == "a page overwritten":
        middle = len(content) // 8192 * 4096
        file.write_bytes(content[:middle] + b"\xaa" * 4096 + content[middle + 4096 :])
    elif how == "header only":
        file.write_bytes(content[:100])
    elif how == "foreign":
        file.unlink()
        sqlite3.connect(file).execute("CREATE TABLE runs (x)").connection.close()
    elif how == "without a column":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("ALTER TABLE runs DROP COLUMN git_dirty")
    elif how == "of a later version":
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("UPDATE schema_version SET version = 99")
    elif how in ("folder", "full folder"):
        file.unlink()
        file.mkdir()
        if how == "full folder":
            (file / "thesis").write_text("dear")
    elif how == "empty":
        file.write_bytes(b"")


DAMAGES = [
    *("random", "cut in the middle", "a page overwritten", "header only", "foreign"),
    *("without a column", "of a later version", "folder", "full folder"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_rebuild_makes_the_database_anew_and_keeps_what_was_there(root, capsys, how):
    file = root / "results.sqlite"
    spoil(file, how)
    assert plot_from_db.main(["rebuild", "--results", str(root)]) == 0
    said = capsys.readouterr().err
    kept = root.glob("results.sqlite.replaced-*")
    (aside,) = (path for path in kept if not path.name.endswith(("-wal", "-shm")))
    assert f"it is kept as {aside}" in said
    assert "1 runs" in said
    assert sql(root, "SELECT count(*) AS n FROM metrics") == [{"n": len(ROWS)}]
    if how == "full folder":
        assert (aside / "thesis").read_text() == "dear"


@pytest.mark.parametrize("how", ["sound", "empty"])
def test_a_sound_database_stays_where_it_is(root, how):
    spoil(root / "results.sqlite", how)
    assert plot_from_db.main(["rebuild", "--results", str(root)]) == 0
    assert sql(root, "SELECT count(*) AS n FROM metrics") == [{"n": len(ROWS)}]
    assert not list(root.glob("*.replaced-*"))


def test_a_locked_database_is_not_taken_for_a_damaged_one(root, capsys, monkeypatch):
    patient = database_module._engine
    monkeypatch.setattr(
        database_module, "_engine", lambda url, create, busy_timeout: patient(url, create, 0.1)
    )
    with closing(sqlite3.connect(root / "results.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        assert plot_from_db.main(["rebuild", "--results", str(root)]) == 1
    said = capsys.readouterr().err
    assert f"{root / 'results.sqlite'}: database is locked" in said
    assert "anew" not in said
    assert not list(root.glob("*.replaced-*"))


def test_a_pipe_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "results.sqlite")
    with pytest.raises(DatabaseError, match="is a device or a pipe"):
        database_for_rebuilding(database_url(tmp_path))


def test_reports_of_a_damaged_database_say_how_to_make_it_anew(root, capsys):
    spoil(root / "results.sqlite", "random")
    assert plot_from_db.main(["runs", "--results", str(root)]) == 1
    said = capsys.readouterr().err
    assert f"{root / 'results.sqlite'}: file is not a database" in said
    assert "`python plot_from_db.py rebuild` makes it anew" in said
    assert "Error" not in said
