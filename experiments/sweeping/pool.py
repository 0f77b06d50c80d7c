"""Carries out the runs of a sweep side by side, whatever their processes are.

What an exit code of main.py means: 0 done; 75 (stopped with a checkpoint, or busy elsewhere) goes
back to the end of the queue; 2 (configuration) stops the other seeds of the configuration, or all
runs where the command itself is refused; 3 (data) stops all runs on the same data; 1 and 4 fail
alone; death by a signal is tried once more. Runs that start from the weights of one that failed
are not begun.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from experiments.runner.app import ExitCode
from experiments.sweeping.planning import PlannedRun
from experiments.sweeping.standing import Standing, last_line, log_path, look

POLL_SECONDS = 0.05
SHORT_SECONDS = 10.0
"""A run that ends with 75 sooner has done nothing; the pause before the next try is as long."""
LONGEST_PAUSE = 300.0
MAX_DEATHS, MAX_LOST_MACHINES = 1, 5
"""How often a run is tried again that a signal, or the end of its machine, has killed."""

JobState = Literal["waiting", "running", "done", "failed", "blocked", "stopped"]


class Process(Protocol):
    """One try at a run, wherever it goes on."""

    def poll(self) -> int | None:
        """The exit code, negative for death by a signal or with its machine; None until then."""

    def stop(self) -> None:
        """Ask for a checkpoint."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """Begins processes in numbered slots, each by ``python main.py ...`` with a log."""

    num_slots: int

    def begin(self, run: PlannedRun, slot: int) -> Process:
        """One try. Raises OSError where nothing can be begun."""


@dataclass
class Job:
    """A run with what has become of it in this sweep."""

    run: PlannedRun
    state: JobState = "waiting"
    code: int | None = None
    message: str = ""
    deaths: int = 0
    pause: float = 0.0
    not_before: float = 0.0
    began: float = 0.0
    seconds: float = 0.0
    slot: int = -1
    process: Process | None = None


class Watcher(Protocol):
    """Is told of every change of state."""

    def __call__(self, event: str, job: Job, jobs: Sequence[Job]) -> None:
        """``event`` is begun, done, again, waits, failed, blocked or stopped."""


class Pool:
    """The jobs of a sweep and the slots that they go on in.

    Args:
        launcher: begins processes.
        runs: what is to be done, in this order; parents before their children.
        watch: told of every change.
        failed: ids of runs that have failed before and are not tried.
        clock: seconds.
    """

    def __init__(
        self,
        launcher: Launcher,
        runs: Sequence[PlannedRun],
        watch: Watcher,
        failed: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs = [Job(run) for run in runs]
        self.signal_number: int | None = None
        self._is_told = self._at_once = False
        self._queue = list(self.jobs)
        self._launcher, self._watch, self._clock = launcher, watch, clock
        self._free = list(range(launcher.num_slots))
        self._bad = set(failed)

    def carry_out(self) -> None:
        """Do all that can be done; returns early, all processes ended, after a signal."""
        try:
            with self._signals():
                while any(job.state in ("waiting", "running") for job in self.jobs):
                    self._reap()
                    if self.signal_number is None:
                        self._begin_all()
                    elif self._running():
                        self._pass_on()
                    else:
                        break
                    time.sleep(POLL_SECONDS)
        finally:
            for job in self._running():
                if job.process is not None:
                    job.process.kill()
        for job in self.jobs:
            if job.state == "waiting":
                self._end(job, "stopped", "not begun")

    def _running(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "running"]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        before = {number: signal.signal(number, self._handle) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self._at_once = number == signal.SIGINT and self.signal_number == signal.SIGINT
        self.signal_number = number

    def _pass_on(self) -> None:
        """The first signal asks every run for a checkpoint, the second Ctrl-C does not wait."""
        for job in self._running():
            assert job.process is not None
            if self._at_once:
                job.process.kill()
            elif not self._is_told:
                job.process.stop()
        self._is_told = True

    # --- beginning ---------------------------------------------------------------------------

    def _begin_all(self) -> None:
        open_ids = {job.run.id for job in self.jobs if job.state in ("waiting", "running")}
        for job in list(self._queue):
            parent = job.run.parent
            if parent in self._bad:
                self._bad.add(job.run.id)
                self._end(job, "blocked", f"it starts from the weights of {parent}")
                self._queue.remove(job)
            elif self._free and parent not in open_ids and job.not_before <= self._clock():
                self._begin(job)

    def _begin(self, job: Job) -> None:
        self._queue.remove(job)
        standing = look(job.run.folder)  # another sweep may have been at it meanwhile
        if standing.state == "finished":
            job.seconds = 0.0
            self._end(job, "done", "done elsewhere")
            return
        if standing.state == "running":
            self._again(job, f"goes on {standing.message}", SHORT_SECONDS, "waits")
            return
        job.slot = self._free.pop(0)
        job.began = self._clock()
        try:
            job.process = self._launcher.begin(job.run, job.slot)
        except OSError as error:
            self._free.append(job.slot)
            self._fail(job, f"cannot be begun: {error}")
            return
        job.state = "running"
        self._watch("begun", job, self.jobs)

    # --- ending ------------------------------------------------------------------------------

    def _reap(self) -> None:
        for job in self._running():
            assert job.process is not None
            code = job.process.poll()
            if code is None:
                continue
            self._free.append(job.slot)
            job.process, job.code = None, code
            job.seconds = self._clock() - job.began
            self._judge(job, code)

    def _judge(self, job: Job, code: int) -> None:
        said = last_line(log_path(job.run.folder))
        if code == ExitCode.DONE:
            self._end(job, "done", "")
        elif self.signal_number is not None and (code in _STOPPED or code < 0):
            self._end(job, "stopped", "")
        elif code == ExitCode.TRY_AGAIN:
            is_short = job.seconds < SHORT_SECONDS
            pause = min(2 * job.pause or SHORT_SECONDS, LONGEST_PAUSE) if is_short else 0.0
            self._again(job, said, pause)
        elif code < 0 and job.deaths < (MAX_DEATHS if _is_signal(code) else MAX_LOST_MACHINES):
            job.deaths += 1
            self._again(job, death(code), 0.0)
        else:
            self._fail(job, death(code) if code < 0 else _reason(look(job.run.folder), said))
            self._block(job, code, said)

    def _again(self, job: Job, message: str, pause: float, event: str = "again") -> None:
        is_news = job.message != message or event == "again"
        job.state, job.message, job.pause = "waiting", message, pause
        job.not_before = self._clock() + pause
        self._queue.append(job)
        if is_news:
            self._watch(event, job, self.jobs)

    def _fail(self, job: Job, message: str) -> None:
        self._bad.add(job.run.id)
        self._end(job, "failed", message)

    def _end(self, job: Job, state: JobState, message: str) -> None:
        job.state, job.message = state, message
        self._watch(state, job, self.jobs)

    def _block(self, failed: Job, code: int, said: str) -> None:
        """Do not begin what would fail for the same cause."""
        for job in list(self._queue):
            if has_same_cause(code, said, failed.run, job.run):
                self._queue.remove(job)
                self._bad.add(job.run.id)
                self._end(job, "blocked", f"the same as {failed.run.id}: {said}")


_STOPPED = (ExitCode.TRY_AGAIN, ExitCode.CTRL_C)


def has_same_cause(code: int, said: str, failed: PlannedRun, other: PlannedRun) -> bool:
    """Whether a run would fail like one that ended with ``code``, having ``said`` why."""
    if code == ExitCode.DATA:
        return failed.identified.resolved["data"] == other.identified.resolved["data"]
    if code == ExitCode.USAGE:
        return "usage error" in said or failed.identified.hash == other.identified.hash
    return False


def death(code: int) -> str:
    """What killed a process of this negative exit code."""
    return f"killed by {signal.Signals(-code).name}" if _is_signal(code) else "its machine died"


def _is_signal(code: int) -> bool:
    return -code in signal.valid_signals()


def _reason(standing: Standing, said: str) -> str:
    return standing.message if standing.state == "failed" else said
