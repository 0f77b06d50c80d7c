"""Where a run's weights come from when it does not train all of them itself."""

from __future__ import annotations

import math
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.build import BuildError
from experiments.schema import TRAINED, Initialise, Part
from models.vae import VAE
from utils import checkpoint
from utils.checkpoint import CheckpointError
from utils.resolved import identity
from utils.results.folder import RunFolder, run_folders
from utils.results.records import MEMBERSHIP, Link, RunRecord

CHECKPOINT = "last.pt"
MODULES: Mapping[Part, Sequence[str]] = {
    "model": ("model",),
    "encoder": ("encoder", "amortiser"),
    "posterior": ("posterior", "expansion"),
}


def epoch_path(folder: RunFolder, epoch: int) -> Path:
    """Where the weights of an epoch are kept for good."""
    return folder.path / "epochs" / f"{epoch:06d}.pt"


def settle(initialise: Initialise, results: Path) -> Initialise:
    """The same with a run's id and which of its weights. Raises BuildError where there is none."""
    run, weights = find_run(initialise, results), initialise.weights
    if weights is None:
        record = RunFolder(results / "runs" / run).read_status()
        assert record is not None
        weights = record.config["evaluation"]["weights"]
    return replace(initialise, run=run, experiment=None, weights=weights)


def find_run(initialise: Initialise, results: Path) -> str:
    """Id of the run that weights are taken from. Raises BuildError where there is none."""
    if initialise.run not in ("last", "best"):
        record = RunFolder(results / "runs" / initialise.run).read_status()
        if record is None or record.status != "finished":
            state = "is not there" if record is None else f"is {record.status}, not finished"
            raise BuildError(f"`initialise.run`: {initialise.run} {state} ({results / 'runs'})")
        return initialise.run
    if initialise.experiment is None:
        raise BuildError(f"`initialise.run`: {initialise.run} needs `initialise.experiment`")
    found = [
        (folder, record)
        for folder, record in _finished(results)
        if _is_of(initialise.experiment, folder, record) and (folder.path / CHECKPOINT).exists()
    ]
    if not found:
        raise BuildError(
            f"`initialise.experiment`: no finished, trained run of {initialise.experiment!r} "
            f"in {results / 'runs'}"
        )
    if initialise.run == "last":
        return max(found, key=lambda pair: _ended(*pair))[1].id
    return max(found, key=lambda pair: _mean_log_px(pair[0]))[1].id


def _finished(results: Path) -> Iterator[tuple[RunFolder, RunRecord]]:
    for folder in run_folders(results):
        try:
            record = folder.read_status()
        except ValueError as error:
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)
            continue
        if record is not None and record.status == "finished":
            yield folder, record


def _is_of(experiment: str, folder: RunFolder, record: RunRecord) -> bool:
    return record.experiment == experiment or Link(experiment, MEMBERSHIP) in folder.links.read()


def _ended(folder: RunFolder, record: RunRecord) -> tuple[str, int]:
    """When a run ended, by its record's whole seconds and then by the file that says so."""
    return record.finished, folder.status_path.stat().st_mtime_ns


def _mean_log_px(folder: RunFolder) -> float:
    """The highest mean estimate of log p(x), on held-out data where there is any."""
    values = defaultdict(list)
    for row in folder.estimates.read():
        if row.name == "log_px" and row.phase == "estimate":
            values[row.split, row.method].append(row.value)
    means = {key: math.fsum(numbers) / len(numbers) for key, numbers in values.items()}
    for split in ("validation", "test", "train"):
        if best := [mean for (of, _), mean in means.items() if of == split]:
            return max(best)
    return -math.inf


def load_into(vae: VAE, initialise: Initialise, results: Path, device: torch.device) -> int:
    """Copy the wanted parts of another run's weights into ``vae``; returns their epoch.

    ``initialise`` is out of ``settle``. Raises BuildError when they do not fit or are not there,
    CheckpointError when damaged.
    """
    folder = RunFolder(results / "runs" / initialise.run)
    epoch, weights = _weights(folder, initialise, device)
    for part in initialise.parts:
        for name in MODULES[part]:
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            try:
                getattr(vae, name).load_state_dict(own)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise BuildError(
                    f"`initialise.parts`: the {part} of {initialise.run} is another than this "
                    f"run's (its own configuration is {folder.path / 'config.yaml'}): {reason}"
                ) from error
    return epoch


def _weights(
    folder: RunFolder, initialise: Initialise, device: torch.device
) -> tuple[int, Mapping[str, Tensor]]:
    if isinstance(initialise.weights, int):
        path = epoch_path(folder, initialise.weights)
        if not path.exists():
            kept = ", ".join(str(int(p.stem)) for p in sorted(path.parent.glob("*.pt"))) or "none"
            raise BuildError(f"`initialise.weights`: {initialise.run} kept of its epochs {kept}")
        state = checkpoint.load(path, device)
        return state["epoch"], state["vae"]
    path = folder.path / CHECKPOINT
    if not path.exists():
        raise BuildError(f"`initialise.run`: {initialise.run} has trained nothing")
    trainer = checkpoint.load(path, device)["trainer"]
    if initialise.weights == "last":
        return trainer["epoch"], trainer["vae"]
    if trainer["best"] is None:
        raise BuildError(f"`initialise.weights`: {initialise.run} had no validation split")
    return trainer["best"]["epoch"], trainer["best"]["weights"]


def fix(vae: VAE, parts: Collection[Part]) -> None:
    """Let the ``parts`` keep their weights in training."""
    for part in parts:
        for name in MODULES[part]:
            getattr(vae, name).requires_grad_(False)


def training_key(config: Mapping[str, Any], places: Collection[str]) -> str:
    """Names what is trained, whatever is measured afterwards; ``places`` say where data lies."""
    return identity({name: config.get(name) for name in TRAINED}, places)


def adopt_training(
    folder: RunFolder,
    record: RunRecord,
    places: Collection[str],
    results: Path,
    warn: Callable[[str], None],
) -> str | None:
    """Copy the training of a finished run that trained the same; returns that run's id.

    So changing what is measured after training never trains again. A damaged one is left, told to
    ``warn``.
    """
    key = training_key(record.config, places)
    for other, found in _finished(results):
        same = (found.seed, found.data_checksum) == (record.seed, record.data_checksum)
        trained = (other.path / CHECKPOINT).exists()
        if same and trained and training_key(found.config, places) == key:
            kept = record.config["runtime"]["keep_epochs"] or []
            if not all(epoch_path(other, epoch).exists() for epoch in kept):
                continue
            try:
                _copy_training(other, folder, kept)
            except (CheckpointError, OSError, ValueError) as error:
                warn(f"{found.id} has trained the same but is damaged: {error}")
                continue
            return found.id
    return None


def _copy_training(source: RunFolder, target: RunFolder, kept: Sequence[int]) -> None:
    """Raises CheckpointError, OSError or ValueError where the source is damaged."""
    state = checkpoint.load(source.path / CHECKPOINT, "cpu")
    if source.metrics.size() < state["metrics_bytes"]:
        raise ValueError(f"{source.metrics.path}: rows are lost")
    shutil.copyfile(source.metrics.path, target.metrics.path)
    for epoch in kept:
        epoch_path(target, epoch).parent.mkdir(exist_ok=True)
        shutil.copyfile(epoch_path(source, epoch), epoch_path(target, epoch))
    # Last and in one piece, for a checkpoint is what says that the rest is there.
    temporary = target.path / f"{CHECKPOINT}.tmp"
    shutil.copyfile(source.path / CHECKPOINT, temporary)
    temporary.replace(target.path / CHECKPOINT)
