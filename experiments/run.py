"""One run from configuration to results: train, estimate, store; skip or resume what is there."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from experiments import families, phases, provenance, weights
from experiments.build import (
    BuildError,
    Built,
    build,
    check_data,
    load_data,
    make_dataset,
    pick_device,
    settle_families,
)
from experiments.schema import SCIENCE, RunConfig
from experiments.session import Session
from experiments.signals import InterruptedRunError, catching
from experiments.training import DivergedError
from utils.console import Console
from utils.data.base import Data
from utils.resolved import identity, resolved
from utils.results import schema
from utils.results.database import DatabaseError, ResultsDatabase
from utils.results.folder import RunFolder, naming
from utils.results.recorder import Recorder
from utils.results.records import MEMBERSHIP, Link, RunRecord, Status, run_id


class BusyError(Exception):
    """Another process is at this run."""


@dataclass(frozen=True)
class Place:
    """Where results go, and what to do with what is there."""

    results: Path
    database: str
    """URL of the results database."""
    resume: Literal["auto", "never"] = "auto"


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


SECTIONS = ("phases", "data", "model", "encoder", "posterior", "initialise")
"""The sections that identify every run; each phase adds those that it reads."""


def identify(config: RunConfig, results: Path) -> Identified:
    """Resolve a configuration and hash its science: where data lies and how it runs is none.

    Args:
        config: validated; ``initialise`` may speak of the best or last run of an experiment.
        results: where that run is looked for.

    Raises BuildError when data set or ``initialise`` make no sense.
    """
    if config.initialise is not None:
        config = replace(config, initialise=weights.settle(config.initialise, results))
    config = settle_families(config)
    plain = resolved(config)
    sections = {*SECTIONS, *(name for phase in config.phases for name in SCIENCE[phase])}
    science = {name: plain[name] for name in plain if name in sections}
    if families.PHASE in science:
        options = science[families.PHASE]
        science[families.PHASE] = families.science_of(options, science["posterior"])
    if config.initialise is not None:  # of the same seed: then all seeds are one configuration
        run = config.initialise.run.removesuffix(f"-s{config.seed}")
        science["initialise"] = science["initialise"] | {"run": run}
    return Identified(config, plain, identity(science, _places(config)))


def _places(config: RunConfig) -> list[str]:
    """Options that say where data lies, which is no science."""
    return [f"data.{name}" for name in make_dataset(config).execution_options]


def execute(identified: Identified, place: Place, console: Console) -> RunRecord:
    """Do what is left to do of a run and return its record, whose status is ``finished``.

    Raises BuildError, DataError, BusyError, DivergedError, InterruptedRunError, CheckpointError
    or OSError; the run's status says so by then, and what was measured is kept.
    """
    config = identified.config
    folder = RunFolder(place.results / "runs" / identified.id)
    if finished := _if_finished(config, folder, place, console):
        return finished
    device = pick_device(config.runtime.device)
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)
    data = load_data(config).to(device)
    built = build(config, data.x_shape)
    built.vae.to(device)
    check_splits(config, data)
    check_data(config, data, built.vae.model)
    first_epoch = _prepare(built, config, place, device, console)
    folder.create()
    with _locked(folder.path):
        # Another process may have finished it while this one was building.
        if finished := _if_finished(config, folder, place, console):
            return finished
        before = folder.read_status()
        if before is not None and place.resume == "never":
            _set_aside(folder, place, console)
            before = None
        record = _record(identified, built, data, device)
        links = [] if config.initialise is None else [Link(config.initialise.run, "initialised")]
        if before is not None:
            record = replace(record, experiment=before.experiment)
            _enrol(folder, before, config.experiment)
        elif "train" in config.phases and place.resume == "auto":
            source = weights.adopt_training(
                folder, record, _places(config), place.results, console.warn
            )
            if source is not None:
                console.info(f"{source} has trained the same: its weights are taken")
                links.append(Link(source, "trained"))
        _write_config(folder, identified.resolved)
        checkpoint = phases.cut_back(config, folder, device, console.warn)
        recorder = Recorder(folder, record, place.database, warn=console.warn)
        for link in links:
            recorder.add_link(*link)
        session = Session(
            config, built, data, device, folder, recorder, console, checkpoint, first_epoch
        )
        return _work(session, 0.0 if before is None else before.wall_seconds or 0.0)


def _prepare(
    built: Built, config: RunConfig, place: Place, device: torch.device, console: Console
) -> int:
    """Take and fix the weights as the configuration says; returns the epoch they are of."""
    epoch = 0
    if config.initialise is not None:
        epoch = weights.load_into(built.vae, config.initialise, place.results, device)
    elif "train" not in config.phases and built.num_parameters > 0:
        console.warn("nothing is trained and nothing loaded: the model is measured as drawn")
    elif config.training.fixed:
        console.warn("`training.fixed` without `initialise`: those parts stay as they are drawn")
    weights.fix(built.vae, config.training.fixed or ())
    if "train" in config.phases and built.num_parameters == 0:
        raise BuildError("`training.fixed`: nothing is left to train")
    return epoch


def _if_finished(
    config: RunConfig, folder: RunFolder, place: Place, console: Console
) -> RunRecord | None:
    """The record of a run that has nothing left to do; its results are in the database then."""
    record = folder.read_status()
    if record is None or record.status != "finished" or place.resume == "never":
        return None
    console.info(f"{folder.path.name} is already finished: {folder.path}")
    for epoch in config.runtime.keep_epochs or ():
        due = "train" in config.phases and epoch <= config.training.epochs
        if due and not weights.epoch_path(folder, epoch).exists():
            console.warn(f"it kept no weights of epoch {epoch}; --resume never trains it again")
    _enrol(folder, record, config.experiment)
    _ensure_stored(folder, record, place, console)
    return record


def _enrol(folder: RunFolder, record: RunRecord, experiment: str) -> None:
    """Note that another experiment has asked for the run; its science is the same."""
    link = Link(experiment, MEMBERSHIP)
    if experiment != record.experiment and link not in folder.links.read():
        folder.links.append([link])


def _ensure_stored(folder: RunFolder, record: RunRecord, place: Place, console: Console) -> None:
    """Copy a finished run into a database that does not have all of it."""
    runs, links = schema.runs.c, schema.links.c
    status = select(runs.status).where(runs.id == record.id)
    linked = select(links.target, links.kind).where(links.run == record.id)
    try:
        with closing(ResultsDatabase(place.database)) as database:
            known = {(row["target"], row["kind"]) for row in database.query(linked)}
            finished = database.query(status) == [{"status": record.status}]
            if not finished or known != set(folder.links.read()):
                database.import_run(folder)
    except (DatabaseError, SQLAlchemyError, OSError) as error:
        console.warn(f"results database: {error}; the results are in {folder.path}")


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the run's lock; the system drops it when the process dies, however it dies."""
    with (path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise BusyError(f"{path.name} is being run by {owner}: nothing done here") from None
        file.truncate(0)
        file.write(f"{socket.gethostname()} (pid {os.getpid()})\n")
        file.flush()
        yield


def _write_config(folder: RunFolder, plain: Mapping[str, Any]) -> None:
    """Leave the whole configuration as a file that ``-config`` takes."""
    with naming(folder.path / "config.yaml"):
        text = yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True)
        (folder.path / "config.yaml").write_text(text, encoding="utf-8")


def _set_aside(folder: RunFolder, place: Place, console: Console) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = place.results / "replaced" / f"{folder.path.name}-{stamp}"
    target.mkdir(parents=True)
    for item in folder.path.iterdir():
        if item.name != "lock":
            shutil.move(item, target / item.name)
    console.info(f"what was there is kept in {target}")


def _record(identified: Identified, built: Built, data: Data, device: torch.device) -> RunRecord:
    config, git = identified.config, provenance.git_commit()
    return RunRecord(
        experiment=config.experiment,
        hash=identified.hash,
        seed=config.seed,
        git_commit=git.commit,
        git_dirty=git.dirty,
        versions=provenance.versions(),
        device=provenance.device_name(device),
        dataset=config.data.name,
        binarisation=data.binarisation,
        data_checksum=data.checksum,
        config=identified.resolved,
        posterior=config.posterior.name,
        loss=config.loss.name,
        num_parameters=built.num_parameters,
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
