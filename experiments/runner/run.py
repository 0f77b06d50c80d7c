"""One run from configuration to results: train, estimate, store; skip or resume what is there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from experiments.runner import families, phases, plugins, provenance, weights
from experiments.runner.adoption import Wanted, adopt_training
from experiments.runner.build import (
    BuildError,
    Built,
    build,
    check_data,
    load_data,
    make_dataset,
    pick_device,
    rounds_forces,
    settle_families,
)
from experiments.runner.earlier import (
    Claim,
    Destination,
    cut_off,
    enrol,
    if_finished,
    label,
    set_aside,
    tell_of_resumed_code,
)
from experiments.runner.replicas import check_devices
from experiments.runner.resuming import (
    Training,
    check_fit,
    check_training,
    has_begun,
    has_lost_its_checkpoints,
    training_of,
)
from experiments.runner.schema import SCIENCE, RunConfig
from experiments.runner.session import Session
from experiments.runner.signals import InterruptedRunError, catching
from experiments.runner.trainer import DivergedError
from models.vae import VAE
from utils.code import Code
from utils.config.identity import identity, resolved
from utils.config.sources import block
from utils.console import Console
from utils.data.base import Data
from utils.results.folder import RunFolder, naming
from utils.results.lock import holding
from utils.results.recorder import Recorder
from utils.results.records import Link, RunRecord, Status, run_id


@dataclass(frozen=True)
class Identified:
    """A configuration with its fully resolved data and the hash of its scientific part."""

    config: RunConfig
    resolved: Mapping[str, Any]
    hash: str

    @property
    def id(self) -> str:
        """``<hash>-s<seed>``: the run's name in folders and database."""
        return run_id(self.hash, self.config.seed)

    @property
    def claim(self) -> Claim:
        """What is asked of the run where it is there already."""
        config = self.config
        kept = (config.runtime.keep_epochs or ()) if "train" in config.phases else ()
        due = [epoch for epoch in kept if epoch <= config.training.epochs]
        return Claim(self.id, config.experiment, config.labels, due)


SECTIONS = ("phases", "data", "model", "encoder", "posterior", "refinement", "initialise")
"""The sections that identify every run; each phase adds those that it reads."""


