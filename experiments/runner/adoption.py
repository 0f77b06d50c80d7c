"""Trainings that are taken over from a finished run instead of being done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.runner.earlier import CHECKPOINT, epoch_path
from experiments.runner.resuming import Training, check_metrics, check_training, training_of
from experiments.runner.weights import finished_runs
from utils import checkpoint
from utils.checkpoint import CheckpointError
from utils.code import Code, differences
from utils.results.folder import DamagedError, RunFolder
from utils.results.records import RunRecord


@dataclass(frozen=True)
class Wanted:
    """A training that may be taken over from another run.

    ``data_locations`` are the options that say where data lies, ``code`` is what training stands
    on, ``kept`` are the epochs whose weights are wanted too.
    """

    training: Training
    data_locations: Collection[str]
    code: Code
    kept: Sequence[int] | None = None


def adopt_training(
    folder: RunFolder, wanted: Wanted, results: Path, warn: Callable[[str], None]
) -> str | None:
    """Copy the training of a finished run that trained the same; returns that run's id.

    So changing what is measured after training never trains again. ``warn`` is told of one that
    is damaged, and of one that is left because its code is another or not known.
    """
    refused = []
    for other, found in finished_runs(results, warn):
        kept = [epoch_path(other, epoch) for epoch in wanted.kept or ()]
        there = all(path.exists() for path in (other.path / CHECKPOINT, *kept))
        if not there or training_of(found, wanted.data_locations) != wanted.training:
            continue
        if reason := _other_code(found, wanted.code):
            refused.append(f"{found.id} has trained the same, but {reason}")
            continue
        try:
            _copy_training(other, folder, wanted)
        except (CheckpointError, OSError, ValueError) as error:
            warn(f"{found.id} has trained the same but is damaged: {error}")
            continue
        return found.id
    if refused:
        warn(f"{refused[0]}: its weights are not taken")
    return None


def _other_code(found: RunRecord, code: Code) -> str:
    """Why a run's training is not one of ``code``; empty where it is."""
    if "train" not in found.code:
        return "under which code is not recorded"
    changed = differences(found.code["train"], code)
    return f"with other code ({', '.join(changed)})" if changed else ""


def _copy_training(source: RunFolder, target: RunFolder, wanted: Wanted) -> None:
    """Raises CheckpointError, OSError or ValueError where the source is damaged."""
    if damage := source.damage():
        raise DamagedError("; ".join(damage))
    state = checkpoint.load(source.path / CHECKPOINT, "cpu")
    with checkpoint.naming(source.path / CHECKPOINT):
        check_training(state, wanted.training)
    check_metrics(source.metrics, state)
    for epoch in wanted.kept or ():
        original, copy = epoch_path(source, epoch), epoch_path(target, epoch)
        of_epoch = checkpoint.load(original, "cpu")
        with checkpoint.naming(original):
            if Training.said_by(of_epoch) != wanted.training:
                raise CheckpointError("is of another training")
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(original, copy)
    shutil.copyfile(source.metrics.path, target.metrics.path)
    # Last and in one piece, for a checkpoint is what says that the rest is there.
    temporary = target.path / f"{CHECKPOINT}.tmp"
    shutil.copyfile(source.path / CHECKPOINT, temporary)
    temporary.replace(target.path / CHECKPOINT)
