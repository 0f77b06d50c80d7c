"""The results database: rows, views, and what it refuses."""

from __future__ import annotations

import math
import os
import sqlite3
import statistics
import string
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, text

from tests.run_rows import a_record, sql, values_of
from utils.results import database as database_module
from utils.results import schema, views
from utils.results.database import (
    DatabaseError,
    ResultsDatabase,
    check_url,
    database_url,
    on_network,
)
from utils.results.methods import Method
from utils.results.records import Estimate, Metric, RunRecord

METHOD = Method("iwae-5")
NUMBERS = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ResultsDatabase]:
    with closing(ResultsDatabase(database_url(tmp_path))) as opened:
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
    rows = [Estimate("e", *METHOD, "test", "elbo", d, 1.0, e) for d, e in enumerate(errors)]
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
        Estimate("e", *METHOD, "test", "log_px", d, v, e)
        for d, (v, e) in enumerate(zip(values, errors, strict=True))
    ]
    broken = [Estimate("e", *METHOD, "test", "elbo", d, v) for d, v in enumerate([1.0, math.nan])]
    infinite = [Estimate("e", *METHOD, "test", "inf", d, v) for d, v in enumerate([1, -math.inf])]
    single = [Estimate("e", *METHOD, "test", "k_hat", 0, 0.7)]
    same = [Estimate("e", *METHOD, "test", "same", d, 0.1) for d in range(3)]
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
        rows = [Estimate("e", *METHOD, "test", "elbo", d, mean + d - 1) for d in range(3)]
        database.add_estimates(f"abc-s{seed}", rows)
    database.upsert_run(a_record(seed=9, status="running"))
    database.add_estimates("abc-s9", [Estimate("e", *METHOD, "test", "elbo", 0, 1e6)])
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
    mounts.write_bytes(b"d / ext4 rw\nserver:/x /my\\040d\xfcta nfs4 rw\n")  # of Latin-1
    assert on_network(Path(os.fsdecode(b"/my d\xfcta/results.sqlite")), mounts)


def test_missing_and_foreign_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no results database"):
        ResultsDatabase(database_url(tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "results.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(DatabaseError, match="is not a results database"):
        ResultsDatabase(database_url(tmp_path), create=False)


def test_database_of_another_version_is_refused(
    database: ResultsDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = schema.VERSION
    monkeypatch.setattr(database_module.schema, "VERSION", 99)
    with pytest.raises(DatabaseError, match=f"has schema {version}, this program needs 99"):
        ResultsDatabase(database_url(tmp_path))


@pytest.mark.parametrize("url", ["results.sqlite", "nonsense://host/name"])
def test_useless_urls_are_refused(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"is not a database URL|needs a driver"):
        check_url(url)


def test_the_database_lies_in_the_results_folder_whatever_its_name(tmp_path):
    for character in set(string.printable) - set("/\n\r\t\v\f"):
        root = tmp_path / f"a{character}b"
        root.mkdir()
        ResultsDatabase(database_url(root)).close()
        assert (root / "results.sqlite").is_file(), character
    with closing(ResultsDatabase(database_url(root))) as database:
        assert database.rebuild(root).skipped == []
