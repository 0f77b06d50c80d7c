"""Run folders, the results database, and the recorder between them."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event, select, text

from utils.results import database as database_module
from utils.results import recorder as recorder_module
from utils.results import schema, views
from utils.results.database import (
    DatabaseError,
    ResultsDatabase,
    check_url,
    database_url,
    on_network,
)
from utils.results.folder import REAL, RunFolder, results_root
from utils.results.recorder import Recorder
from utils.results.records import Estimate, Link, Metric, RunRecord

REPOSITORY = Path(__file__).parent.parent
QUICK = {"linger": 0.01, "busy_timeout": 0.05}
NUMBERS = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan]


def a_record(config_hash: str = "abc", seed: int = 0, **changes: Any) -> RunRecord:
    known = {"dataset": "digits", "binarisation": "static", "posterior": "planar", "loss": "elbo"}
    return RunRecord("expA", config_hash, seed, **(known | changes))


def folder_of(root: Path, record: RunRecord) -> RunFolder:
    return RunFolder(root / "runs" / record.id)


def url_of(root: Path) -> str:
    return database_url(root)


def dump(url: str) -> dict[str, list[tuple[str, ...]]]:
    """All rows of all tables; as text, because NaN does not equal itself."""
    tables = (schema.runs, schema.metrics, schema.estimates, schema.links)
    with closing(ResultsDatabase(url, create=False)) as database:
        rows = {table.name: database.query(select(table)) for table in tables}
    return {
        name: sorted(tuple(map(repr, r.values())) for r in found) for name, found in rows.items()
    }


def values_of(database: ResultsDatabase) -> dict[tuple[Any, ...], float]:
    rows = database.query(select(schema.metrics))
    return {(r["phase"], r["step"], r["split"], r["name"]): r["value"] for r in rows}


def sql(root: Path, query: str) -> list[dict[str, Any]]:
    """What any SQL tool would see."""
    with closing(sqlite3.connect(root / "results.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


@contextmanager
def lock_on(path: Path) -> Iterator[None]:
    """Hold the write lock of an SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


# --- records and folder -------------------------------------------------------------------------


def test_run_record_and_runs_table_have_the_same_columns() -> None:
    assert list(a_record().as_row()) == [column.name for column in schema.runs.columns]


def test_run_record_survives_status_json(tmp_path: Path) -> None:
    record = a_record(
        config={"posterior": {"num_layers": 3}}, versions={"torch": "2"}, wall_seconds=0.1, pid=7
    )
    folder = folder_of(tmp_path, record)
    folder.create()
    folder.write_status(record)
    assert folder.read_status() == record
    assert json.loads(folder.status_path.read_text())["id"] == "abc-s0"
    assert [path.name for path in folder.path.iterdir()] == ["status.json"]


def test_status_stays_whole_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    folder.create()
    folder.write_status(record)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"status\.json"):
        folder.write_status(a_record(message="new"))
    assert folder.read_status() == record


@given(st.floats())
def test_numbers_are_exact_in_csv(value: float) -> None:
    assert repr(REAL.parse(REAL.format(value))) == repr(value)


def test_csv_holds_columns_and_exact_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.append([Metric("train", 1, "test", "a,b", 0.1)])
    folder.estimates.append([Estimate("estimation", "iwae-5", "test", 0, "log_px", -1.5, None)])
    assert folder.metrics.path.read_text() == (
        'phase,step,split,name,value\ntrain,1,test,"a,b",0.1\n'
    )
    assert folder.estimates.path.read_text() == (
        "phase,estimator,split,datum,name,value,standard_error\n"
        "estimation,iwae-5,test,0,log_px,-1.5,\n"
    )
    assert folder.metrics.read() == [Metric("train", 1, "test", "a,b", 0.1)]
    assert folder.estimates.read()[0].standard_error is None


def test_torn_line_is_skipped_and_then_removed(tmp_path: Path) -> None:
    log = RunFolder(tmp_path).metrics
    rows = [Metric("train", step, "train", "loss", step / 7) for step in range(3)]
    log.append(rows[:2])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b"train,2,tra")
    assert log.read() == rows[:2]
    log.append(rows[2:])
    assert log.read() == rows
    assert log.path.read_bytes() == whole + b"train,2,train,loss,0.2857142857142857\n"


