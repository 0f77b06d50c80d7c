"""Where a run's weights come from when it does not train all of them itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from experiments.runner.build import BuildError
from experiments.runner.earlier import CHECKPOINT, epoch_path
from experiments.runner.resuming import Training
from experiments.runner.schema import Initialise, Part, RunConfig
from experiments.runner.summary import mean
from models.vae import VAE
from utils import checkpoint
from utils.checkpoint import CheckpointError
from utils.results.folder import DamagedError, RunFolder, run_folders
from utils.results.methods import FROM_ABOVE
from utils.results.records import MEMBERSHIP, Link, RunRecord

MODULES: Mapping[Part, Sequence[str]] = {
    "model": ("model",),
    "encoder": ("encoder", "amortiser", "refinement"),
    "features": ("encoder",),
    "posterior": ("posterior", "expansion"),
}


def settle(
    initialise: Initialise,
    results: Path,
    warn: Callable[[str], None] = print,
    planned: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Initialise:
    """The same with a run's id and which of its weights.

    Args:
        initialise: as configured.
        results: where runs are looked for.
        warn: told of folders that cannot be read.
        planned: resolved configurations of runs that will have finished by then, by id.

    Raises BuildError where there is no such run.
    """
    run, weights = initialise.run, initialise.weights
    if run not in planned:
        run = find_run(initialise, results, warn)
    if weights is None:
        config = planned[run] if run in planned else _config_of(run, results)
        weights = config.get("evaluation", {}).get("weights", "last")
    return replace(initialise, run=run, experiment=None, weights=weights)


def _config_of(run: str, results: Path) -> Mapping[str, Any]:
    record = RunFolder(results / "runs" / run).read_status()
    return {} if record is None else record.config


def find_run(initialise: Initialise, results: Path, warn: Callable[[str], None] = print) -> str:
    """Id of the run that weights are taken from. Raises BuildError where there is none."""
    if initialise.run not in ("last", "best"):
        try:
            record = RunFolder(results / "runs" / initialise.run).read_status()
        except DamagedError as error:
            raise BuildError(f"`initialise.run`: {error}") from error
        if record is None or record.status != "finished":
            state = "does not exist" if record is None else f"is {record.status}, not finished"
            where = results / "runs"
            raise BuildError(f"`initialise.run`: the run {initialise.run} {state} ({where})")
        return initialise.run
    if initialise.experiment is None:
        raise BuildError(f"`initialise.run`: {initialise.run} needs `initialise.experiment`")
    found = [
        (folder, record)
        for folder, record in finished_runs(results, warn)
        if _is_of(initialise.experiment, folder, record)
        and (folder.path / CHECKPOINT).exists()
        and not _told_damage(folder, warn)
    ]
    if not found:
        raise BuildError(
            f"`initialise.experiment`: no finished, trained run of {initialise.experiment!r} "
            f"in {results / 'runs'}"
        )
    if initialise.run == "last":
        return max(found, key=lambda pair: _ended(*pair))[1].id
    return max(found, key=lambda pair: _mean_log_px(pair[0]))[1].id


def finished_runs(
    results: Path, warn: Callable[[str], None]
) -> Iterator[tuple[RunFolder, RunRecord]]:
    """The finished runs below a results root; ``warn`` is told of those that cannot be read."""
    for folder in run_folders(results):
        try:
            record = folder.read_status()
            folder.links.read()
        except DamagedError as error:
            warn(f"left out: {error}")
            continue
        if record is not None and record.status == "finished":
            yield folder, record


def _told_damage(folder: RunFolder, warn: Callable[[str], None]) -> bool:
    damage = folder.damage()
    if damage:
        warn(f"left out: {'; '.join(damage)}")
    return bool(damage)


def _is_of(experiment: str, folder: RunFolder, record: RunRecord) -> bool:
    return record.experiment == experiment or Link(experiment, MEMBERSHIP) in folder.links.read()


def _ended(folder: RunFolder, record: RunRecord) -> tuple[str, int]:
    """When a run ended, by its record's whole seconds and then by the file that says so."""
    return record.finished, folder.status_path.stat().st_mtime_ns


