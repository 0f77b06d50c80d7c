"""A process that works for a run: ``python -m experiments.runner.worker FD PARENT``.

It measures batches, or takes its part in the steps of training.

It ends with the process that began it. Signals are that one's business.
"""

from __future__ import annotations

import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch

from experiments.runner import plugins
from experiments.runner.batches import Batch, Workplace
from experiments.runner.build import Built, build
from experiments.runner.messages import (
    Ended,
    Failed,
    Join,
    Ready,
    Setup,
    Told,
    Warned,
    receive,
    send,
)
from experiments.runner.phases import MEASURES
from experiments.runner.replicas import follow
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate
from utils.processes import die_with

TOLD_SECONDS = 0.2  # between words on how far a batch is


def main(descriptor: int, parent: int) -> None:
    """Serve the process ``parent`` over a socket until it says stop or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    die_with(parent, signal.SIGKILL)
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except BaseException as error:
        with suppress(OSError):  # nobody is left to be told
            send(connection, Failed(_portable(error)))


def _serve(connection: Connection) -> None:
    send(connection, Ready())
    first = receive(connection)

    def warn(message: str) -> None:
        send(connection, Warned(message))

    if isinstance(first, Join):
        follow(first, *_built(first.setup), connection)
    else:
        _measure(first, connection, warn)


def _measure(setup: Setup, connection: Connection, warn: Callable[[str], None]) -> None:
    """Measure one batch after the other."""
    config, built = _built(setup)
    built.vae.requires_grad_(False).train(setup.is_training)
    place = Workplace(config, built, setup.config.parent, warn, keeps_ends=True)
    last = 0.0

    def tell(num_done: int, text: str = "") -> bool:
        nonlocal last
        if time.monotonic() - last > TOLD_SECONDS:
            last = time.monotonic()
            send(connection, Told(num_done, text))
        return not connection.poll()  # nothing but Stop comes while a batch is at work

    while isinstance(batch := receive(connection), Batch):
        here = batch.to(setup.device)
        send(connection, Ended(MEASURES[batch.phase](place, here, tell)))


def _built(setup: Setup) -> tuple[RunConfig, Built]:
    """The run's configuration and what it makes, with the run's weights, on this one's device."""
    torch.set_num_threads(setup.threads)
    device = torch.device(setup.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose generator is the one that is seeded and saved
    config = validate(RunConfig, plugins.activate(load(setup.config, defaults=DEFAULTS)))
    built = build(config, setup.x_shape)
    built.vae.load_state_dict(setup.weights)
    built.vae.to(device)
    return config, built


def _portable(error: BaseException) -> BaseException:
    """The same with where it came from, or its words where it cannot be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