@pytest.mark.parametrize("torn", ["phase,st", ""])
def test_file_torn_in_its_header_starts_again(tmp_path: Path, torn: str) -> None:
    log = RunFolder(tmp_path).metrics
    log.path.write_text(torn)
    assert log.read() == []
    log.append([Metric("train", 1, "train", "loss", 1.0)])
    assert log.path.read_text() == "phase,step,split,name,value\ntrain,1,train,loss,1.0\n"


def test_truncating_and_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    log = RunFolder(tmp_path).metrics
    rows = [Metric("train", step, "train", "loss", step / 7) for step in range(6)]
    log.append(rows[:3])
    size = log.size()
    log.append(rows[3:5])
    log.append(rows[5:])
    uninterrupted = log.path.read_bytes()
    log.truncate(size)
    assert log.read() == rows[:3]
    log.append(rows[3:])
    assert log.path.read_bytes() == uninterrupted


@pytest.mark.parametrize("torn", ["", "train,6,tr"])
@pytest.mark.parametrize("num_rows", [0, 2, 5])
def test_keeping_the_first_rows(tmp_path: Path, num_rows: int, torn: str) -> None:
    log = RunFolder(tmp_path).metrics
    rows = [Metric("train", step, "train", "µ, 1", step / 7) for step in range(5)]
    log.append(rows)
    with log.path.open("a") as file:
        file.write(torn)
    log.keep_first(num_rows)
    assert log.read() == rows[:num_rows]
    with pytest.raises(ValueError, match="rows are lost"):
        log.keep_first(num_rows + 1)
    log.append(rows[num_rows:])
    assert log.read() == rows


def test_truncating_to_nothing(tmp_path: Path) -> None:
    log = RunFolder(tmp_path).metrics
    log.truncate(0)
    assert log.size() == 0
    log.append([Metric("train", 1, "train", "loss", 1.0)])
    log.truncate(0)
    assert log.read() == []


def test_truncating_where_rows_are_missing_is_refused(tmp_path: Path) -> None:
    log = RunFolder(tmp_path).metrics
    log.append([Metric("train", 1, "train", "loss", 1.0)])
    with pytest.raises(ValueError, match="rows are lost"):
        log.truncate(log.size() + 1)
    with pytest.raises(ValueError, match="not the end of a row"):
        log.truncate(log.size() - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("phase,step\n", r"metrics\.csv:1: the header"),
        ("phase,step,split,name,value\ntrain,1,train,loss,one\n", r"metrics\.csv:2: .*'one'"),
        ("phase,step,split,name,value\ntrain,1,train\n", r"metrics\.csv:2: "),
    ],
)
def test_damaged_csv_is_named(tmp_path: Path, content: str, message: str) -> None:
    log = RunFolder(tmp_path).metrics
    log.path.write_text(content)
    with pytest.raises(ValueError, match=message):
        log.read()