def _mean_log_px(folder: RunFolder) -> float:
    """The highest mean estimate of log p(x), on held-out data where there is any.

    NaN is none, nor is an estimate that leans upwards the more a posterior misses.
    """
    values = defaultdict(list)
    for row in folder.estimates.read():
        if (row.name, row.phase) == ("log_px", "estimate") and row.estimator != FROM_ABOVE:
            values[row.split, row.method].append(row.value)
    means = {key: mean(numbers) for key, numbers in values.items()}
    for split in ("validation", "test", "train"):
        if best := [value for (of, _), value in means.items() if of == split]:
            return max((value for value in best if not math.isnan(value)), default=-math.inf)
    return -math.inf


def load_evaluated(vae: VAE, config: RunConfig, folder: RunFolder, device: torch.device) -> int:
    """Give ``vae`` the weights of the run in ``folder``; returns their epoch.

    A finished run's are those that it was evaluated with, another's its last. Raises BuildError
    for a run that neither trains nor takes weights, else as ``load_into``.
    """
    results = folder.path.parent.parent
    if "train" in config.phases:
        record = folder.read_status()
        is_finished = record is not None and record.status == "finished"
        weights = config.evaluation.weights if is_finished else "last"
        own = Initialise(folder.path.name, weights=weights)
        return load_into(vae, own, results, device)
    if config.initialise is not None:
        return load_into(vae, settle(config.initialise, results), results, device)
    raise BuildError(f"{folder.path.name} has no weights: it neither trains nor takes any")


def load_into(vae: VAE, initialise: Initialise, results: Path, device: torch.device) -> int:
    """Copy the wanted parts of another run's weights into ``vae``; returns their epoch.

    ``initialise`` is out of ``settle``. Raises BuildError when they do not fit or are not there,
    CheckpointError when damaged.
    """
    folder = RunFolder(results / "runs" / initialise.run)
    epoch, weights = _weights(folder, initialise, device)
    for part in initialise.parts:
        for name, module in _modules(vae, part):
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            try:
                module.load_state_dict(own)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise BuildError(
                    f"`initialise.parts`: the {part} of {initialise.run} differs from this "
                    f"run's (its own configuration is {folder.path / 'config.yaml'}): {reason}"
                ) from error
    return epoch


def _weights(
    folder: RunFolder, initialise: Initialise, device: torch.device
) -> tuple[int, Mapping[str, Tensor]]:
    record = folder.read_status()
    if isinstance(initialise.weights, int):
        path = epoch_path(folder, initialise.weights)
        if not path.exists():
            kept = ", ".join(str(int(p.stem)) for p in sorted(path.parent.glob("*.pt"))) or "none"
            raise BuildError(
                f"`initialise.weights`: {initialise.run} has kept these epochs: {kept}"
            )
        state = checkpoint.load(path, device, holds=("epoch", "vae"))
        _check_owner(path, state, record)
        return state["epoch"], state["vae"]
    path = folder.path / CHECKPOINT
    if not path.exists():
        reason = "has trained nothing, or its checkpoint is gone"
        raise BuildError(f"`initialise.run`: the run {initialise.run} {reason} ({path})")
    state = checkpoint.load(path, device, holds=("trainer",))
    _check_owner(path, state, record)
    try:
        last = state["trainer"]
        best = last["best"]
        if initialise.weights == "last":
            return last["epoch"], last["vae"]
        if best is not None:
            return best["epoch"], best["weights"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has other keys than a checkpoint of training") from error
    raise BuildError(
        f"`initialise.weights`: the run {initialise.run} has no best weights, for its data had no "
        "validation split"
    )


def _check_owner(path: Path, state: Mapping[str, Any], record: RunRecord | None) -> None:
    """Raise CheckpointError where a checkpoint says that it is not of the run in ``record``."""
    with checkpoint.naming(path):
        said = Training.said_by(state)
    if record is None or said is None:  # made before checkpoints said what they are of
        return
    if said[1:] != (record.seed, record.data_checksum):
        raise CheckpointError(f"{path} is of another seed or other data than its run's status")


def fix(vae: VAE, parts: Collection[Part]) -> None:
    """Let the ``parts`` keep their weights in training."""
    for part in parts:
        for _, module in _modules(vae, part):
            module.requires_grad_(False)


def _modules(vae: VAE, part: Part) -> Iterator[tuple[str, nn.Module]]:
    """Those of a part that there are, by name."""
    for name in MODULES[part]:
        module = getattr(vae, name)
        if module is not None:
            yield name, module
