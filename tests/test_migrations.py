"""Results of the first form: labels become columns, in folders and in databases."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.gap_runs import annealed, importance
from tests.run_rows import a_record, folder_of, sql
from utils.results import schema
from utils.results.database import DatabaseError, ResultsDatabase, database_url
from utils.results.folder import RunFolder
from utils.results.methods import Method, settings_text
from utils.results.migrations import method_of
from utils.results.records import Estimate, Label

IMPORTANCE = {"name": "importance", "num_samples": 5000, "chunk_size": 4000}
AIS = {
    "name": "ais",
    "path": "prior",
    "schedule": "adaptive",
    "num_chains": 100,
    "num_distributions": 500,
    "num_leapfrog": 10,
    "resample_below": None,
    "chunk_size": 1000,
}
CONFIG: dict[str, Any] = {
    "posterior": {"name": "gaussian"},
    "local_optimisation": {
        "families": {"FFG": {"name": "gaussian"}, "FFG (wide)": {"name": "gaussian"}},
        "estimator": IMPORTANCE | {"num_samples": 50},
    },
    "evaluation": {
        "estimators": [IMPORTANCE, AIS, {"name": "max", "of": [IMPORTANCE, AIS]}],
    },
}
ADAPTIVE = settings_text(annealed("ais", 500, 100).options | {"schedule": "adaptive"})
OLD_CSV = """\
phase,estimator,split,datum,name,value,standard_error
local_optimisation,"FFG (fast, max_steps=200)",test,0,elbo,-24.5,0.25
estimate,IWAE-5000,test,0,log_px,-23.5,0.125
estimate,AIS-500x100 (adaptive),test,0,log_px,-23.0,
"""
NEW_ROWS = [
    Estimate(
        "local_optimisation",
        *importance(50)._replace(family="FFG", search="fast, max_steps=200"),
        *("test", "elbo", 0, -24.5, 0.25),
    ),
    Estimate("estimate", *importance(), "test", "log_px", 0, -23.5, 0.125),
    Estimate("estimate", "ais", ADAPTIVE, "", "", "test", "log_px", 0, -23.0, None),
]
FIRST_TABLES = """
CREATE TABLE runs (
    id VARCHAR(96) NOT NULL, experiment VARCHAR(160) NOT NULL, hash VARCHAR(96) NOT NULL,
    seed BIGINT NOT NULL, status VARCHAR(16) NOT NULL, host TEXT NOT NULL, pid BIGINT,
    started VARCHAR(32) NOT NULL, heartbeat VARCHAR(32) NOT NULL, finished VARCHAR(32) NOT NULL,
    message TEXT NOT NULL, git_commit TEXT NOT NULL, git_dirty BOOLEAN, versions TEXT NOT NULL,
    device TEXT NOT NULL, dataset VARCHAR(160) NOT NULL, binarisation VARCHAR(160) NOT NULL,
    data_checksum TEXT NOT NULL, config TEXT NOT NULL, posterior TEXT NOT NULL, loss TEXT NOT NULL,
    num_parameters BIGINT, wall_seconds DOUBLE, peak_memory_mb DOUBLE, folder TEXT NOT NULL,
    PRIMARY KEY (id));
