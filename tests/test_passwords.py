"""Passwords in database URLs: never shown, and a wrong one is met before training."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

import main as program
import plot_from_db
from experiments.runner import app
from experiments.runner.signals import InterruptedRunError
from tests.finished_runs import QUICKSTART, finished_run
from utils.results import database as database_module
from utils.results.database import DatabaseError, check_login, database_url, first_line, masked

pytestmark = pytest.mark.usefixtures("results_here")

URL = "postgresql://user:SECRET@host/name"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URL, "postgresql://user:***@host/name"),
        (f"--db={URL}", "--db=postgresql://user:***@host/name"),
        ("postgresql:/user:SECRET@host", "postgresql:/user:***@host"),
        ("postgresql:user:SECRET@host", "postgresql:user:***@host"),
        ("mysql+x://u:SE/C:R@ET@h:1/n", "mysql+x://u:***@h:1/n"),
        ("postgresql://:SECRET@host", "postgresql://:***@host"),
        (
            "postgresql://h/n?user=u&password=SECRET&a=b",
            "postgresql://h/n?user=u&password=***&a=b",
        ),
        ("postgresql://user@host:5432/name", "postgresql://user@host:5432/name"),
        ("sqlite:////a/results.sqlite", "sqlite:////a/results.sqlite"),
        ("posterior={name: planar}", "posterior={name: planar}"),
    ],
)
def test_passwords_are_masked_and_nothing_else(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize("option", [("--db", URL), (f"--db={URL}",)])
def test_the_command_shown_after_a_signal_has_no_password(capsys, monkeypatch, option):
    def stopped(*_: Any) -> None:
        raise InterruptedRunError(signal.SIGTERM)

    monkeypatch.setattr(app, "check_login", lambda url: None)
    monkeypatch.setattr(app, "execute", stopped)
    assert program.main(["-config", QUICKSTART, *option]) == 75
    said = capsys.readouterr().err
    assert "postgresql://user:***@host/name" in said
    assert "SECRET" not in said


@pytest.mark.parametrize("url", ["postgresql:/user:SECRET@host", "nonsense://user:SECRET@host"])
@pytest.mark.parametrize("from_environment", [False, True])
def test_a_useless_url_is_shown_without_its_password(capsys, monkeypatch, url, from_environment):
    option = [] if from_environment else ["--db", url]
    if from_environment:
        monkeypatch.setenv("VI_DB", url)
    assert program.main(["-config", QUICKSTART, *option]) == 2
    assert plot_from_db.main(["runs", *option]) == 2
    said = capsys.readouterr().err
    assert said.count("user:***@host") == 2
    assert "SECRET" not in said


def test_the_database_is_as_given_else_from_the_environment(tmp_path, monkeypatch):
    assert database_url(tmp_path) == f"sqlite:///{tmp_path}/results.sqlite"
    monkeypatch.setenv("VI_DB", URL)
    assert database_url(tmp_path) == URL
    assert database_url(tmp_path, "sqlite:///x") == "sqlite:///x"


def server_that_says(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    class Engine:
        def connect(self) -> None:
            raise OperationalError("SELECT 1", {}, RuntimeError(f"{words}\nmore of it"))

        def dispose(self) -> None:
            pass

    monkeypatch.setattr(database_module, "check_url", make_url)
    monkeypatch.setattr(database_module, "create_engine", lambda *_, **__: Engine())


@pytest.mark.parametrize(
    "words",
    [
        'connection to server at "h", port 5432 failed: FATAL:  password authentication failed '
        'for user "user"',
        "fe_sendauth: no password supplied",
        "(1045, \"Access denied for user 'user'@'h' (using password: YES)\")",
    ],
    ids=["wrong", "none", "mysql"],
)
def test_a_refused_login_ends_the_run_before_it_begins(tmp_path, capsys, monkeypatch, words):
    server_that_says(monkeypatch, words)
    assert program.main(["-config", QUICKSTART, "--db", URL]) == 2
    said = capsys.readouterr().err
    assert (
        "usage error: 'postgresql://user:***@host/name' refuses the user or the password" in said
    )
    assert "SECRET" not in said
    assert not (tmp_path / "results").exists()


def test_a_server_that_does_not_answer_is_left_to_the_run(monkeypatch):
    server_that_says(monkeypatch, "connection refused")
    check_login(URL)
    with pytest.raises(DatabaseError):
        server_that_says(monkeypatch, "password authentication failed")
        check_login(URL)


def test_an_error_of_the_database_is_one_line_of_the_drivers_own():
    error = OperationalError("SELECT 1", {}, RuntimeError("database is locked\nand more"))
    assert "Background on this error" in str(error)
    assert first_line(error) == "database is locked"


def test_a_broken_database_beside_a_finished_run_is_told_in_one_line(tmp_path, capsys):
    run = finished_run(tmp_path / "results")
    for path in run.results.glob("results.sqlite*"):
        path.write_bytes(b"nonsense" * 1000)
    capsys.readouterr()
    assert run.run() == 0
    said = capsys.readouterr().err
    assert "results database: file is not a database; the results are in" in said
    assert "Background" not in said
    assert "Error" not in said


@pytest.mark.parametrize("main", [program.main, plot_from_db.main])
def test_help_says_where_a_password_belongs(capsys, main):
    with pytest.raises(SystemExit):
        main(["runs", "--help"] if main is plot_from_db.main else ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "$VI_DB" in said
    assert "$PGPASSWORD" in said