def test_names_stand_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one line"):
        RunFolder(tmp_path).metrics.append([Metric("train", 1, "train", "lo\nss", 1.0)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left.*metrics\.csv"):
        folder.metrics.append([Metric("train", 1, "train", "loss", 1.0)])


def test_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    record = a_record()
    with pytest.raises(OSError, match="abc-s0"):
        Recorder(folder_of(tmp_path, record), record, url_of(tmp_path), warn=pytest.fail)


def test_results_root_is_as_given_else_from_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("VI_RESULTS", "/elsewhere")
    assert results_root("here") == Path("here")
    assert results_root() == Path("/elsewhere")
    monkeypatch.delenv("VI_RESULTS")
    assert results_root() == Path("results")


# --- database -----------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ResultsDatabase]:
    with closing(ResultsDatabase(url_of(tmp_path))) as opened:
        yield opened


def test_metrics_round_trip_with_nan_and_infinities(database: ResultsDatabase) -> None:
    database.upsert_run(a_record())
    rows = [Metric("train", step, "train", "x", value) for step, value in enumerate(NUMBERS)]
    database.add_metrics("abc-s0", rows)
    stored = values_of(database)
    for step, value in enumerate(NUMBERS):
        assert repr(stored["train", step, "train", "x"]) == repr(value)


def test_standard_error_may_be_unknown(database: ResultsDatabase) -> None:
    database.upsert_run(a_record())
    errors = [0.25, None, math.nan]
    rows = [Estimate("e", "iwae-5", "test", d, "elbo", 1.0, e) for d, e in enumerate(errors)]
    database.add_estimates("abc-s0", rows)
    stored = database.query(select(schema.estimates).order_by(schema.estimates.c.datum))
    assert [row["standard_error"] for row in stored] == [0.25, None, None]


def test_run_is_replaced_and_keeps_its_metrics(database: ResultsDatabase) -> None:
    database.upsert_run(a_record(config={"a": [1, {"b": None}]}, git_dirty=True))
    database.add_metrics("abc-s0", [Metric("train", 1, "train", "loss", 1.0)])
    new = a_record(status="finished", config={"a": 2}, num_parameters=10**10)
    database.upsert_run(new)
    (row,) = database.query(select(schema.runs))
    assert RunRecord.from_row(row) == new
    assert len(values_of(database)) == 1


def test_rows_with_the_same_key_are_replaced(database: ResultsDatabase) -> None:
    database.upsert_run(a_record())
    key = ("train", 1, "train", "loss")
    database.add_metrics("abc-s0", [Metric(*key, 1.0), Metric(*key, 2.0)])
    assert values_of(database) == {key: 2.0}
    database.add_metrics("abc-s0", [Metric(*key, 3.0)])
    assert values_of(database) == {key: 3.0}


def test_rows_of_an_unknown_run_are_refused(database: ResultsDatabase) -> None:
    with pytest.raises(Exception, match="FOREIGN KEY"):
        database.add_metrics("nobody-s0", [Metric("train", 1, "train", "loss", 1.0)])


def test_run_estimates_view(database: ResultsDatabase) -> None:
    database.upsert_run(a_record())
    values = [-90.5, -87.25, -101.0, -79.125]
    errors = [0.1, 0.2, 0.3, 0.4]
    rows = [
        Estimate("e", "iwae-5", "test", d, "log_px", v, e)
        for d, (v, e) in enumerate(zip(values, errors, strict=True))
    ]
    broken = [Estimate("e", "iwae-5", "test", d, "elbo", v) for d, v in enumerate([1.0, math.nan])]
    infinite = [Estimate("e", "iwae-5", "test", d, "inf", v) for d, v in enumerate([1, -math.inf])]
    single = [Estimate("e", "iwae-5", "test", 0, "k_hat", 0.7)]
    same = [Estimate("e", "iwae-5", "test", d, "same", 0.1) for d in range(3)]
    database.add_estimates("abc-s0", rows + broken + infinite + single + same)
    stored = {row["name"]: row for row in database.query(select(views.run_estimates))}
    row = stored["log_px"]
    assert row["mean"] == pytest.approx(statistics.mean(values), rel=1e-14)
    # the view's one-pass formula loses about mean²/variance ≈ 100 units of rounding
    assert row["standard_deviation"] == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert row["standard_error"] == pytest.approx(math.hypot(*errors) / 4, rel=1e-14)
    assert (row["num_data"], row["posterior"], row["estimator"]) == (4, "planar", "iwae-5")
    assert math.isnan(stored["elbo"]["mean"])
    assert stored["elbo"]["standard_deviation"] is None
    assert stored["elbo"]["standard_error"] is None
    assert stored["inf"]["mean"] == -math.inf
    assert stored["inf"]["standard_deviation"] is None
    assert (stored["k_hat"]["mean"], stored["k_hat"]["standard_deviation"]) == (0.7, None)
    # equal up to rounding of the sum of squares: sqrt(3 * 2⁻⁵³ * 0.01) at most
    assert stored["same"]["standard_deviation"] == pytest.approx(0.0, abs=3e-9)


def test_configuration_estimates_view_is_over_finished_seeds(
    database: ResultsDatabase, tmp_path: Path
) -> None:
    means = [-87.5, -88.25, -86.0]
    for seed, mean in enumerate(means):
        database.upsert_run(a_record(seed=seed, status="finished"))
        rows = [Estimate("e", "iwae-5", "test", d, "elbo", mean + d - 1) for d in range(3)]
        database.add_estimates(f"abc-s{seed}", rows)
    database.upsert_run(a_record(seed=9, status="running"))
    database.add_estimates("abc-s9", [Estimate("e", "iwae-5", "test", 0, "elbo", 1e6)])
    (row,) = sql(tmp_path, "SELECT * FROM configuration_estimates")
    assert row["num_runs"] == 3
    assert row["mean"] == pytest.approx(statistics.mean(means), rel=1e-14)
    expected = statistics.stdev(means) / math.sqrt(3)
    assert row["standard_error"] == pytest.approx(expected, rel=1e-11)


def test_last_metrics_view(database: ResultsDatabase, tmp_path: Path) -> None:
    database.upsert_run(a_record())
    rows = [Metric("train", step, "train", "loss", step * 1.5) for step in (1, 10, 9)]
    rows.append(Metric("train", 3, "validation", "loss", math.nan))
    database.add_metrics("abc-s0", rows)
    stored = {row["split"]: row for row in sql(tmp_path, "SELECT * FROM last_metrics")}
    assert (stored["train"]["step"], stored["train"]["value"]) == (10, 15.0)
    assert stored["validation"]["step"] == 3
    assert stored["validation"]["value"] is None  # NaN, as SQL has it


def test_sqlite_uses_wal_on_local_disks(database: ResultsDatabase) -> None:
    with database.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"


def test_network_file_systems_are_known(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw\nserver:/x /shared nfs4 rw\ntmp /shared/t tmpfs rw\n")
    assert on_network(Path("/shared/deep/results.sqlite"), mounts)
    assert not on_network(Path("/shared/t/results.sqlite"), mounts)
    assert not on_network(Path("/home/results.sqlite"), mounts)
    assert not on_network(Path("/shared/results.sqlite"), tmp_path / "none")


def test_missing_and_foreign_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no results database"):
        ResultsDatabase(url_of(tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "results.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(DatabaseError, match="is no results database"):
        ResultsDatabase(url_of(tmp_path), create=False)


def test_database_of_another_version_is_refused(
    database: ResultsDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module.schema, "VERSION", 99)
    with pytest.raises(DatabaseError, match="has schema 1, this program needs 99"):
        ResultsDatabase(url_of(tmp_path))


@pytest.mark.parametrize("url", ["results.sqlite", "nonsense://host/name"])
def test_useless_urls_are_refused(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"is no database URL|needs a driver"):
        check_url(url)


# --- recorder -----------------------------------------------------------------------------------


def record_some(recorder: Recorder, steps: range = range(1, 6)) -> None:
    for step in steps:
        recorder.add_metrics("train", step, "train", {"bound": -1 / step, "bad": math.nan})
    recorder.add_estimates(
        Estimate("estimation", "iwae-5", "test", d, "log_px", -d / 3, 0.1) for d in range(7)
    )
    recorder.add_link("trained-s0", "trained model")
    recorder.add_link("trained-s0", "trained model")


def finished_run(root: Path, seed: int = 0) -> RunFolder:
    record = a_record(seed=seed, config={"data": {"name": "digits"}})
    folder = folder_of(root, record)
    recorder = Recorder(folder, record, url_of(root), warn=pytest.fail, **QUICK)
    record_some(recorder)
    assert recorder.close("finished", wall_seconds=1.5, peak_memory_mb=100.0)
    return folder


def test_recorder_fills_folder_and_database(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    record = folder.read_status()
    assert record is not None
    assert (record.status, record.pid, record.wall_seconds) == ("finished", os.getpid(), 1.5)
    assert record.started <= record.heartbeat == record.finished
    with closing(ResultsDatabase(url_of(tmp_path), create=False)) as database:
        (row,) = database.query(select(schema.runs))
        assert RunRecord.from_row(row) == record
        stored = values_of(database)
        assert len(stored) == len(folder.metrics.read()) == 10
        for row in folder.metrics.read():
            assert repr(stored[row[:-1]]) == repr(row.value)
        estimates = database.query(select(schema.estimates))
        assert {(e["datum"], e["value"]) for e in estimates} == {(d, -d / 3) for d in range(7)}
        assert len(database.query(select(schema.links))) == 1
    assert folder.links.read() == [Link("trained-s0", "trained model")]


def test_rows_are_in_the_folder_before_the_call_returns(tmp_path: Path) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    recorder = Recorder(folder, record, url_of(tmp_path), warn=pytest.fail, **QUICK)
    recorder.add_metrics("train", 1, "train", {"loss": 0.5})
    assert folder.metrics.read() == [Metric("train", 1, "train", "loss", 0.5)]
    recorder.close("finished")


def test_changes_of_the_record_add_up(tmp_path: Path) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    recorder = Recorder(folder, record, url_of(tmp_path), warn=pytest.fail, **QUICK)
    recorder.update(num_parameters=5)
    recorder.update(device="cpu")
    assert (recorder.record.num_parameters, recorder.record.device) == (5, "cpu")
    with pytest.raises(TypeError, match="colour"):
        recorder.update(colour="red")
    assert recorder.close("diverged", "bound is nan at epoch 3")
    (row,) = sql(tmp_path, "SELECT * FROM runs")
    assert (row["num_parameters"], row["device"], row["status"]) == (5, "cpu", "diverged")
    assert folder.read_status() == recorder.record
    assert recorder.record.message == "bound is nan at epoch 3"


def test_rows_are_written_in_batches(tmp_path: Path) -> None:
    record = a_record()
    commits: list[int] = []

    def count(_: Any) -> None:
        commits.append(1)

    event.listen(Engine, "commit", count)
    try:
        recorder = Recorder(
            folder_of(tmp_path, record), record, url_of(tmp_path), warn=pytest.fail, linger=0.3
        )
        for step in range(200):
            recorder.add_metrics("train", step, "train", {"loss": 1.0})
        assert recorder.close("finished")
    finally:
        event.remove(Engine, "commit", count)
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        assert len(values_of(database)) == 200
    assert 1 <= len(commits) < 50


def test_locked_database_costs_one_warning(tmp_path: Path) -> None:
    ResultsDatabase(url_of(tmp_path)).close()
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    with lock_on(tmp_path / "results.sqlite"):
        recorder = Recorder(
            folder, record, url_of(tmp_path), warn=warnings.append, heartbeat_seconds=0.1, **QUICK
        )
        record_some(recorder, range(1, 4))
        wait_for(lambda: len(warnings) > 0)
        record_some(recorder, range(4, 6))
        assert not recorder.close("finished")
    assert len(warnings) == 1
    assert "database is locked" in warnings[0]
    assert f"python plot_from_db.py rebuild --results {tmp_path}" in warnings[0]
    assert len(folder.metrics.read()) == 10
    status = folder.read_status()
    assert status is not None
    assert status.status == "finished"
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        assert database.query(select(schema.runs)) == []
        database.import_run(folder)
    late = dump(url_of(tmp_path))
    other = tmp_path / "other.sqlite"
    with closing(ResultsDatabase(f"sqlite:///{other}")) as database:
        database.upsert_run(status)
        database.add_metrics(record.id, folder.metrics.read())
        database.add_estimates(record.id, folder.estimates.read())
        database.add_links(record.id, folder.links.read())
    assert dump(f"sqlite:///{other}") == late
    assert len(late["metrics"]) == 10


def test_database_that_comes_back_is_brought_in_line(tmp_path: Path) -> None:
    ResultsDatabase(url_of(tmp_path)).close()
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    with lock_on(tmp_path / "results.sqlite"):
        recorder = Recorder(folder, record, url_of(tmp_path), warn=warnings.append, **QUICK)
        record_some(recorder)
        wait_for(lambda: len(warnings) > 0)
    assert recorder.close("finished")
    assert len(warnings) == 1
    assert len(dump(url_of(tmp_path))["metrics"]) == 10


def test_rows_of_a_time_when_the_database_was_locked_come_in_later(tmp_path: Path) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    recorder = Recorder(folder, record, url_of(tmp_path), warn=warnings.append, **QUICK)
    recorder.add_metrics("train", 1, "train", {"loss": 1.0})
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        wait_for(lambda: len(values_of(database)) == 1)
    with lock_on(tmp_path / "results.sqlite"):
        recorder.add_metrics("train", 2, "train", {"loss": 2.0})
        wait_for(lambda: len(warnings) > 0)
    recorder.add_metrics("train", 3, "train", {"loss": 3.0})
    assert recorder.close("finished")
    stored = sql(tmp_path, "SELECT value FROM metrics ORDER BY step")
    assert [row["value"] for row in stored] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("url", ["sqlite:///{}/broken.sqlite", "nonsense://host/name"])
def test_broken_database_costs_one_warning(tmp_path: Path, url: str) -> None:
    (tmp_path / "broken.sqlite").write_bytes(b"this is no database" * 100)
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    recorder = Recorder(folder, record, url.format(tmp_path), warn=warnings.append, **QUICK)
    record_some(recorder)
    assert not recorder.close("finished")
    assert len(warnings) == 1
    assert "--db URL" in warnings[0]
    assert len(folder.metrics.read()) == 10


def test_close_does_not_wait_for_a_database_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: Any, **__: Any) -> None:
        time.sleep(3600)

    monkeypatch.setattr("utils.results.mirror.ResultsDatabase", hang)
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    recorder = Recorder(folder, record, url_of(tmp_path), warn=warnings.append, patience=0.1)
    assert not recorder.close("finished")
    assert len(warnings) == 1
    status = folder.read_status()
    assert status is not None
    assert status.status == "finished"


def test_database_does_not_say_finished_when_the_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    recorder = Recorder(folder, record, url_of(tmp_path), warn=pytest.fail, **QUICK)
    record_some(recorder)

    def fail(_: RunRecord) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_status", fail)
    with pytest.raises(OSError, match="No space left"):
        recorder.close("finished")
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        (row,) = database.query(select(schema.runs))
        assert row["status"] == "running"
        assert len(values_of(database)) == 10


def test_heartbeat_reaches_folder_and_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(recorder_module, "utc_now", lambda: f"t{next(ticks):06}")
    record = a_record()
    folder = folder_of(tmp_path, record)
    recorder = Recorder(
        folder, record, url_of(tmp_path), warn=pytest.fail, heartbeat_seconds=0.02, **QUICK
    )

    def beats() -> tuple[str, str]:
        with closing(ResultsDatabase(url_of(tmp_path))) as database:
            stored = database.query(select(schema.runs.c.heartbeat))
        status = folder.read_status()
        assert status is not None
        return status.heartbeat, stored[0]["heartbeat"] if stored else ""

    wait_for(lambda: min(beats()) > "t000002")
    assert recorder.close("finished")
    status = folder.read_status()
    assert status is not None
    assert status.started == "t000000"


def test_resumed_run_loses_what_was_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(recorder_module, "utc_now", lambda: f"t{next(ticks):06}")
    record = a_record()
    folder = folder_of(tmp_path, record)
    first = Recorder(folder, record, url_of(tmp_path), warn=pytest.fail, **QUICK)
    first.add_metrics("train", 1, "train", {"loss": 1.0})
    size = folder.metrics.size()
    first.add_metrics("train", 2, "train", {"loss": 2.0, "of old": 2.0})
    first.close("interrupted", "SIGTERM")
    before = folder.read_status()
    folder.metrics.truncate(size)
    second = Recorder(folder, record, url_of(tmp_path), warn=pytest.fail, **QUICK)
    second.add_metrics("train", 2, "train", {"loss": 2.5})
    second.close("finished")
    after = folder.read_status()
    assert before is not None
    assert after is not None
    assert after.started == before.started
    assert (after.status, after.message) == ("finished", "")
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        key = ("train", 1, "train", "loss")
        assert values_of(database) == {key: 1.0, ("train", 2, "train", "loss"): 2.5}


def test_killed_process_leaves_its_rows_and_status_running(tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from utils.results.folder import RunFolder
        from utils.results.recorder import Recorder
        from utils.results.records import RunRecord

        root = Path(sys.argv[1])
        record = RunRecord("expA", "abc", 0)
        folder = RunFolder(root / "runs" / record.id)
        recorder = Recorder(folder, record, f"sqlite:///{root}/results.sqlite", warn=print)
        for step in range(50):
            recorder.add_metrics("train", step, "train", {"loss": step / 7})
        os._exit(9)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert run.returncode == 9
    folder = RunFolder(tmp_path / "runs" / "abc-s0")
    assert [row.value for row in folder.metrics.read()] == [step / 7 for step in range(50)]
    status = folder.read_status()
    assert status is not None
    assert status.status == "running"
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        assert database.rebuild(tmp_path).imported == ["abc-s0"]
        assert len(values_of(database)) == 50


def test_rebuild_gives_the_same_database(tmp_path: Path) -> None:
    for seed in range(3):
        finished_run(tmp_path, seed)
    original = dump(url_of(tmp_path))
    assert [len(rows) for rows in original.values()] == [3, 30, 21, 3]
    rebuilt = f"sqlite:///{tmp_path}/rebuilt.sqlite"
    with closing(ResultsDatabase(rebuilt)) as database:
        assert database.rebuild(tmp_path).imported == ["abc-s0", "abc-s1", "abc-s2"]
        assert dump(rebuilt) == original
        assert len(database.rebuild(tmp_path).imported) == 3
    assert dump(rebuilt) == original


def test_rebuild_skips_what_it_cannot_read(tmp_path: Path) -> None:
    finished_run(tmp_path, 0)
    finished_run(tmp_path, 1).metrics.path.write_text("nonsense\n")
    (tmp_path / "runs" / "abc-s0").rename(tmp_path / "runs" / "copy")
    finished_run(tmp_path, 2)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "status.json").write_text("{}")
    with closing(ResultsDatabase(f"sqlite:///{tmp_path}/rebuilt.sqlite")) as database:
        rebuilt = database.rebuild(tmp_path)
        assert [row["id"] for row in database.query(select(schema.runs))] == ["abc-s2"]
    assert rebuilt.imported == ["abc-s2"]
    assert [
        any(word in reason for reason in rebuilt.skipped)
        for word in ("metrics.csv:1", "under another name", "no status.json", "is no run's status")
    ] == [True] * 4


def test_two_processes_write_at_the_same_moment(tmp_path: Path) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from utils.results.folder import RunFolder
        from utils.results.recorder import Recorder
        from utils.results.records import RunRecord

        root, seed, ready = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[1]) / "go"
        record = RunRecord("expA", "abc", seed)
        folder = RunFolder(root / "runs" / record.id)
        print("ready", flush=True)
        sys.stdin.readline()
        url = f"sqlite:///{root}/results.sqlite"
        recorder = Recorder(folder, record, url, warn=sys.exit, linger=0.001)
        for step in range(100):
            recorder.add_metrics("train", step, "train", {"loss": step + seed / 2})
            time.sleep(0.001)
        sys.exit(0 if recorder.close("finished") else 1)
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), str(seed)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0]
    with closing(ResultsDatabase(url_of(tmp_path))) as database:
        rows = database.query(select(schema.metrics))
        assert {row["status"] for row in database.query(select(schema.runs))} == {"finished"}
    found = {(row["run"], row["step"], row["value"]) for row in rows}
    assert found == {(f"abc-s{s}", n, n + s / 2) for s in (0, 1) for n in range(100)}


def test_results_do_not_import_torch() -> None:
    program = (
        "import sys, plot_from_db, utils.results.recorder, utils.reporting.summary, "
        "utils.reporting.curves; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
