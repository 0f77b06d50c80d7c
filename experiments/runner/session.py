"""What the phases of one run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from experiments.runner.build import Built
from experiments.runner.resuming import Training
from experiments.runner.schema import Phase, RunConfig
from utils.code import Code
from utils.console import Console
from utils.data.base import Data
from utils.results.folder import RunFolder
from utils.results.methods import Method
from utils.results.recorder import Recorder
from utils.results.records import Estimate


@dataclass(frozen=True)
class Session:
    """One run at work: what was asked for, what was built of it, and where its results go."""

    config: RunConfig
    built: Built
    data: Data
    device: torch.device
    folder: RunFolder
    recorder: Recorder
    console: Console
    checkpoint: Mapping[str, Any] | None
    """Where an earlier try had come to in training; the folder's rows are cut back to it."""
    codes: Mapping[str, Code]
    """What each phase stands on in this process; empty where the run began under unknown code."""
    training: Training
    """What the checkpoints of this run say that they are of."""
    first_epoch: int = 0
    """The epoch of the weights that the run starts with."""

    def measured(self, phase: Phase, method: Method, split: str) -> list[Estimate]:
        """The rows that are there by now."""
        wanted = phase, method, split
        rows = self.folder.estimates.read()
        return [row for row in rows if (row.phase, row.method, row.split) == wanted]
