"""Records of runs, and the folders that they lie in."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.run_rows import a_record, folder_of
from utils.results import lock, schema
from utils.results.database import database_url
from utils.results.folder import CELLS, RunFolder, results_root
from utils.results.methods import Method, settings_text
from utils.results.recorder import Recorder
from utils.results.records import Estimate, Metric


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
    assert repr(CELLS[float].parse(CELLS[float].format(value))) == repr(value)


def test_csv_holds_columns_and_exact_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.append([Metric("train", 1, "test", "a,b", 0.1)])
    method = Method("importance", settings_text({"num_samples": 5}))
    folder.estimates.append([Estimate("estimation", *method, "test", "log_px", 0, -1.5, None)])
    assert folder.metrics.path.read_text() == (
        'phase,step,split,name,value\ntrain,1,test,"a,b",0.1\n'
    )
    assert folder.estimates.path.read_text() == (
        "phase,estimator,settings,family,search,split,name,datum,value,standard_error\n"
        'estimation,importance,"{""num_samples"":5}",,,test,log_px,0,-1.5,\n'
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
        Recorder(folder_of(tmp_path, record), record, database_url(tmp_path), warn=pytest.fail)


def test_a_lock_that_cannot_be_had_is_an_error_that_names_it(tmp_path: Path, monkeypatch: Any):
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.raises(OSError, match=f"{tmp_path}/lock"), lock.holding(tmp_path):
        raise AssertionError("held")


def test_results_root_is_as_given_else_from_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("VI_RESULTS", "/elsewhere")
    assert results_root("here") == Path("here")
    assert results_root() == Path("/elsewhere")
    monkeypatch.delenv("VI_RESULTS")
    assert results_root() == Path("results")


def test_results_root_knows_homes(monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", "/home/mine")
    assert results_root("~/results") == Path("/home/mine/results")
    assert results_root("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
