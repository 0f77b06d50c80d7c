"""Whose a checkpoint of training is, and whether it fits the run that goes on from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from experiments.runner.earlier import CHECKPOINT
from experiments.runner.schema import TRAINED, RunConfig
from models.vae import VAE
from utils import seeding
from utils.checkpoint import CheckpointError, alike, previous_of
from utils.config.identity import identity
from utils.console import Console
from utils.results.folder import CsvLog, DamagedError, RunFolder
from utils.results.records import Metric, RunRecord


class Training(NamedTuple):
    """What a training is of: its configuration, its seed and its data.

    Every checkpoint carries it, so that a folder whose status claims another one is found out.
    """

    key: str
    seed: int
    data_checksum: str

    @classmethod
    def said_by(cls, state: Mapping[str, Any]) -> Training | None:
        """What a checkpoint says that it is of; None where it says nothing.

        Raises CheckpointError where what it says is no training.
        """
        said = state.get("training")
        if said is None:
            return None
        if not alike(said, cls("", 0, "")._asdict()):
            raise CheckpointError("does not say of which training it is")
        return cls(**said)


def training_of(record: RunRecord, data_locations: Collection[str]) -> Training:
    """The training of a run; ``data_locations`` are the options that say where data lies."""
    return Training(_key(record.config, data_locations), record.seed, record.data_checksum)


def _key(config: Mapping[str, Any], data_locations: Collection[str]) -> str:
    """Names what is trained, whatever is measured afterwards."""
    return identity({name: config.get(name) for name in TRAINED}, data_locations)


def check_training(state: Mapping[str, Any], training: Training) -> None:
    """Raise CheckpointError where a checkpoint is not one of ``training``.

    One that was made before checkpoints said what they are of is believed.
    """
    for key in ("trainer", "metrics_bytes"):
        if key not in state:
            raise CheckpointError(f"holds no {key!r}, so it is not a checkpoint of a training")
    if Training.said_by(state) not in (None, training):
        raise CheckpointError("is of another training (configuration, seed or data)")


def check_metrics(log: CsvLog[Metric], state: Mapping[str, Any]) -> None:
    """Raise DamagedError where the metrics are not those that a checkpoint was written after."""
    size = state["metrics_bytes"]
    if log.size() < size:
        raise DamagedError(f"{log.path} has {log.size()} bytes, fewer than {size}: rows are lost")
    if log.fingerprint(size) != state.get("metrics", log.fingerprint(size)):
        raise DamagedError(f"{log.path} is not what it was when the checkpoint was written")


def check_fit(state: Mapping[str, Any], vae: VAE, optimiser: Optimizer) -> None:
    """Raise CheckpointError where a checkpoint has not the shapes of what is to be trained.

    ``optimiser`` is a fresh one, whose state is overwritten.
    """
    try:
        fits = _fits(state["trainer"], vae, optimiser)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        fits = False
    if not fits or type(state["metrics_bytes"]) is not int:
        raise CheckpointError("has other keys, types or shapes than the checkpoints of this run")


def _fits(trainer: Mapping[str, Any], vae: VAE, optimiser: Optimizer) -> bool:
    fresh = {"epoch": 0, "step": 0, "vae": vae.state_dict()}
    settings = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict(trainer["optimiser"])
    best, history, names = trainer["best"], trainer["history"], trainer["names"]
    return (
        alike(trainer, fresh, fresh.keys())
        and alike(trainer["noise"], seeding.get_state(), ["cpu"])  # a GPU may have come or gone
        and all(map(alike, optimiser.state_dict()["param_groups"], settings))
        and _moments_fit(optimiser)
        and all(type(name) is str for name in names)
        and type(trainer.get("loss", {})) is dict
        and history.shape == (len(history), len(names))
        and 0 <= trainer["step"] <= max(len(history), 1)
        and all(map(_is_series, (trainer.get("validations", ()), trainer.get("information", ()))))
        and (best is None or alike(best, {"value": 0.0, "epoch": 0, "weights": fresh["vae"]}))
    )


def _is_series(pairs: Iterable[Iterable[Any]]) -> bool:
    """Whether these are epochs, each with a number."""
    return all([type(n) for n in pair] == [int, float] for pair in pairs)


def _moments_fit(optimiser: Optimizer) -> bool:
    """Whether the optimiser's tensors are one number, or have the shape of their parameter."""
    return all(
        value.numel() == 1 or value.shape == parameter.shape
        for parameter, moments in optimiser.state.items()
        for value in moments.values()
        if torch.is_tensor(value)
    )


def has_lost_its_checkpoints(folder: RunFolder, config: RunConfig, console: Console) -> bool:
    """Whether there are estimates of a training without a checkpoint of it; warns then."""
    trained = _has_checkpoint(folder)
    lost = "train" in config.phases and folder.estimates.size() > 0 and not trained
    if lost:
        console.warn(f"{folder.path / CHECKPOINT} is gone: the run begins anew")
    return lost


def has_begun(folder: RunFolder, record: RunRecord) -> bool:
    """Whether an earlier try at the run of ``record`` has computed anything."""
    rows = folder.metrics.size() + folder.estimates.size()
    return bool(record.code) or rows > 0 or _has_checkpoint(folder)


def _has_checkpoint(folder: RunFolder) -> bool:
    last = folder.path / CHECKPOINT
    return last.exists() or previous_of(last).exists()
