"""A process that measures batches for a run: ``python -m experiments.runner.worker FD PARENT``.

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
from experiments.runner.build import build
from experiments.runner.messages import Ended, Failed, Ready, Setup, Told, Warned, receive, send
from experiments.runner.phases import MEASURES
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
    setup: Setup = receive(connection)
    place = _workplace(setup, lambda message: send(connection, Warned(message)))
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


def _workplace(setup: Setup, warn: Callable[[str], None]) -> Workplace:
    torch.set_num_threads(setup.threads)
    device = torch.device(setup.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose generator is the one that is seeded and saved
    config = validate(RunConfig, plugins.activate(load(setup.config, defaults=DEFAULTS)))
    built = build(config, setup.x_shape)
    built.vae.load_state_dict(setup.weights)
    built.vae.to(device).requires_grad_(False).train(setup.is_training)
    return Workplace(config, built, setup.config.parent, warn, keeps_ends=True)


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
