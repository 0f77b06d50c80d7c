"""How a sweep carries out its runs, with small programs in place of main.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments.sweeping import pool as pool_module
from experiments.sweeping.local import LocalLauncher, make_slots, visible_gpus
from experiments.sweeping.planning import Plan
from experiments.sweeping.pool import Job, Pool
from experiments.sweeping.standing import log_path, look
from tests.sweep_files import plan_of, program
from utils.results.lock import holding
from utils.results.records import RunRecord, utc_now

ROOT = Path(__file__).resolve().parent.parent
FOUR = "config: base.yaml\nseeds: 0-3"


class Events:
    """What a pool says, and who was begun while how many went on."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.most = 0

    def __call__(self, event: str, job: Job, jobs: Sequence[Job]) -> None:
        self.told.append((event, job.run.label))
        self.most = max(self.most, sum(other.state == "running" for other in jobs))

    def of(self, event: str) -> list[str]:
        return [label for name, label in self.told if name == event]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(pool_module, "SHORT_SECONDS", 0.05)


def carry_out(
    folder: Path, plan: Plan, body: str, num_slots: int = 2, failed: Sequence[str] = ()
) -> tuple[Pool, Events]:
    events = Events()
    launcher = LocalLauncher([{}] * num_slots, program(folder, body))
    pool = Pool(launcher, plan.runs, events, failed)
    pool.carry_out()
    return pool, events


def states(pool: Pool) -> list[str]:
    return [job.state for job in pool.jobs]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_all_are_done_side_by_side_each_with_a_log(tmp_path):
    body = f"open({str(tmp_path)!r} + f'/{{seed}}', 'w')\n" + textwrap.dedent(
        f"""
        deadline = time.monotonic() + 30
        while len([n for n in os.listdir({str(tmp_path)!r}) if n.isdigit()]) < 2:
            assert time.monotonic() < deadline  # until two have begun
        print("said by", seed)
        """
    )
    plan = plan_of(tmp_path, FOUR)
    pool, events = carry_out(tmp_path, plan, body)
    assert states(pool) == ["done"] * 4
    assert events.most == 2
    assert events.of("begun") == [run.label for run in plan.runs]
    for seed, run in enumerate(plan.runs):
        heading, said = log_path(run.folder).read_text().splitlines()
        assert heading.startswith("# 20") and heading.endswith(run.command)
        assert said == f"said by {seed}"


@pytest.mark.parametrize("code", [1, 4])
def test_a_failure_is_told_and_stops_no_other(tmp_path, code):
    body = f"if seed == 1: print('it is broken'); sys.exit({code})"
    pool, events = carry_out(tmp_path, plan_of(tmp_path, FOUR), body)
    assert states(pool) == ["done", "failed", "done", "done"]
    assert (pool.jobs[1].code, pool.jobs[1].message) == (code, "it is broken")
    assert events.of("begun").count("seed=1") == 1


def test_75_goes_to_the_end_of_the_queue_and_on(tmp_path):
    body = f"path = {str(tmp_path)!r} + f'/{{seed}}'\n" + textwrap.dedent(
        """
        if seed < 2 and not os.path.exists(path):
            open(path, 'w'); sys.exit(75)
        """
    )
    pool, events = carry_out(tmp_path, plan_of(tmp_path, FOUR), body, num_slots=1)
    assert states(pool) == ["done"] * 4
    assert events.of("again") == ["seed=0", "seed=1"]
    assert events.of("begun")[:4] == ["seed=0", "seed=1", "seed=2", "seed=3"]


def test_death_by_a_signal_is_tried_once_more(tmp_path):
    body = "if seed == 0: os.kill(os.getpid(), signal.SIGKILL)"
    pool, events = carry_out(tmp_path, plan_of(tmp_path, FOUR), body)
    assert states(pool) == ["failed", "done", "done", "done"]
    assert events.of("begun").count("seed=0") == 2
    assert pool.jobs[0].message == "killed by SIGKILL"


