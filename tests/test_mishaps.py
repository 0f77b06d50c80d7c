"""Databases, disks and terminals that fail: they cost a message, not the run."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys

import pytest
import torch

import plot_from_db
from tests.tiny_runs import NUM_ESTIMATES, ROOT, only_folder, run, tiny
from utils.results.database import ResultsDatabase, database_url

pytestmark = pytest.mark.usefixtures("results_here")


def test_nan_loss_is_divergence(tmp_path, capsys):
    code = run(*tiny("training.optimiser={name: sgd, lr: 1e12}"))
    assert code == 4
    assert "at epoch 1, step" in capsys.readouterr().err
    assert only_folder(tmp_path).read_status().status == "diverged"


def test_locked_database_costs_a_warning_not_the_run(tmp_path, capsys, monkeypatch):
    from utils.results import recorder

    results = tmp_path / "results"
    results.mkdir()
    ResultsDatabase(database_url(results)).close()
    monkeypatch.setattr(
        recorder.Recorder.__init__, "__kwdefaults__",
        {**recorder.Recorder.__init__.__kwdefaults__, "busy_timeout": 0.05, "patience": 10.0},
    )  # fmt: skip
    other = sqlite3.connect(results / "results.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert run(*tiny()) == 0
    finally:
        other.close()
    assert "results database" in capsys.readouterr().err
    assert len(only_folder(tmp_path).estimates.read()) == NUM_ESTIMATES
    assert run(*tiny()) == 0  # already finished: and now the database gets it
    with sqlite3.connect(results / "results.sqlite") as connection:
        (count,) = connection.execute("SELECT count(*) FROM estimates").fetchone()
    assert count == NUM_ESTIMATES
    connection.close()


@pytest.mark.parametrize("place", ["/proc/results", "file"])
def test_a_results_folder_that_cannot_be_written(tmp_path, capsys, place):
    if place == "file":  # root may write anywhere, but not below a file
        (tmp_path / "file").write_text("")
        place = str(tmp_path / "file" / "results")
    assert run(*tiny(options=["--results", place])) == 1
    assert place in capsys.readouterr().err


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    saved = torch.save
    calls = []

    def full(state, file):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        saved(state, file)

    monkeypatch.setattr(torch, "save", full)
    assert run(*tiny()) == 1
    assert "No space left" in capsys.readouterr().err
    folder = only_folder(tmp_path)
    assert folder.read_status().status == "failed"
    monkeypatch.setattr(torch, "save", saved)
    assert run(*tiny()) == 0
    assert "resumed after epoch 1" in capsys.readouterr().err


def piped(*arguments: str, reader: str) -> tuple[list[int], str]:
    """Exit codes of main.py and of the shell command that reads it, and what both say."""
    command = f'"$@" | {reader}; echo "${{PIPESTATUS[@]}}"'
    program = ["bash", "-c", command, "bash", sys.executable, "main.py", *arguments]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    *_, codes = ended.stdout.splitlines()
    return [int(code) for code in codes.split()], ended.stderr


def test_a_reader_that_goes_ends_the_list_quietly():
    assert piped("--list", "posteriors", reader="sleep 0") == ([0, 0], "")


def test_an_ascii_terminal_does_not_fail_a_finished_run(tmp_path, monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert run(*tiny("training.epochs=1")) == 0
    assert plot_from_db.main(["table"]) == 0
    ascii_only.flush()
    one, *others = ascii_only.buffer.getvalue().split(b" ? ")  # which stands for ±
    assert one and len(others) >= 2


@pytest.mark.parametrize("gone", ["closed pipe", "full"])
def test_messages_that_nobody_reads_do_not_fail_a_run(tmp_path, gone):
    if gone == "full":
        sink = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, sink = os.pipe()
        os.close(reader)
    arguments = [sys.executable, "main.py", *tiny("training.epochs=1", options=["-v"])]
    ended = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=sink, check=False)
    os.close(sink)
    assert ended.returncode == 0
    assert b"IWAE-20" in ended.stdout


def test_a_full_stdout_does_not_fail_a_finished_run(tmp_path):
    arguments = [sys.executable, "main.py", *tiny("training.epochs=1")]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "the results cannot be shown (No space left on device); they are in" in ended.stderr


@pytest.mark.parametrize("arguments", [["main.py", "--list"], ["plot_from_db.py", "runs"]])
def test_without_the_environment_a_program_says_how_to_get_it(arguments):
    ended = subprocess.run(
        [sys.executable, "-S", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{arguments[0]}: ")
    assert " is not installed for " in line
    assert "`make demo` sets everything up, for .venv/bin/python" in line
