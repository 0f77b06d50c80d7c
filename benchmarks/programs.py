"""What several benchmarks time: epochs of the runner, and bare training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from experiments.runner.build import build
from experiments.runner.phases.train import Pictures, make_trainer, training_epochs
from experiments.runner.resuming import Training
from experiments.runner.schema import RunConfig
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from utils.compiled import OPTIONS
from utils.console import Console
from utils.data.base import Data
from utils.results.database import database_url
from utils.results.folder import RunFolder
from utils.results.recorder import Recorder
from utils.results.records import RunRecord


def make_session(config: RunConfig, data: Data, root: Path) -> Session:
    """A run that begins, with its folder and database below ``root``."""
    folder = RunFolder(root / "runs" / "benchmark-s0")
    folder.create()
    record = RunRecord(experiment="benchmark", hash="benchmark", seed=0)
    console = Console(verbosity=-1)
    recorder = Recorder(folder, record, database_url(root), warn=console.warn)
    built = build(config, data.x_shape)
    device = torch.device("cpu")
    training = Training("benchmark", seed=0, data_checksum="benchmark")
    parts = (config, built, data, device, folder, recorder, console)
    return Session(*parts, checkpoint=None, codes={}, training=training)


def runner_epochs(config: RunConfig, data: Data, root: Path) -> Iterator[int]:
    """Epochs as main.py runs them: evaluation, CSV, database, TensorBoard, checkpoints."""
    session = make_session(config, data, root)
    trainer = make_trainer(session)
    with Pictures(session, trainer) as pictures:
        yield from training_epochs(session, trainer, pictures, Interruption())


def training_steps(
    config: RunConfig, x: Tensor, num_steps: int, compiled: bool
) -> Callable[[], None]:
    """A function that takes ``num_steps`` training steps on x (B, C, H, W), and nothing else."""
    built = build(config, x.shape[1:])
    vae, loss = built.vae, built.loss

    def forward(x: Tensor) -> Tensor:
        return loss(vae.model, vae.posterior, x, vae.context(x)).loss.mean()

    objective = torch.compile(forward, options=OPTIONS) if compiled else forward
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-4, fused=True)

    def steps() -> None:
        for _ in range(num_steps):
            optimiser.zero_grad()
            objective(x).backward()
            optimiser.step()

    return steps
