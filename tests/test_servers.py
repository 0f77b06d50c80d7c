"""The results database on servers of their own, PostgreSQL and MariaDB, on loopback."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import func, select

from tests.run_rows import a_record, folder_of
from utils.results import schema
from utils.results.database import DatabaseError, ResultsDatabase, check_login
from utils.results.recorder import Recorder
from utils.results.records import Label, Metric

pytestmark = pytest.mark.slow
SECONDS = 60  # to start


class Server(ABC):
    """A server on loopback with the user ``vi`` and its password, started by nobody.

    Root may not run one; ``programs`` and ``driver`` are what must be installed.
    """

    programs: ClassVar[tuple[str, ...]]
    driver: ClassVar[str]
    scheme: ClassVar[str]
    database: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._user = {} if nobody is None else {"user": nobody.pw_uid, "group": nobody.pw_gid}
        if nobody is not None:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._make()
        self.start()
        self._admit()

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed here."""
        programs = [name for name in cls.programs if shutil.which(name) is None]
        drivers = [cls.driver] if importlib.util.find_spec(cls.driver) is None else []
        return ", ".join([*programs, *drivers]) or None

    def url(self, password: str = "right") -> str:
        return f"{self.scheme}://vi:{password}@127.0.0.1:{self.port}/{self.database}"

    @abstractmethod
    def _make(self) -> None:
        """Write an empty data directory."""

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it answers."""

    @abstractmethod
    def kill(self) -> None:
        """As when the power fails."""

    @abstractmethod
    def _admit(self) -> None:
        """Make the user ``vi``."""

    def _do(self, program: str, *arguments: str) -> None:
        command = [shutil.which(program) or program, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, check=False, **self._user
        )
        assert done.returncode == 0


class PostgreSQL(Server):
    programs, driver = ("initdb", "pg_ctl", "postgres"), "psycopg"
    scheme, database = "postgresql+psycopg", "postgres"

    def _make(self) -> None:
        (self.folder / "secret").write_text("right")
        users = ("-U", "vi", "-A", "scram-sha-256", f"--pwfile={self.folder}/secret")
        self._do("initdb", "-D", str(self.data), *users)

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder}"
        self._pg_ctl("-o", options, "-l", str(self.folder / "log"), "start")

    def kill(self) -> None:
        self._pg_ctl("-m", "immediate", "stop")

    def _admit(self) -> None:
        return  # initdb has

    def _pg_ctl(self, *arguments: str) -> None:
        self._do("pg_ctl", "-D", str(self.data), "-w", *arguments)


class MariaDB(Server):
    programs, driver = ("mariadb-install-db", "mariadbd"), "pymysql"
    scheme, database = "mysql+pymysql", "results"
    _process: subprocess.Popen[bytes]

    def _make(self) -> None:
        root = ("--auth-root-authentication-method=normal", "--skip-test-db")
        self._do("mariadb-install-db", "--no-defaults", f"--datadir={self.data}", *root)

    def start(self) -> None:
        where = (f"--datadir={self.data}", f"--socket={self._socket}", f"--port={self.port}")
        command = [shutil.which("mariadbd") or "", "--no-defaults", *where]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--bind-address=127.0.0.1"], stderr=log, stdout=log, **self._user
            )
        deadline = time.monotonic() + SECONDS
        while not self._listens():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def _admit(self) -> None:
        self._as_root(
            f"create database {self.database}",
            "create user vi@127.0.0.1 identified by 'right'",
            f"grant all on {self.database}.* to vi@127.0.0.1",
        )

    def _as_root(self, *statements: str) -> None:
        pymysql = importlib.import_module("pymysql")
        connection = pymysql.connect(user="root", unix_socket=str(self._socket))
        with closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(scope="module", params=[PostgreSQL, MariaDB], ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if missing := request.param.missing():
        pytest.skip(f"not installed here: {missing}")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for one user alone
        made = request.param(Path(folder))
        yield made
        made.kill()


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
    server.kill()
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
