"""What a run and its workers say to each other."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from experiments.runner.batches import Batch
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


ToWorker = Setup | Batch | Stop
FromWorker = Ready | Told | Warned | Ended | Failed


def send(connection: Connection, message: ToWorker | FromWorker) -> None:
    """Raises OSError where the other side is gone."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """The next message. Raises EOFError or OSError where the other side is gone."""
    return pickle.loads(connection.recv_bytes())
