"""What earlier tries have left of a run, and what becomes of it."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from experiments import weights
from experiments.schema import RunConfig
from utils.console import Console
from utils.results import schema
from utils.results.database import DatabaseError, ResultsDatabase
from utils.results.folder import RunFolder
from utils.results.records import MEMBERSHIP, Link, RunRecord


@dataclass(frozen=True)
class Place:
    """Where results go, and what to do with what is there."""

    results: Path
    database: str
    """URL of the results database."""
    resume: Literal["auto", "never"] = "auto"


def if_finished(
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
    enrol(folder, record, config.experiment)
    _ensure_stored(folder, record, place, console)
    return record


def enrol(folder: RunFolder, record: RunRecord, experiment: str) -> None:
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


def set_aside(folder: RunFolder, place: Place, console: Console) -> None:
    """Move what is in a run's folder to ``replaced``, all but its lock."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = place.results / "replaced" / f"{folder.path.name}-{stamp}"
    target.mkdir(parents=True)
    for item in folder.path.iterdir():
        if item.name != "lock":
            shutil.move(item, target / item.name)
    console.info(f"what was there is kept in {target}")