def test_missing_data_stop_all_runs_on_them(tmp_path):
    text = "config: base.yaml\ngrid: {data.num_train: [20, 30]}\nseeds: 0-1"
    body = "if 'num_train=20' in args: print('data error: not there'); sys.exit(3)"
    pool, _ = carry_out(tmp_path, plan_of(tmp_path, text), body, num_slots=1)
    assert states(pool) == ["failed", "done", "blocked", "done"]
    assert "data error: not there" in pool.jobs[2].message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("usage error: no database", ["failed", "blocked", "blocked", "blocked"]),
        ("configs/a.yaml:3: `data`: no", ["failed", "done", "blocked", "done"]),
    ],
)
def test_a_refused_command_stops_all_and_a_wrong_configuration_its_other_seeds(
    tmp_path, said, expected
):
    text = "config: base.yaml\ngrid: {training.epochs: [1, 2]}\nseeds: 0-1"
    body = f"if 'epochs=1' in args: print({said!r}); sys.exit(2)"
    pool, _ = carry_out(tmp_path, plan_of(tmp_path, text), body, num_slots=1)
    assert states(pool) == expected


def test_nothing_is_begun_that_needs_the_weights_of_a_failed_run(tmp_path):
    text = (
        "config: base.yaml\nset: ['phases=[train]']\nseeds: 0-2\n"
        "from_each: {set: ['phases=[estimate]'], grid: {evaluation.weights: [last]}}"
    )
    plan = plan_of(tmp_path, text)
    body = "if seed == 0: sys.exit(4)"
    first_of_seed_2 = plan.runs[4].id
    pool, events = carry_out(tmp_path, plan, body, failed=[first_of_seed_2])
    # The run of seed 2 is known to have failed before; given again, it is tried.
    assert states(pool)[:4] == ["failed", "blocked", "done", "done"]
    assert states(pool)[5] == "blocked"
    begun = events.of("begun")
    assert begun.index("seed=1") < begun.index("seed=1, evaluation.weights=last")


def test_a_run_that_goes_on_elsewhere_is_waited_for_without_a_process(tmp_path):
    plan = plan_of(tmp_path, "config: base.yaml\nseeds: 0")
    (run,) = plan.runs
    run.folder.create()
    record = RunRecord("small", run.identified.hash, 0, host="elsewhere", heartbeat=utc_now())
    run.folder.write_status(record)
    events = Events()
    pool = Pool(LocalLauncher([{}], program(tmp_path, "sys.exit(9)")), plan.runs, events)

    def finish() -> None:
        wait_for(lambda: events.of("waits") != [])
        finished = RunRecord("small", run.identified.hash, 0, status="finished")
        run.folder.write_status(finished)

    thread = threading.Thread(target=finish)
    thread.start()
    pool.carry_out()
    thread.join()
    assert states(pool) == ["done"]
    assert events.told == [("waits", "seed=0"), ("done", "seed=0")]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        *(("finished", "finished"), ("failed", "failed"), ("diverged", "failed")),
        *(("interrupted", "to do"), ("running", "to do")),
    ],
)
def test_how_far_a_run_is_stands_in_its_folder(tmp_path, status, state):
    (run,) = plan_of(tmp_path, "config: base.yaml\nseeds: 0").runs
    assert look(run.folder).state == "to do"
    run.folder.create()
    run.folder.write_status(RunRecord("small", run.identified.hash, 0, status=status))
    assert look(run.folder).state == state


def test_a_finished_run_whose_labels_are_damaged_has_failed(tmp_path):
    (run,) = plan_of(tmp_path, "config: base.yaml\nseeds: 0").runs
    run.folder.create()
    run.folder.write_status(RunRecord("small", run.identified.hash, 0, status="finished"))
    run.folder.labels.path.write_text("experiment,name,value\nsmall,a\n")
    state, message = look(run.folder)
    assert state == "failed" and f"{run.folder.labels.path}:2: " in message


def test_a_run_whose_lock_is_held_goes_on(tmp_path):
    (run,) = plan_of(tmp_path, "config: base.yaml\nseeds: 0").runs
    run.folder.create()
    host = os.uname().nodename
    with holding(run.folder.path):
        now = utc_now()
        run.folder.write_status(RunRecord("s", run.identified.hash, 0, host=host, heartbeat=now))
        assert look(run.folder).state == "running"
    assert look(run.folder).state == "to do"


