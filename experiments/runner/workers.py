"""Several processes that share the batches of a run; this one alone records."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import torch

from experiments.runner.batches import Batch
from experiments.runner.crew import Measured, Watch
from experiments.runner.messages import (
    Ended,
    Failed,
    FromWorker,
    Ready,
    Setup,
    Stop,
    Told,
    ToWorker,
    Warned,
    receive,
    send,
)
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from utils.code import ROOT
from utils.processes import Child

PROGRAM = (sys.executable, "-P", "-m", "experiments.runner.worker")
LOOK_SECONDS = 0.1  # between looks for a signal
AHEAD = 4  # batches a worker, by which others may be ahead of the one that is to be recorded
LAST_SECONDS = 10.0  # for a process to end that has closed its connection
MAX_DEATHS = 1  # of workers at one batch, before it is given up


@dataclass
class _Job:
    """A batch and its place in the order."""

    number: int
    batch: Batch
    deaths: int = 0


class WorkerProcess:
    """A process that has begun to serve this one over a socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
            self._child = Child(
                (*PROGRAM, str(descriptor), str(os.getpid())),
                pass_fds=[descriptor],
                stdout=2,  # this process's own is for results
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self.connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def send(self, message: ToWorker) -> None:
        """Say something; that it has died is heard when it is listened to."""
        with suppress(OSError):
            send(self.connection, message)

    def poll(self) -> int | None:
        """The exit code of one that has ended, negative for a signal's number; else None."""
        return self._child.poll()

    def bury(self) -> int:
        """The exit code of one that is about to end by itself, negative for a signal's number."""
        code = self._child.wait(LAST_SECONDS)
        self.end()
        return -signal.SIGKILL if code is None else code

    def end(self) -> None:
        """Kill it."""
        self._child.kill()
        self.connection.close()


class _Worker(WorkerProcess):
    """One that measures batches."""

    def __init__(self, job: _Job) -> None:
        super().__init__()
        self.job: _Job | None = job
        self.is_ready = False


class Workers:
    """A crew of processes, each begun when there is a batch for it, all ended on exit.

    A batch whose worker is killed is given to another, once.

    Args:
        session: whose data are measured, with the weights that its VAE has now.
        interruption: tells of signals.
        number: of processes, at most.
    """

    def __init__(self, session: Session, interruption: Interruption, number: int) -> None:
        self._session, self._interruption, self._number = session, interruption, number
        self._slots: list[_Worker | None] = [None] * number
        self._jobs: Iterator[_Job] = iter(())
        self._num_begun = 0
        self._again: deque[_Job] = deque()
        self._finished: dict[int, Measured] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in filter(None, self._slots):
            worker.end()

    def results(self, batches: Iterable[Batch], watch: Watch) -> Iterator[Measured]:
        """See ``Crew``.

        Raises ChildProcessError where a worker cannot begin, or two are killed at one batch; and
        what a worker raises.
        """
        self._jobs, self._num_begun = map(_Job, itertools.count(), batches), 0
        due = 0
        while True:
            self._hand_out(due)
            if due in self._finished:
                yield self._finished.pop(due)
                due += 1
            elif any(worker is not None and worker.job for worker in self._slots):
                self._listen(watch)
            else:
                return
            if self._interruption.signal_number is not None:
                self._stop(watch)

    def _hand_out(self, due: int) -> None:
        """Give every free slot a batch; those of processes that are there come first."""
        free = [slot for slot, worker in enumerate(self._slots) if not (worker and worker.job)]
        for slot in sorted(free, key=lambda slot: self._slots[slot] is None):
            if (job := self._next(due)) is None:
                return
            if (worker := self._slots[slot]) is None:
                self._slots[slot] = _Worker(job)
            else:
                self._give(worker, job)

    def _next(self, due: int) -> _Job | None:
        if self._again:
            return self._again.popleft()
        if self._num_begun >= due + AHEAD * self._number:
            return None
        self._num_begun += 1
        return next(self._jobs, None)

    def _give(self, worker: _Worker, job: _Job) -> None:
        worker.job = job
        worker.send(job.batch.to("cpu"))

    def _listen(self, watch: Watch) -> None:
        slots = {worker.connection: slot for slot, worker in enumerate(self._slots) if worker}
        for connection in wait(list(slots), LOOK_SECONDS):
            assert isinstance(connection, Connection)
            try:
                message = receive(connection)
            except (EOFError, OSError):
                self._bury(slots[connection])
            else:
                self._heed(slots[connection], message, watch)

    def _heed(self, slot: int, message: FromWorker, watch: Watch) -> None:
        worker = self._slots[slot]
        assert worker is not None
        match message, worker.job:
            case Ready(), job if job is not None:
                device = device_of(slot, self._session.device, torch.cuda.device_count())
                worker.send(setup_of(self._session, self._number, device))
                worker.is_ready = True
                self._give(worker, job)
            case Told(num_done, text), job if job is not None:
                watch(job.batch, num_done, text)
            case Ended(rows), job if job is not None:
                worker.job = None
                if rows is not None:
                    self._finished[job.number] = Measured(job.batch, rows)
            case Warned(text), _:
                self._session.console.warn(text)
            case Failed(error), _:
                raise error

    def _bury(self, slot: int) -> None:
        """See to the batch of a worker that has died. Raises ChildProcessError."""
        worker = self._slots[slot]
        assert worker is not None
        self._slots[slot], code, job = None, worker.bury(), worker.job
        worker.job = None
        if job is None:
            return
        if code >= 0:
            raise ChildProcessError(f"a worker ended with exit code {code}, as it says above")
        job.deaths += 1
        death = f"killed by {signal.Signals(-code).name} at {job.batch.name}"
        if job.deaths > MAX_DEATHS:
            raise ChildProcessError(
                f"{job.deaths} workers were {death}; where memory is short, take fewer "
                "runtime.workers or smaller batches"
            )
        self._session.console.warn(f"a worker was {death}; another goes on with it")
        self._again.append(job)

    def _stop(self, watch: Watch) -> None:
        """Raise InterruptedRunError, once what can go on later has been saved."""
        busy = [worker for worker in self._slots if worker and worker.is_ready and worker.job]
        asked = [worker for worker in busy if worker.job and worker.job.batch.is_saved]
        for worker in asked:
            worker.send(Stop())
        while any(worker.job for worker in asked):
            self._listen(watch)
        self._interruption.raise_if_any()


def setup_of(session: Session, number: int, device: torch.device) -> Setup:
    """What one of ``number`` processes needs to compute on ``device`` as this one does."""
    vae = session.built.vae
    return Setup(
        config=session.folder.path.resolve() / "config.yaml",
        x_shape=session.data.x_shape,
        weights={name: values.cpu() for name, values in vae.state_dict().items()},
        is_training=vae.training,
        threads=divided(number),
        device=str(device),
    )


def divided(number: int) -> int:
    """The threads of each of so many processes, where this one has those of all."""
    return max(1, torch.get_num_threads() // number)


def device_of(slot: int, device: torch.device, num_gpus: int) -> torch.device:
    """The run's own where it names one; of several GPUs that could be meant, each the next."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", slot % num_gpus)
