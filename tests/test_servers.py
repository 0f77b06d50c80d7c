"""The results database on a PostgreSQL server of its own, on loopback."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.run_rows import a_record, folder_of
from utils.results import schema
from utils.results.database import DatabaseError, ResultsDatabase, check_login
from utils.results.recorder import Recorder
from utils.results.records import Label, Metric

PROGRAMS = ("initdb", "pg_ctl", "postgres")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in PROGRAMS), reason="no PostgreSQL server here"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("psycopg") is None,
        reason="no psycopg: pip install psycopg[binary]",
    ),
]


class Server:
    """A server with the user ``vi`` and its password; root may not run one, so nobody does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        (folder / "secret").write_text("right")
        self._do("initdb", "-U", "vi", "-A", "scram-sha-256", f"--pwfile={folder}/secret")
        self.start()

    def url(self, password: str = "right") -> str:
        return f"postgresql+psycopg://vi:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder}"
        self._do("pg_ctl", "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, how: str) -> None:
        self._do("pg_ctl", "-w", "-m", how, "stop")

    def _do(self, program: str, *arguments: str) -> None:
        command = [shutil.which(program) or program, "-D", str(self.data), *arguments]
        user = (
            {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid}
        )
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, check=False, **user
        )
        assert done.returncode == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for one user alone
        made = Server(Path(folder))
        yield made
        made.stop("immediate")


def test_many_runs_at_once_into_an_empty_database(server, tmp_path):
    def record_one(seed: int) -> bool:
        record = a_record(seed=seed)
        folder = folder_of(tmp_path, record)
        folder.create()
        folder.labels.append([Label("expA", "data set", "MNIST")])
        recorder = Recorder(folder, record, server.url(), warn=pytest.fail)
        for step in range(20):
            recorder.add_metrics("train", step, "train", {"loss": step / 7, "bound": -step})
        return recorder.close("finished")

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(record_one, range(16)))
    with closing(ResultsDatabase(server.url(), create=False)) as database:
        counts = [
            database.query(select(func.count().label("n")).select_from(table))[0]["n"]
            for table in (schema.runs, schema.metrics, schema.labels)
        ]
    assert counts == [16, 16 * 40, 16]


def test_a_server_that_is_killed_in_mid_run_costs_nothing(server, tmp_path):
    record, said = a_record("mid"), []
    folder = folder_of(tmp_path, record)
    options = {"linger": 0.01, "heartbeat_seconds": 0.05}
    recorder = Recorder(folder, record, server.url(), warn=said.append, **options)
    recorder.add_metrics("train", 1, "train", {"loss": 1.0})
    server.stop("immediate")
    recorder.add_metrics("train", 2, "train", {"loss": 2.0})
    server.start()
    recorder.add_metrics("train", 3, "train", {"loss": 3.0})
    assert recorder.close("finished")
    with closing(ResultsDatabase(server.url(), create=False)) as database:
        rows = database.query(select(schema.metrics).where(schema.metrics.c.run == record.id))
    assert [Metric(*list(row.values())[1:]).value for row in rows] == [1.0, 2.0, 3.0]


def test_a_wrong_password_is_refused_and_not_shown(server):
    check_login(server.url())
    with pytest.raises(DatabaseError, match="refuses the user or the password") as error:
        check_login(server.url("wr0ng"))
    assert "wr0ng" not in str(error.value)
