"""What a run and its workers say to each other."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from experiments.runner.batches import Batch
from experiments.runner.optimisers import Validation
from utils.results.records import Estimate


class Setup(NamedTuple):
    """From the run, first: what a worker builds its workplace of.

    ``config`` is the run's own file; ``weights`` are those of the VAE that is measured.
    """

    config: Path
    x_shape: Sequence[int]
    weights: Mapping[str, Tensor]
    is_training: bool
    threads: int
    device: str


class Join(NamedTuple):
    """From the run, first: what a worker needs that takes its part in training.

    Its part is the ``rank``-th of ``size``; they meet by the file ``meeting``. ``state`` is that
    of the run's trainer, as torch.save writes it.
    """

    setup: Setup
    rank: int
    size: int
    meeting: Path
    state: bytes


class Epoch(NamedTuple):
    """From the run: what a learning rate and the like depend on; then, for each step, Step."""

    validations: Sequence[Validation]
    information: Sequence[Validation]


class Step(NamedTuple):
    """From the run: whether it takes the next step, or stops."""

    is_taken: bool


class Stop(NamedTuple):
    """From the run: keep what has been done of the batch, and do no more of it."""


class Ready(NamedTuple):
    """From a worker, first: it listens."""


class Told(NamedTuple):
    """From a worker: so many data of its batch are done."""

    num_done: int
    text: str


class Warned(NamedTuple):
    """From a worker: what a person should hear."""

    message: str


class Ended(NamedTuple):
    """From a worker: the rows of its batch; None where it was stopped."""

    rows: list[Estimate] | None


class Failed(NamedTuple):
    """From a worker: what ended it."""

    error: BaseException


ToWorker = Setup | Batch | Stop | Join | Epoch | Step
FromWorker = Ready | Told | Warned | Ended | Failed


def send(connection: Connection, message: ToWorker | FromWorker) -> None:
    """Raises OSError where the other side is gone."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """The next message. Raises EOFError or OSError where the other side is gone."""
    return pickle.loads(connection.recv_bytes())
