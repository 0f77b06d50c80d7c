"""sweep.py as a person uses it: what it prints, what it exits with, what it begins."""

from __future__ import annotations

import importlib.util
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

import sweep as program_under_test
from experiments.sweeping import local, pool
from experiments.sweeping.planning import Additions, Plan
from tests.sweep_files import SWEEP, plan_of, program, write
from utils.results.records import RunRecord

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("results_here")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.01)
    monkeypatch.chdir(ROOT)


def run(*arguments: str | Path) -> int:
    try:
        return program_under_test.main([str(word) for word in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def does(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = "") -> Path:
    """Let runs be ``body`` in place of main.py; each adds a line to the file returned."""
    begun = folder / "begun"
    begun.touch()
    text = f"open({str(begun)!r}, 'a').write(f'{{seed}}\\n')\n{body}"
    monkeypatch.setattr(local, "PROGRAM", program(folder, text))
    return begun


def finish(plan: Plan, status: str = "finished", seeds: Sequence[int] = (0, 1)) -> None:
    for run in plan.runs:
        config = run.identified.config
        if config.seed in seeds:
            run.folder.create()
            record = RunRecord(
                "small", run.identified.hash, config.seed, status=status, message="it broke",
                started="2026-01-01", finished="2026-01-01",
            )  # fmt: skip
            run.folder.write_status(record, vouch=True)


def test_dry_run_lists_the_runs_and_begins_nothing(tmp_path, monkeypatch, capsys):
    begun = does(tmp_path, monkeypatch)
    assert run(write(tmp_path), "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "4 runs: 4 to do"
    assert "seed=1, covariance=full" in lines[4]
    assert not begun.read_text() and not (tmp_path / "results").exists()


def test_commands_are_those_of_what_is_to_be_done(tmp_path, capsys):
    plan = plan_of(tmp_path)
    finish(plan, seeds=[0])
    assert run(write(tmp_path), "--commands") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [run.command for run in plan.runs[2:]]
    assert shlex.split(printed[0])[:2] == ["python", "main.py"]


def test_finished_runs_begin_no_process_and_get_the_sweeps_labels(tmp_path, monkeypatch, capsys):
    begun = does(tmp_path, monkeypatch)
    finish(plan_of(tmp_path), seeds=[0])
    assert run(write(tmp_path)) == 0
    assert begun.read_text() == "1\n1\n"
    assert "4 runs, 2 finished, 2 to do" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "results" / "results.sqlite")) as connection:
        query = "SELECT experiment, name, value FROM labels ORDER BY value"
        assert connection.execute(query).fetchall() == [
            ("small", "covariance", "diagonal"),
            ("small", "covariance", "full"),
        ]


def test_a_failure_makes_a_table_and_exit_code_1(tmp_path, monkeypatch, capsys):
    does(tmp_path, monkeypatch, "if 'full' in args: print('diverged: nan'); sys.exit(4)")
    assert run(write(tmp_path), "--jobs", "2") == 1
    said = capsys.readouterr().err
    table = said[said.index("run  ") :].splitlines()
    assert table[0].split("  ")[0] == "run" and "exit code" in table[0]
    for line, run_of in zip(table[1:3], plan_of(tmp_path).runs[1::2], strict=True):
        assert run_of.id in line and run_of.label in line
        assert "4  " in line and "diverged: nan" in line and line.endswith("run.log")


def test_what_failed_before_is_tried_only_when_asked(tmp_path, monkeypatch, capsys):
    begun = does(tmp_path, monkeypatch)
    finish(plan_of(tmp_path), "failed", seeds=[0])
    finish(plan_of(tmp_path), seeds=[1])
    file = write(tmp_path)
    assert run(file) == 1
    said = capsys.readouterr().err
    assert "failed: it broke" in said and "--retry-failed" in said
    assert not begun.read_text()
    assert run(file, "--retry-failed") == 0
    assert begun.read_text() == "0\n0\n"


def test_status_tells_how_far_each_run_is(tmp_path, capsys):
    finish(plan_of(tmp_path), "failed", seeds=[1])
    assert run(write(tmp_path), "--status") == 0
    printed = capsys.readouterr().out
    assert "4 runs: 2 to do, 2 failed" in printed and "failed: it broke" in printed


def test_what_varies_can_be_changed_on_the_command_line(tmp_path, capsys):
    options = ("--seeds", "7-8", "--vary", "covariance", "full", "-set", "training.epochs=9")
    assert run(write(tmp_path), *options, "--max-time", "1h", "--commands") == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    for line, seed in zip(printed, (7, 8), strict=True):
        words = shlex.split(line)
        assert {f"seed={seed}", "posterior.covariance=full", "training.epochs=9"} <= set(words)
        assert words[-2:] == ["--max-time", "1h"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--jobs", "0"], "--jobs and --per-gpu must be at least 1"),
        (["--gpus", "x"], "'x' is no GPU"),
        (["--gpus", "99"], "there is no GPU 99 here"),
        (["--seeds", "x"], "--seeds: seeds are like 3, 0-4"),
        (["--vary", "covariance"], "--vary covariance: name at least one choice"),
        (["--vary", "covariance", "full", "--vary", "covariance", "x"], "given twice"),
        (["--vary", "covarianc", "full"], "Did you mean 'covariance'?"),
        (["--max-time", "55"], "--max-time: a time is written like 55m"),
        (["-set", "training.epoch=3"], "-set: unknown key `training.epoch`"),
        (["--launcher", "slrm"], "invalid choice: 'slrm'"),
    ],
)
def test_usage_errors_are_told_and_nothing_begins(tmp_path, monkeypatch, capsys, options, says):
    begun = does(tmp_path, monkeypatch)
    assert run(write(tmp_path), *options) == 2
    assert says in capsys.readouterr().err
    assert not begun.read_text()


def test_a_report_that_cannot_be_made_is_told_before_anything_begins(
    tmp_path, monkeypatch, capsys
):
    begun = does(tmp_path, monkeypatch)
    then = "then: [table, gapz, table --formt csv, 'table \"x']"
    assert run(write(tmp_path, SWEEP + then)) == 2
    said = capsys.readouterr().err
    assert '`then`: plot_from_db.py table "x: No closing quotation' in said
    assert "`then`: plot_from_db.py gapz" in said and "Did you mean '--format'" in said
    assert not begun.read_text()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_told_how_to_install_it(tmp_path, capsys):
    assert run(write(tmp_path), "--launcher", "ray") == 2
    assert "python -m pip install" in capsys.readouterr().err


def test_finished_runs_need_no_start_of_python_each(tmp_path, monkeypatch, capsys):
    begun = does(tmp_path, monkeypatch)
    text = "config: base.yaml\nseeds: 0-19"
    finish(plan_of(tmp_path, text), seeds=range(20))
    assert run(write(tmp_path, text)) == 0
    assert "20 runs, 20 finished, 0 to do" in capsys.readouterr().err
    assert not begun.read_text()


@pytest.mark.slow
def test_a_sweep_from_its_file_to_its_table(tmp_path, monkeypatch):
    """With main.py itself; one run is made to fail, and the table is of the others."""
    text = SWEEP + "  training.optimiser.lr: [1e-3, 1e30]\nthen: [table]\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "sweep.py", str(write(tmp_path, text)), "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    plan = plan_of(tmp_path, text, Additions())
    assert [run.folder.read_status().status for run in plan.runs] == ["finished", "diverged"] * 4
    assert done.stderr.count("diverged: ") >= 4 and "| gaussian |" in done.stdout
