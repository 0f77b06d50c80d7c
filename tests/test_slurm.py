"""Slurm's arrays, with stand-ins for sbatch and scontrol that do what those of a cluster do."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.runner.app import UsageError
from experiments.sweeping import slurm
from experiments.sweeping.planning import Plan
from experiments.sweeping.standing import log_path
from tests.sweep_files import plan_of, program, read_sweep
from utils.console import Console

SBATCH = """#!/bin/sh
echo "$*" >>{log}
test -e {refused} && {{ echo "sbatch: error: Invalid partition" >&2; exit 1; }}
echo "$(wc -l <{log});cluster"
"""
SCONTROL = """#!/bin/sh
case $1 in
show) echo "ReconfigFlags           = (null)"; echo "RequeueExit             = $REQUEUE_EXIT" ;;
*) echo "$*" >>{log} ;;
esac
"""
CHAIN = (
    "config: base.yaml\nset: ['phases=[train]']\nseeds: 0-1\nslurm: {partition: gpu}\n"
    "from_each: {set: ['phases=[estimate]'], grid: {evaluation.weights: [last]}}"
)


class Cluster:
    """sbatch and scontrol in the PATH; runs are ``body`` in place of main.py."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = "") -> None:
        self.submitted, self.asked, self.refused = (folder / n for n in ("sent", "asked", "no"))
        tools = folder / "bin"
        tools.mkdir()
        for name, text, log in (
            ("sbatch", SBATCH, self.submitted),
            ("scontrol", SCONTROL, self.asked),
        ):
            (tools / name).write_text(text.format(log=log, refused=self.refused))
            (tools / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        monkeypatch.setattr(slurm, "PROGRAM", program(folder, body))

    def scripts(self) -> list[Path]:
        return [Path(line.split()[-1]) for line in self.submitted.read_text().splitlines()]


def submit(folder: Path, plan: Plan, jobs: int | None = None, given: Sequence[str] = ()) -> int:
    sweep = read_sweep(folder, CHAIN)
    return slurm.submit(sweep, plan.runs, jobs, given, folder / "results", Console(-1))


def start(script: Path, task: int, requeue_exit: str = "(null)") -> subprocess.Popen[bytes]:
    """One task of an array, as Slurm begins it."""
    environment = os.environ | {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_JOB_ID": "70",
        "REQUEUE_EXIT": requeue_exit,
    }
    return subprocess.Popen(["bash", script], env=environment)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(tmp_path, CHAIN)


def test_runs_are_tasks_and_those_that_need_others_wait_for_them(tmp_path, monkeypatch, plan):
    cluster = Cluster(tmp_path, monkeypatch)
    assert submit(tmp_path, plan, 3, ["time=1:00:00", "--gres=gpu:1"]) == 0
    first, second = cluster.submitted.read_text().splitlines()
    assert first.startswith("--parsable /") and second.startswith(
        "--parsable --dependency=afterany:1 /"
    )
    text = cluster.scripts()[0].read_text()
    for line in ("array=0-1%3", "partition=gpu", "time=1:00:00", "gres=gpu:1", "signal=B:USR1@90"):
        assert f"#SBATCH --{line}\n" in text
    assert re.findall(r"^\d\) # (.*)", text, re.MULTILINE) == ["seed=0", "seed=1"]
    assert "evaluation.weights=last" in cluster.scripts()[1].read_text()
    if checker := shutil.which("shellcheck"):
        assert subprocess.run([checker, cluster.scripts()[0]], check=False).returncode == 0


def test_blanks_in_names_and_folders_are_quoted(tmp_path, plan):
    text = slurm.script("my sweep", plan.runs, None, {}, tmp_path / "a b", tmp_path)
    options = re.findall("^#SBATCH (.*)", text, re.MULTILINE)
    assert [shlex.split(option) for option in options] == [  # sbatch splits and unquotes alike
        [f"--{option}"]
        for option in ("job-name=my sweep", "array=0-3", f"output={tmp_path}/a b/%A_%a.out")
    ]


def test_a_task_does_its_run_with_its_log(tmp_path, monkeypatch, plan):
    cluster = Cluster(tmp_path, monkeypatch, "print('seed', seed); sys.exit(4 * seed)")
    submit(tmp_path, plan)
    for task, run in enumerate((plan.runs[0], plan.runs[2])):
        assert start(cluster.scripts()[0], task).wait() == 4 * task
        heading, said = log_path(run.folder).read_text().splitlines()
        assert heading.endswith("(job 70)") and said == f"seed {task}"
    assert not cluster.asked.exists()


@pytest.mark.parametrize(
    ("requeue_exit", "asked"),
    [("(null)", ["requeue 7_1"]), ("4,175", ["requeue 7_1"]), ("75", []), ("4,75", [])],
)
def test_75_is_requeued_by_whoever_does_it_here(tmp_path, monkeypatch, plan, requeue_exit, asked):
    cluster = Cluster(tmp_path, monkeypatch, "sys.exit(75)")
    submit(tmp_path, plan)
    assert start(cluster.scripts()[0], 1, requeue_exit).wait() == 75
    log = cluster.asked.read_text().splitlines() if cluster.asked.exists() else []
    assert log == asked


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_the_run_which_ends_in_its_own_time(tmp_path, monkeypatch, plan, number):
    body = f"""
def stop(number, frame):
    time.sleep(0.3); open({str(tmp_path)!r} + "/checkpoint", "w"); sys.exit(75)
signal.signal({int(number)}, stop)
open({str(tmp_path)!r} + "/begun", "w")
while True: time.sleep(0.01)
"""
    cluster = Cluster(tmp_path, monkeypatch, body)
    submit(tmp_path, plan)
    task = start(cluster.scripts()[0], 0)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    task.send_signal(number)  # to the script alone, as --signal=B: has it
    assert task.wait() == 75
    assert (tmp_path / "checkpoint").exists()
    assert cluster.asked.read_text() == "requeue 7_0\n"


def test_a_node_that_does_not_see_the_results_says_so(tmp_path, monkeypatch, plan, capfd):
    cluster = Cluster(tmp_path, monkeypatch)
    submit(tmp_path, plan)
    script = shutil.copy(cluster.scripts()[0], tmp_path / "copy.sh")
    shutil.rmtree(tmp_path / "results" / "sweeps")
    assert start(script, 0).wait() == 2
    assert "results must lie where all nodes see them" in capfd.readouterr().err


def test_what_slurm_refuses_is_told(tmp_path, monkeypatch, plan):
    cluster = Cluster(tmp_path, monkeypatch)
    cluster.refused.touch()
    with pytest.raises(UsageError, match="Invalid partition"):
        submit(tmp_path, plan)
    with pytest.raises(UsageError, match="write an option of sbatch as time"):
        submit(tmp_path, plan, None, ["time"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs sbatch, which is not in the PATH"):
        submit(tmp_path, plan)
