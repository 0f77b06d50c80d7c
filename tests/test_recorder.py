"""The recorder between a run, its folder and the database; and the database made anew."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from tests.run_rows import a_record, folder_of, sql, values_of
from utils.results import recorder as recorder_module
from utils.results import schema
from utils.results.database import ResultsDatabase, database_url
from utils.results.folder import RunFolder
from utils.results.methods import Method
from utils.results.recorder import Recorder
from utils.results.records import Estimate, Label, Link, Metric, RunRecord

REPOSITORY = Path(__file__).parent.parent
QUICK = {"linger": 0.01, "busy_timeout": 0.05}


def dump(url: str) -> dict[str, list[tuple[str, ...]]]:
    """All rows of all tables; as text, because NaN does not equal itself."""
    tables = (schema.runs, schema.metrics, schema.estimates, schema.links, schema.labels)
    with closing(ResultsDatabase(url, create=False)) as database:
        rows = {table.name: database.query(select(table)) for table in tables}
    return {
        name: sorted(tuple(map(repr, r.values())) for r in found) for name, found in rows.items()
    }


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


def record_some(recorder: Recorder, steps: range = range(1, 6)) -> None:
    for step in steps:
        recorder.add_metrics("train", step, "train", {"bound": -1 / step, "bad": math.nan})
    recorder.add_estimates(
        Estimate("estimation", *Method("iwae-5"), "test", "log_px", d, -d / 3, 0.1)
        for d in range(7)
    )
    recorder.add_link("trained-s0", "trained model")
    recorder.add_link("trained-s0", "trained model")


def finished_run(root: Path, seed: int = 0) -> RunFolder:
    record = a_record(seed=seed, config={"data": {"name": "digits"}})
    folder = folder_of(root, record)
    folder.create()
    folder.labels.append([Label("expA", "data set", name) for name in ("digits", "Digits")])
    recorder = Recorder(folder, record, database_url(root), warn=pytest.fail, **QUICK)
    record_some(recorder)
    assert recorder.close("finished", wall_seconds=1.5, peak_memory_mb=100.0)
    return folder


def test_recorder_fills_folder_and_database(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    record = folder.read_status()
    assert record is not None
    assert (record.status, record.pid, record.wall_seconds) == ("finished", os.getpid(), 1.5)
    assert record.started <= record.heartbeat == record.finished
    with closing(ResultsDatabase(database_url(tmp_path), create=False)) as database:
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
    recorder = Recorder(folder, record, database_url(tmp_path), warn=pytest.fail, **QUICK)
    recorder.add_metrics("train", 1, "train", {"loss": 0.5})
    assert folder.metrics.read() == [Metric("train", 1, "train", "loss", 0.5)]
    recorder.close("finished")


def test_changes_of_the_record_add_up(tmp_path: Path) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    recorder = Recorder(folder, record, database_url(tmp_path), warn=pytest.fail, **QUICK)
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
            folder_of(tmp_path, record),
            record,
            database_url(tmp_path),
            warn=pytest.fail,
            linger=0.3,
        )
        for step in range(200):
            recorder.add_metrics("train", step, "train", {"loss": 1.0})
        assert recorder.close("finished")
    finally:
        event.remove(Engine, "commit", count)
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        assert len(values_of(database)) == 200
    assert 1 <= len(commits) < 50


def test_locked_database_costs_one_warning(tmp_path: Path) -> None:
    ResultsDatabase(database_url(tmp_path)).close()
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    with lock_on(tmp_path / "results.sqlite"):
        recorder = Recorder(
            folder,
            record,
            database_url(tmp_path),
            warn=warnings.append,
            heartbeat_seconds=0.1,
            **QUICK,
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
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        assert database.query(select(schema.runs)) == []
        database.import_run(folder)
    late = dump(database_url(tmp_path))
    other = tmp_path / "other.sqlite"
    with closing(ResultsDatabase(f"sqlite:///{other}")) as database:
        database.upsert_run(status)
        database.add_metrics(record.id, folder.metrics.read())
        database.add_estimates(record.id, folder.estimates.read())
        database.add_links(record.id, folder.links.read())
    assert dump(f"sqlite:///{other}") == late
    assert len(late["metrics"]) == 10


def test_database_that_comes_back_is_brought_in_line(tmp_path: Path) -> None:
    ResultsDatabase(database_url(tmp_path)).close()
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    with lock_on(tmp_path / "results.sqlite"):
        recorder = Recorder(folder, record, database_url(tmp_path), warn=warnings.append, **QUICK)
        record_some(recorder)
        wait_for(lambda: len(warnings) > 0)
    assert recorder.close("finished")
    assert len(warnings) == 1
    assert len(dump(database_url(tmp_path))["metrics"]) == 10


def test_rows_of_a_time_when_the_database_was_locked_come_in_later(tmp_path: Path) -> None:
    record = a_record()
    folder = folder_of(tmp_path, record)
    warnings: list[str] = []
    recorder = Recorder(folder, record, database_url(tmp_path), warn=warnings.append, **QUICK)
    recorder.add_metrics("train", 1, "train", {"loss": 1.0})
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
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
    recorder = Recorder(folder, record, database_url(tmp_path), warn=warnings.append, patience=0.1)
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
    recorder = Recorder(folder, record, database_url(tmp_path), warn=pytest.fail, **QUICK)
    record_some(recorder)

    def fail(_: RunRecord, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_status", fail)
    with pytest.raises(OSError, match="No space left"):
        recorder.close("finished")
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
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
        folder, record, database_url(tmp_path), warn=pytest.fail, heartbeat_seconds=0.02, **QUICK
    )

    def beats() -> tuple[str, str]:
        with closing(ResultsDatabase(database_url(tmp_path))) as database:
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
    first = Recorder(folder, record, database_url(tmp_path), warn=pytest.fail, **QUICK)
    first.add_metrics("train", 1, "train", {"loss": 1.0})
    size = folder.metrics.size()
    first.add_metrics("train", 2, "train", {"loss": 2.0, "of old": 2.0})
    first.close("interrupted", "SIGTERM")
    before = folder.read_status()
    folder.metrics.truncate(size)
    second = Recorder(folder, record, database_url(tmp_path), warn=pytest.fail, **QUICK)
    second.add_metrics("train", 2, "train", {"loss": 2.5})
    second.close("finished")
    after = folder.read_status()
    assert before is not None
    assert after is not None
    assert after.started == before.started
    assert (after.status, after.message) == ("finished", "")
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
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
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        assert database.rebuild(tmp_path).imported == ["abc-s0"]
        assert len(values_of(database)) == 50


def test_rebuild_gives_the_same_database(tmp_path: Path) -> None:
    for seed in range(3):
        finished_run(tmp_path, seed)
    original = dump(database_url(tmp_path))
    assert [len(rows) for rows in original.values()] == [3, 30, 21, 3, 3]
    rebuilt = f"sqlite:///{tmp_path}/rebuilt.sqlite"
    with closing(ResultsDatabase(rebuilt)) as database:
        assert database.rebuild(tmp_path).imported == ["abc-s0", "abc-s1", "abc-s2"]
        assert dump(rebuilt) == original
        assert len(database.rebuild(tmp_path).imported) == 3
    assert dump(rebuilt) == original


def test_a_run_folder_may_be_a_link_to_a_place_of_another_name(tmp_path: Path) -> None:
    path = finished_run(tmp_path, 0).path
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        assert database.rebuild(tmp_path).imported == ["abc-s0"]
        (row,) = database.query(select(schema.runs))
    assert row["folder"] == str(tmp_path / "elsewhere")


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
        for word in (
            "metrics.csv:1",
            "under another name",
            "no status.json",
            "is not a run's status",
        )
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
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        rows = database.query(select(schema.metrics))
        assert {row["status"] for row in database.query(select(schema.runs))} == {"finished"}
    found = {(row["run"], row["step"], row["value"]) for row in rows}
    assert found == {(f"abc-s{s}", n, n + s / 2) for s in (0, 1) for n in range(100)}


def test_results_do_not_import_torch() -> None:
    program = (
        "import sys, plot_from_db, utils.results.recorder, experiments.reporting.summary, "
        "experiments.reporting.curves; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
