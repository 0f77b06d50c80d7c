"""Several processes that take the steps of one training together; this one alone records."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from experiments.runner import weights
from experiments.runner.build import BuildError, Built, load_data
from experiments.runner.messages import Epoch, Failed, Join, Ready, Step, Warned, receive, send
from experiments.runner.schema import RunConfig
from experiments.runner.session import Session
from experiments.runner.sharing import Share
from experiments.runner.signals import Interruption
from experiments.runner.trainer import Trainer
from experiments.runner.workers import (
    LAST_SECONDS,
    LOOK_SECONDS,
    WorkerProcess,
    device_of,
    divided,
    setup_of,
)

LOOPBACK = "lo" if sys.platform.startswith("linux") else "lo0"
INTERFACES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
SETTLE_SECONDS = 0.001  # between looks whether a GPU has its sums


class Sums:
    """Sums over processes that have met by a file.

    By gloo on CPUs and by NCCL on GPUs, over the loopback interface unless the variables of
    ``INTERFACES`` name another.

    Args:
        heed: raises what has become of the others, if it hears of it in so many seconds.
    """

    def __init__(self, heed: Callable[[float], object] = lambda seconds: None) -> None:
        self._heed = heed
        self._last: Any = None

    def meet(self, meeting: Path, rank: int, size: int, device: torch.device) -> None:
        """Returns when all have come."""
        backend = "nccl" if device.type == "cuda" else "gloo"
        os.environ.setdefault(INTERFACES[backend], LOOPBACK)
        distributed.init_process_group(
            backend, init_method=f"file://{meeting}", rank=rank, world_size=size
        )

    def add(self, vector: Tensor) -> None:
        """Put the sum over all processes in its place."""
        try:
            self._last = distributed.all_reduce(vector, async_op=True)
            self._last.wait()  # of a GPU its stream waits
        except RuntimeError:
            self._heed(LAST_SECONDS)
            raise

    def settle(self) -> None:
        """Return when the last sum is there."""
        while self._last is not None and not self._last.is_completed():
            self._heed(0.0)
            time.sleep(SETTLE_SECONDS)

    def part(self, *, abort: bool) -> None:
        """Leave the others; ``abort``: a GPU may still wait for one that is gone."""
        self._last = None
        if distributed.is_initialized():
            if abort and distributed.get_backend() == "nccl":
                distributed.distributed_c10d._abort_process_group()
            else:
                distributed.destroy_process_group()


def _devices_of(device: torch.device, number: int) -> list[torch.device]:
    count = torch.cuda.device_count()
    return [device_of(rank, device, count) for rank in range(number)]


def check_devices(config: RunConfig, device: torch.device) -> None:
    """Raise BuildError where there are not GPUs of one kind, one for each replica."""
    number = config.runtime.replicas or 1
    if number == 1 or device.type != "cuda" or "train" not in config.phases:
        return
    devices = set(_devices_of(device, number))
    if len(devices) < number:
        raise BuildError(
            f"`runtime.replicas`: {number} of them need a GPU each, and {config.runtime.device} "
            f"stands for {len(devices)}"
        )
    kinds = {torch.cuda.get_device_name(each) for each in devices}
    if len(kinds) > 1:  # whose random numbers and rounding may differ
        raise BuildError(
            f"`runtime.replicas` need GPUs of one kind; here are {', '.join(sorted(kinds))} "
            "(CUDA_VISIBLE_DEVICES chooses)"
        )


class Replicas:
    """This process and ``number`` - 1 others, which train with it; they are ended on exit.

    ``begin`` and ``train_epoch`` raise ChildProcessError where one has died, and what one raises.
    """

    def __init__(self, session: Session, interruption: Interruption, number: int) -> None:
        self._session, self._interruption, self._number = session, interruption, number
        self._devices = _devices_of(session.device, number)
        self._processes: list[WorkerProcess] = []
        self._sums = Sums(self._heed)
        self._undone = ExitStack()
        self.share = Share(0, number, self._sums.add, self._sums.settle)

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        for process in self._processes:
            process.end()
        self._sums.part(abort=kind is not None)
        self._undone.close()

    def begin(self, trainer: Trainer) -> None:
        """Start the others at the state of ``trainer``."""
        self._processes = [WorkerProcess() for _ in self._devices[1:]]
        meeting = Path(self._undone.enter_context(tempfile.TemporaryDirectory())) / "meeting"
        state = io.BytesIO()
        torch.save({**trainer.state(), "best": None}, state)
        self._hear_all()
        for rank, process in enumerate(self._processes, start=1):
            setup = setup_of(self._session, self._number, self._devices[rank])
            process.send(Join(setup, rank, self._number, meeting, state.getvalue()))
        self._hear_all()
        self._sums.meet(meeting, 0, self._number, self._devices[0])
        self._undone.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(divided(self._number))

    def train_epoch(self, trainer: Trainer, keep_going: Callable[[int], bool]) -> bool:
        """``trainer.train_epoch``, in all processes."""
        self._tell(Epoch(trainer.validations, trainer.information))

        def all_keep_going(step: int) -> bool:
            self._heed(0.0)
            goes_on = keep_going(step)
            self._tell(Step(goes_on))
            return goes_on

        return trainer.train_epoch(all_keep_going)

    def _tell(self, message: Epoch | Step) -> None:
        for process in self._processes:
            process.send(message)

    def _hear_all(self) -> None:
        """Wait until each has said that it is ready."""
        waited_for = {process.connection for process in self._processes}
        while waited_for:
            self._interruption.raise_if_any()
            waited_for -= self._heed(LOOK_SECONDS)

    def _heed(self, seconds: float) -> set[Connection]:
        """Those that say that they are ready. Raises what has become of another one."""
        ready, by_connection = set(), {of.connection: of for of in self._processes}
        for connection in wait(list(by_connection), seconds):
            assert isinstance(connection, Connection)
            try:
                message = receive(connection)
            except (EOFError, OSError):
                raise _death(by_connection[connection].bury()) from None
            match message:
                case Ready():
                    ready.add(connection)
                case Warned(text):
                    self._session.console.warn(text)
                case Failed(error):
                    self._raise_of_killed()  # that is why the others fail
                    raise error
        return ready

    def _raise_of_killed(self) -> None:
        for process in self._processes:
            if (code := process.poll()) is not None and code < 0:
                raise _death(code)


def _death(code: int) -> ChildProcessError:
    if code >= 0:
        return ChildProcessError(f"a replica ended with exit code {code}, as it says above")
    return ChildProcessError(
        f"a replica was killed by {signal.Signals(-code).name}; the same command goes on from the "
        "last checkpoint. Where memory is short, take smaller batches or fewer runtime.replicas"
    )


def follow(join: Join, config: RunConfig, built: Built, connection: Connection) -> None:
    """Take the steps of a run's trainer in another process, as it says over the connection.

    Raises EOFError or OSError where it is gone.
    """
    device = torch.device(join.setup.device)
    weights.fix(built.vae, config.training.fixed or ())
    sums = Sums()
    trainer = Trainer(
        built.vae,
        built.loss,
        load_data(config).to(device),
        config.training,
        config.seed,
        share=Share(join.rank, join.size, sums.add, sums.settle),
    )
    trainer.restore(torch.load(io.BytesIO(join.state), device, weights_only=True))
    send(connection, Ready())
    sums.meet(join.meeting, join.rank, join.size, device)
    while True:
        epoch: Epoch = receive(connection)
        trainer.validations = list(epoch.validations)
        trainer.information = list(epoch.information)
        trainer.train_epoch(lambda step: bool(receive(connection).is_taken))