# --- signals ---

LONG = """
def stop(*_):
    open(f"{here}/stopped{seed}", "w")
    if seed != 1: sys.exit(75)
signal.signal(signal.SIGTERM, stop)
with open(f"{here}/begun{seed}", "w") as file:  # closed here: a finaliser would swallow the exit
    file.write(str(os.getpid()))
while True: time.sleep(0.01)
"""


def long_program(folder: Path) -> str:
    return f"here = {str(folder)!r}\n" + LONG


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_every_run_and_the_sweep_ends_after_them(tmp_path, number):
    plan = plan_of(tmp_path, "config: base.yaml\nseeds: [0, 2, 4]")
    events = Events()
    pool = Pool(
        LocalLauncher([{}] * 2, program(tmp_path, long_program(tmp_path))), plan.runs, events
    )

    def send() -> None:
        wait_for(lambda: len(list(tmp_path.glob("begun*"))) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    pool.carry_out()
    thread.join()
    assert pool.signal_number == number
    assert states(pool) == ["stopped"] * 3
    assert sorted(path.name for path in tmp_path.glob("stopped*")) == ["stopped0", "stopped2"]


def test_the_second_ctrl_c_does_not_wait(tmp_path):
    plan = plan_of(tmp_path, "config: base.yaml\nseeds: 1")  # which writes no end of a checkpoint
    pool = Pool(
        LocalLauncher([{}], program(tmp_path, long_program(tmp_path))), plan.runs, Events()
    )

    def send() -> None:
        for name in ("begun1", "stopped1"):
            wait_for((tmp_path / name).exists)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    pool.carry_out()
    thread.join()
    assert states(pool) == ["stopped"]
    assert pool.jobs[0].code == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells children")
def test_no_run_outlives_a_sweep_that_is_killed(tmp_path):
    sweep = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from experiments.sweeping.local import LocalProcess
command = {program(tmp_path, long_program(tmp_path))!r}
process = LocalProcess([*command, "seed=0"], Path({str(tmp_path)!r}) / "log", {{}})
while process.poll() is None: pass
"""
    sweeping = subprocess.Popen([sys.executable, "-c", sweep])
    begun = tmp_path / "begun0"
    wait_for(lambda: begun.exists() and begun.read_text() != "")
    sweeping.kill()
    sweeping.wait()
    wait_for((tmp_path / "stopped0").exists)  # asked for a checkpoint

    def is_gone() -> bool:
        status = Path(f"/proc/{begun.read_text()}/stat")
        return not status.exists() or status.read_text().split(") ")[1][0] == "Z"

    wait_for(is_gone)


# --- slots ---


def test_slots_share_cores_and_gpus():
    assert make_slots(1, [], 1, {}, 8) == [{}]  # as PyTorch chooses
    assert [slot["OMP_NUM_THREADS"] for slot in make_slots(3, [], 1, {}, 8)] == ["2", "2", "2"]
    assert make_slots(4, [], 1, {}, 2)[0]["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in make_slots(2, [], 1, {"OMP_NUM_THREADS": "5"}, 8)[0]
    devices = [slot["CUDA_VISIBLE_DEVICES"] for slot in make_slots(1, ["0", "3"], 2, {}, 8)]
    assert devices == ["0", "3", "0", "3"]


def test_gpus_are_those_that_this_process_sees():
    assert visible_gpus(["1", "cuda:0"], {}, 2) == ["1", "0"]
    assert visible_gpus(["1"], {"CUDA_VISIBLE_DEVICES": "4,GPU-7"}, 2) == ["GPU-7"]


@pytest.mark.parametrize(
    ("text", "count", "says"),
    [
        ("2", 2, "no GPU 2 here: the last is 1"),
        ("0", 0, "no GPU 0 here: there is none"),
        ("x", 2, "'x' is no GPU"),
    ],
)
def test_gpus_that_are_not_there_are_told(text, count, says):
    with pytest.raises(ValueError, match=says):
        visible_gpus([text], {}, count)
