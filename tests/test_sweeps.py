"""Sweeps, with a stand-in for Python: how they fail, what a signal does, what they refuse."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from utils import cli

ROOT = Path(__file__).resolve().parent.parent


class Sweep:
    """A sweep whose Python is ``body``, a script that finds the file $LOG."""

    def __init__(self, folder: Path, script: str, body: str, **variables: str) -> None:
        self.log = folder / "log"
        self.log.touch()
        python = folder / "python"
        python.write_text(f"#!/usr/bin/env bash\n{body}\n")
        python.chmod(0o755)
        kept = ("PATH", "HOME", "TMPDIR")
        inherited = {name: os.environ[name] for name in kept if name in os.environ}
        self.process = subprocess.Popen(
            ["bash", f"experiments/{script}"],
            cwd=ROOT,
            env=inherited | {"PYTHON": str(python), "LOG": str(self.log)} | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, as a terminal gives it
            # Bash cannot trap what it inherits as ignored, as from tests in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        try:
            _, errors = self.process.communicate(timeout=60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, errors

    def lines(self, word: str) -> list[str]:
        """Those of the log that begin with a word."""
        return [line for line in self.log.read_text().splitlines() if line.split()[0] == word]

    def wait_for(self, word: str, count: int) -> None:
        """Until the log has so many lines that begin with a word."""
        deadline = time.monotonic() + 60
        while len(self.lines(word)) < count:
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.01)


LONG_RUN = """
trap 'sleep 0.2; echo "stopped $$" >>"$LOG"; exit 75' TERM
echo "begun $$" >>"$LOG"
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_run_and_the_sweep_ends_after_them(tmp_path, number, jobs):
    sweep = Sweep(tmp_path, "expA/run.sh", LONG_RUN, JOBS=str(jobs), SEEDS="0 1")
    sweep.wait_for("begun", jobs)
    # Ctrl-C goes to the whole group, `kill` to the shell alone.
    send = os.killpg if number == signal.SIGINT else os.kill
    for _ in range(20):  # again, for Bash sleeps through a signal that comes as `wait` begins
        send(sweep.process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            sweep.process.wait(timeout=2)
            break
    code, _ = sweep.end()
    assert code == 128 + number
    begun, stopped = (
        {line.split()[1] for line in sweep.lines(word)} for word in ("begun", "stopped")
    )
    assert begun == stopped and len(begun) == jobs


SOME_FAIL = """
case "$*" in
*aux_real_nvp*seed=0*) echo "failed 4" >>"$LOG"; exit 4 ;;
*aux_real_nvp*seed=1*) echo "failed 3" >>"$LOG"; exit 3 ;;
*gaussian*seed=0*) # with two at once it goes on until the one beside it has failed
    while ((WAITS)) && ! grep -q 'failed 4' "$LOG"; do sleep 0.02; done ;;
esac
echo "done $*" >>"$LOG"
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_run_stops_neither_those_beside_it_nor_those_after_it(tmp_path, jobs):
    variables = {"JOBS": str(jobs), "WAITS": str(jobs - 1), "SEEDS": "0 1"}
    sweep = Sweep(tmp_path, "expA/run.sh", SOME_FAIL, **variables)
    code, errors = sweep.end()
    assert code == 4
    first, *named = errors.splitlines()
    assert first == "experiments/expA/run.sh: 2 of 4 runs failed:"
    for line, seed, status in zip(named, (0, 1), (4, 3), strict=True):
        assert line.startswith(f"  exit code {status}: ")
        assert "aux_real_nvp" in line
        assert shlex.split(line)[-1] == f"seed={seed}"
    done = sweep.lines("done")
    assert len(done) == 2 and all("gaussian" in line for line in done)  # and no table


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_done_the_table_is_made(tmp_path, jobs):
    sweep = Sweep(tmp_path, "expA/run.sh", 'echo "$1" >>"$LOG"', JOBS=str(jobs))
    assert sweep.end() == (0, "")
    assert sweep.log.read_text().split() == ["main.py", "main.py", "plot_from_db.py"]


@pytest.mark.parametrize("script", ["expE/run.sh", "expF/run.sh"])
def test_nothing_is_begun_that_needs_a_failed_training(tmp_path, script):
    body = 'echo "$*" >>"$LOG"; [[ $* != *"phases=[train]"* ]] || exit 4'
    sweep = Sweep(tmp_path, script, body, SEEDS="0 1", JOBS="2")
    assert sweep.end()[0] == 4
    log = sweep.log.read_text().splitlines()
    assert log and all("phases=[train]" in line for line in log)


def test_a_sweep_that_ends_early_leaves_no_run_behind(tmp_path):
    """Without an id of the trained decoder it cannot go on."""
    body = """
case "$*" in
*--dry-run*seed=1* | *seed=1*--dry-run*) echo "unknown" >>"$LOG"; exit 2 ;;
*--dry-run*) echo '# run: abc' ;;
*initialise.run=abc*) # the last of seed 0
    until grep -q unknown "$LOG"; do sleep 0.02; done
    sleep 0.2; echo "done" >>"$LOG" ;;
esac
"""
    sweep = Sweep(tmp_path, "expE/run.sh", body, SEEDS="0 1", JOBS="5")
    assert sweep.end()[0] == 2
    assert len(sweep.lines("done")) == 4


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"JOBS": "0"}, "JOBS must be a whole number above 0, not '0'"),
        ({"JOBS": "x"}, "JOBS must be a whole number above 0, not 'x'"),
        ({"JOBS": "-1"}, "JOBS must be a whole number above 0, not '-1'"),
        ({"JOBS": "2 3"}, "JOBS must be a whole number above 0, not '2 3'"),
        ({"SEEDS": " "}, "SEEDS names no seed"),
    ],
)
def test_wrong_variables_are_named_and_nothing_is_begun(
    tmp_path: Path, variables: Mapping[str, str], says: str
):
    sweep = Sweep(tmp_path, "expA/run.sh", 'echo "$*" >>"$LOG"', **variables)
    assert sweep.end() == (2, f"experiments/expA/run.sh: {says}\n")
    assert not sweep.log.read_text()


def test_only_vi_data_says_where_data_lies(tmp_path):
    """DATA names data sets in the sweeps that have several."""
    body = 'echo "$VI_DATA" >>"$LOG"'
    sweep = Sweep(tmp_path, "flows/mnist.sh", body, DATA="digits", VI_DATA="/somewhere")
    assert sweep.end() == (0, "")
    assert set(sweep.log.read_text().split()) == {"/somewhere"}


def test_results_are_written_at_once(monkeypatch):
    """So runs side by side do not write into each other's."""
    writes = []

    class Terminal(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            writes.append(bytes(data))
            return len(data)

    terminal = io.TextIOWrapper(io.BufferedWriter(Terminal()), line_buffering=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    cli.write_results("a run\n  its numbers\n")
    assert writes == [b"a run\n  its numbers\n"]