CREATE INDEX runs_by_experiment ON runs (experiment, hash);
CREATE TABLE metrics (
    run VARCHAR(96) NOT NULL, phase VARCHAR(64) NOT NULL, step BIGINT NOT NULL,
    split VARCHAR(64) NOT NULL, name VARCHAR(160) NOT NULL, value DOUBLE,
    PRIMARY KEY (run, phase, step, split, name),
    FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX metrics_by_name ON metrics (name, split);
CREATE TABLE estimates (
    run VARCHAR(96) NOT NULL, phase VARCHAR(64) NOT NULL, estimator VARCHAR(160) NOT NULL,
    split VARCHAR(64) NOT NULL, name VARCHAR(160) NOT NULL, datum BIGINT NOT NULL, value DOUBLE,
    standard_error DOUBLE, PRIMARY KEY (run, phase, estimator, split, name, datum),
    FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE links (
    run VARCHAR(96) NOT NULL, target VARCHAR(96) NOT NULL, kind VARCHAR(64) NOT NULL,
    PRIMARY KEY (run, target, kind),
    FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE VIEW run_estimates AS SELECT run, estimator, avg(value) AS mean FROM estimates;
CREATE VIEW configuration_estimates AS SELECT * FROM run_estimates;
CREATE VIEW my_own AS SELECT count(*) AS num FROM metrics;
INSERT INTO schema_version VALUES (1);
"""


@pytest.mark.parametrize(
    ("phase", "label", "method"),
    [
        ("estimate", "IWAE-5000", importance()),
        ("estimate", "AIS-500x100 (adaptive)", Method("ais", ADAPTIVE)),
        ("estimate", "something else", Method("something else")),
        (
            "estimate",
            "max(IWAE-5000, AIS-500x100 (adaptive))",
            Method(
                "max",
                settings_text(
                    {
                        "of": [
                            {"name": "importance", "num_samples": 5000},
                            {"name": "ais", **json.loads(ADAPTIVE)},
                        ]
                    }
                ),
            ),
        ),
        (
            "local_optimisation",
            "FFG (wide) (paper (lr=0.1))",
            importance(50)._replace(family="FFG (wide)", search="paper (lr=0.1)"),
        ),
        (
            "local_optimisation",
            "gaussian (fast)",
            importance(50)._replace(family="gaussian", search="fast"),
        ),
        (
            "local_optimisation",
            "unknown (fast)",
            importance(50)._replace(family="unknown", search="fast"),
        ),
    ],
)
def test_a_label_of_the_first_form_is_a_method(phase: str, label: str, method: Method) -> None:
    assert method_of(phase, label, CONFIG) == method
    assert method.label == label


def old_folder(root: Path) -> RunFolder:
    folder = folder_of(root, a_record(config=CONFIG, status="finished"))
    folder.create()
    folder.write_status(a_record(config=CONFIG, status="finished"))
    folder.estimates.path.write_text(OLD_CSV)
    return folder


def test_an_estimates_file_of_the_first_form_is_read(tmp_path: Path) -> None:
    folder = old_folder(tmp_path)
    assert folder.estimates.read() == NEW_ROWS
    assert folder.estimates.path.read_text() == OLD_CSV  # reading changes nothing


@pytest.mark.parametrize("kept", [0, 2, 3])
def test_an_estimates_file_of_the_first_form_grows_in_the_form_of_today(
    tmp_path: Path, kept: int
) -> None:
    log = old_folder(tmp_path).estimates
    log.keep_first(kept)
    log.append(NEW_ROWS[kept:] + NEW_ROWS[:1])
    new = RunFolder(tmp_path / "another").estimates
    new.path.parent.mkdir()
    new.append([*NEW_ROWS, NEW_ROWS[0]])
    assert log.path.read_bytes() == new.path.read_bytes()
    assert [path.name for path in log.path.parent.iterdir()].count("estimates.csv.tmp") == 0


def test_a_folder_of_the_first_form_can_be_imported(tmp_path: Path) -> None:
    old_folder(tmp_path)
    with closing(ResultsDatabase(database_url(tmp_path))) as database:
        assert database.rebuild(tmp_path).skipped == []
    assert stored(tmp_path) == sorted(NEW_ROWS)


def stored(root: Path) -> list[Estimate]:
    rows = sql(root, "SELECT * FROM estimates")
    return sorted(Estimate(*(row[name] for name in Estimate._fields)) for row in rows)


def insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names = ", ".join(row)
    places = ", ".join("?" * len(row))
    values: Sequence[Any] = [json.dumps(v) if isinstance(v, dict) else v for v in row.values()]
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values)


@pytest.fixture
def first_database(tmp_path: Path) -> Path:
    """The results root of a database of version 1, with one run, a metric and estimates."""
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as connection:
        connection.executescript(FIRST_TABLES)
        columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
        record = a_record(config=CONFIG, status="finished").as_row()
        insert(connection, "runs", {k: v for k, v in record.items() if k in columns})
        metric = {"phase": "train", "step": 1, "split": "test", "name": "bound", "value": 0.5}
        insert(connection, "metrics", {"run": "abc-s0", **metric})
        header, *lines = OLD_CSV.splitlines()
        for line in lines:
            cells = line.replace('"FFG (fast, ', '"FFG (fast; ').split(",")
            row = dict(zip(header.split(","), cells, strict=True))
            row["estimator"] = row["estimator"].replace(";", ",").strip('"')
            insert(
                connection,
                "estimates",
                {"run": "abc-s0", **row}
                | ({} if row["standard_error"] else {"standard_error": None}),
            )
        connection.commit()
    return tmp_path


def test_a_database_of_version_2_gets_labels(tmp_path: Path) -> None:
    url = database_url(tmp_path)
    with closing(ResultsDatabase(url)) as database:
        database.upsert_run(a_record())
        with database.engine.begin() as connection:
            connection.execute(text("DROP TABLE labels"))
            connection.execute(text("UPDATE schema_version SET version = 2"))
    folder = folder_of(tmp_path, a_record())
    folder.create()
    folder.write_status(a_record())
    folder.labels.append([Label("expA", "data set", "MNIST")])
    with closing(ResultsDatabase(url, create=False)) as database:
        database.import_run(folder)
    assert sql(tmp_path, "SELECT name, value FROM labels") == [
        {"name": "data set", "value": "MNIST"}
    ]


@pytest.mark.parametrize("create", [True, False])
def test_a_database_of_version_1_is_brought_up_to_date_in_its_place(
    first_database: Path, create: bool
) -> None:
    url = database_url(first_database)
    for _ in range(2):  # the second time there is nothing to do
        ResultsDatabase(url, create=create).close()
        assert stored(first_database) == sorted(NEW_ROWS)
    assert sql(first_database, "SELECT version FROM schema_version") == [
        {"version": schema.VERSION}
    ]
    assert sql(first_database, "SELECT num FROM my_own") == [{"num": 1}]
    means = sql(first_database, "SELECT family, mean FROM run_estimates ORDER BY mean")
    assert means[0] == {"family": "FFG", "mean": -24.5}
    assert sql(first_database, "SELECT * FROM configuration_estimates") != []


def test_a_database_that_cannot_be_brought_up_to_date_is_left_as_it_is(
    first_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Method:
        raise DatabaseError("no power")

    monkeypatch.setattr("utils.results.upgrade.method_of", fail)
    before = list(sql(first_database, "SELECT * FROM estimates"))
    with pytest.raises(DatabaseError, match="no power"):
        ResultsDatabase(database_url(first_database))
    assert sql(first_database, "SELECT * FROM estimates") == before
    assert sql(first_database, "SELECT count(*) AS n FROM run_estimates") == [{"n": 1}]