def identify(
    config: RunConfig,
    results: Path,
    warn: Callable[[str], None] = print,
    planned: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Identified:
    """Resolve a configuration and hash its science: all but where data lies and how it runs.

    Args:
        config: validated; ``initialise`` may speak of the best or last run of an experiment.
        results: where that run is looked for.
        warn: told of runs there that cannot be read.
        planned: resolved configurations of runs that will have finished by then, by id.

    Raises BuildError when data set or ``initialise`` make no sense, DataError where the data must
    be there to identify the run, and are not.
    """
    if config.initialise is not None:
        config = replace(
            config, initialise=weights.settle(config.initialise, results, warn, planned)
        )
    config = settle_families(_settle_data(config))
    plain = resolved(config)
    sections = {*SECTIONS, *(name for phase in config.phases for name in SCIENCE[phase])}
    science = {name: plain[name] for name in plain if name in sections}
    if families.PHASE in science:
        options = science[families.PHASE]
        science[families.PHASE] = families.science_of(options, science["posterior"])
    if config.initialise is not None:  # of the same seed: then all seeds are one configuration
        run = config.initialise.run.removesuffix(f"-s{config.seed}")
        science["initialise"] = science["initialise"] | {"run": run}
    if config.plugins:
        science["plugins"] = sorted(str(plugin.digest) for plugin in config.plugins)
    return Identified(config, plain, identity(science, _data_locations(config)))


def _settle_data(config: RunConfig) -> RunConfig:
    """The same with those options of the data set that its content fills in."""
    options = {**config.data.options, **make_dataset(config).settled_options()}
    return replace(config, data=replace(config.data, options=options))


def _data_locations(config: RunConfig) -> list[str]:
    """Options that say where data lies, which is no science."""
    of_model = getattr(config.model.entry.factory, "execution_options", ())
    of_data = make_dataset(config).execution_options
    return [*(f"data.{name}" for name in of_data), *(f"model.{name}" for name in of_model)]


def execute(identified: Identified, destination: Destination, console: Console) -> RunRecord:
    """Do what is left to do of a run and return its record, whose status is ``finished``.

    Raises BuildError, DataError, BusyError, DivergedError, InterruptedRunError, CheckpointError,
    DamagedError or OSError; the run's status says so by then, and what was measured is kept.
    """
    config = identified.config
    folder = destination.folder(identified.id)
    if finished := if_finished(identified.claim, destination, console):
        return finished
    codes = provenance.phase_codes(config)  # now, for files may be edited while the run goes on
    made = _make(config, destination, console)
    folder.create()
    with holding(folder.path):
        # Another process may have finished it while this one was building.
        if finished := if_finished(identified.claim, destination, console):
            return finished
        session, seconds_before = _open(identified, made, codes, folder, destination, console)
        return _work(session, seconds_before)


class _Made(NamedTuple):
    """What a configuration was made into; ``first_epoch`` is that of the weights taken."""

    built: Built
    data: Data
    device: torch.device
    first_epoch: int


def _make(config: RunConfig, destination: Destination, console: Console) -> _Made:
    """Load the data and build the components, all checked against each other."""
    device = pick_device(config.runtime.device)
    check_devices(config, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # its generator is the one that checkpoints hold
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)
    data = load_data(config).to(device)
    built = build(config, data.x_shape)
    built.vae.to(device)
    check_splits(config, data)
    check_encoder_steps(config, data, built.vae)
    check_data(config, data, built.vae.model)
    return _Made(built, data, device, _prepare(built, config, destination, device, console))


def _open(
    identified: Identified,
    made: _Made,
    codes: Mapping[str, Code],
    folder: RunFolder,
    destination: Destination,
    console: Console,
) -> tuple[Session, float]:
    """Go on from what is in the folder, or begin; also the seconds that earlier tries took."""
    config, (built, data, device, first_epoch) = identified.config, made
    before = cut_off(folder, console)
    if destination.resume == "never" or has_lost_its_checkpoints(folder, config, console):
        set_aside(folder, destination, console)
        before = None
    record = _record(identified, built, data, device)
    training = training_of(record, _data_locations(config))
    links = [] if config.initialise is None else [Link(config.initialise.run, "initialised")]
    if before is not None:
        record = replace(record, experiment=before.experiment, code=before.code)
        enrol(folder, before, identified.claim)
    else:
        label(folder, identified.claim)
    if has_begun(folder, record):
        tell_of_resumed_code(record.code, destination, console)
        codes = codes if record.code else {}  # else it began under code that is not known
    elif "train" in config.phases and destination.resume == "auto":
        kept = config.runtime.keep_epochs
        wanted = Wanted(training, _data_locations(config), codes["train"], kept)
        links += _take_over(folder, wanted, destination, console)
    plugins.keep_copies(config.plugins, folder.path)
    _write_config(folder, record.config)
    checkpoint = phases.cut_back(
        config, folder, device, console.warn, _check_of(training, built.vae, config)
    )
    recorder = Recorder(folder, record, destination.database, warn=console.warn)
    for link in links:
        recorder.add_link(*link)
    session = Session(
        *(config, built, data, device, folder, recorder, console, checkpoint, codes),
        *(training, first_epoch),
    )
    return session, 0.0 if before is None else before.wall_seconds or 0.0


def _take_over(
    folder: RunFolder, wanted: Wanted, destination: Destination, console: Console
) -> list[Link]:
    """Copy a training that another run has done, where there is one; returns the link to it."""
    source = adopt_training(folder, wanted, destination.results, console.warn)
    if source is None:
        return []
    console.info(f"{source} has trained the same: its weights are taken")
    return [Link(source, "trained")]


def _check_of(
    training: Training, vae: VAE, config: RunConfig
) -> Callable[[Mapping[str, Any]], None]:
    """Raises CheckpointError where a checkpoint is not of this run."""

    def check(state: Mapping[str, Any]) -> None:
        check_training(state, training)
        parameters = [p for p in vae.parameters() if p.requires_grad]
        check_fit(state, vae, config.training.optimiser.build(parameters=parameters))

    return check


def _prepare(
    built: Built,
    config: RunConfig,
    destination: Destination,
    device: torch.device,
    console: Console,
) -> int:
    """Take and fix the weights as the configuration says; returns the epoch they are of."""
    epoch = 0
    if config.initialise is not None:
        epoch = weights.load_into(built.vae, config.initialise, destination.results, device)
    elif "train" not in config.phases and built.num_parameters > 0:
        console.warn("this run neither trains nor loads weights: it measures random ones")
    elif config.training.fixed:
        console.warn("`training.fixed` without `initialise`: those parts keep random weights")
    weights.fix(built.vae, config.training.fixed or ())
    if "train" in config.phases and built.num_parameters == 0:
        raise BuildError("`training.fixed`: nothing is left to train")
    return epoch


def check_splits(config: RunConfig, data: Data) -> None:
    """Raise BuildError when the data set lacks a split that the run wants."""
    for split in config.evaluation.splits:
        if split not in data.splits:
            available = ", ".join(data.splits)
            raise BuildError(
                f"`evaluation.splits`: {config.data.name} has no {split} split as configured; "
                f"it has {available}"
            )
    selects = config.training.early_stopping is not None or config.evaluation.weights == "best"
    if selects and "validation" not in data.splits:
        raise BuildError(
            "`training.early_stopping` and `evaluation.weights: best` need a validation split, "
            f"and {config.data.name} has none as configured"
        )


def check_encoder_steps(config: RunConfig, data: Data, vae: VAE) -> None:
    """Raise BuildError where steps of the encoder alone make no sense."""
    options, key = config.training, "`training.encoder_steps_until`"
    if options.encoder_steps is not None and "encoder" in (options.fixed or ()):
        raise BuildError(
            "`training.encoder_steps` trains the encoder more often, and `training.fixed` keeps "
            "it as it is; leave one of them out"
        )
    if options.encoder_steps_until is None:
        return
    if options.encoder_steps is None:
        raise BuildError(f"{key} ends what `training.encoder_steps` begins; set both")
    if not vae.encoder.sees_x:
        raise BuildError(f"{key}: {config.encoder.name} sees no x, so z tells nothing of it")
    if len(data.splits.get("validation", ())) < 2:
        raise BuildError(
            f"{key} compares data of a validation split, and {config.data.name} has fewer than 2 "
            "such as configured"
        )


def _write_config(folder: RunFolder, plain: Mapping[str, Any]) -> None:
    """Leave the whole configuration as a file that ``-config`` takes, written whole or not."""
    path = folder.path / "config.yaml"
    temporary = path.with_suffix(".yaml.tmp")
    with naming(path):
        temporary.write_text(block(dict(plain)), encoding="utf-8")
        temporary.replace(path)


def _record(identified: Identified, built: Built, data: Data, device: torch.device) -> RunRecord:
    config, git = identified.config, provenance.git_commit()
    return RunRecord(
        experiment=config.experiment,
        hash=identified.hash,
        seed=config.seed,
        git_commit=git.commit,
        git_dirty=git.dirty,
        versions=provenance.versions(),
        device=provenance.device_name(device, rounds_forces=rounds_forces(config.runtime)),
        dataset=make_dataset(config).title,
        binarisation=data.binarisation,
        data_checksum=data.checksum,
        config=plugins.stored(identified.resolved),
        posterior=config.posterior.name,
        loss=config.loss.name,
        num_parameters=built.num_parameters,
        x_size=math.prod(data.x_shape),
    )


def _work(session: Session, seconds_before: float) -> RunRecord:
    """Go through the phases; whatever ends them, the status says so."""
    began = time.monotonic()

    def close(status: Status, message: str = "") -> None:
        session.recorder.close(
            status,
            message,
            wall_seconds=seconds_before + time.monotonic() - began,
            peak_memory_mb=provenance.peak_memory_mb(session.device),
        )

    try:
        with catching() as interruption:
            phases.go_through(session, interruption)
    except (InterruptedRunError, KeyboardInterrupt) as error:
        close("interrupted", str(error) or "SIGINT")
        raise
    except DivergedError as error:
        close("diverged", str(error))
        raise
    except BaseException as error:
        close("failed", f"{type(error).__name__}: {error}")
        raise
    close("finished")
    return session.recorder.record
