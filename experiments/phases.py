"""The phases of a run, in their order; each goes on from where it was cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from experiments import estimation, local
from experiments.fitting import train
from experiments.schema import RunConfig
from experiments.session import Session
from experiments.signals import Interruption
from experiments.weights import CHECKPOINT
from utils import checkpoint
from utils.results.folder import RunFolder


def cut_back(
    config: RunConfig, folder: RunFolder, device: torch.device, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """Read the last checkpoint and drop the rows that the resumed run will write again.

    Raises CheckpointError when there are checkpoints and none can be read.
    """
    state = checkpoint.load_latest(folder.path / CHECKPOINT, device, warn)
    folder.metrics.truncate(0 if state is None else state["metrics_bytes"])
    rows = folder.estimates.read()
    batch_sizes = {
        local.PHASE: config.local_optimisation.batch_size,
        estimation.PHASE: config.evaluation.batch_size,
    }
    folder.estimates.keep_first(estimation.num_before_last_batch(rows, batch_sizes))
    return state


def go_through(session: Session, interruption: Interruption) -> None:
    """Carry out the phases that the configuration asks for.

    Raises InterruptedRunError after a checkpoint, DivergedError without one.
    """
    phases, epoch = session.config.phases, session.first_epoch
    if "train" in phases:
        epoch = train(session, interruption)
    if "local_optimisation" in phases:
        local.optimise_locally(session, interruption, epoch)
    if "estimate" in phases:
        estimation.estimate(session, interruption, epoch)
