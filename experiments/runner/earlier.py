"""What earlier tries have left of a run, and what becomes of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from utils.code import Code, changes
from utils.console import Console
from utils.results import schema
from utils.results.database import DatabaseError, ResultsDatabase, first_line
from utils.results.folder import DamagedError, RunFolder
from utils.results.records import MEMBERSHIP, Label, Link, RunRecord, stamp

LOG = "run.log"
"""Where a sweep has its runs write what they say."""
CHECKPOINT = "last.pt"
MAX_SHOWN = 6  # changed files named in one message


def epoch_path(folder: RunFolder, epoch: int) -> Path:
    """Where the weights of an epoch are kept for good."""
    return folder.path / "epochs" / f"{epoch:06d}.pt"


class Claim(NamedTuple):
    """What a configuration asks of a run that may be there already, beside its science."""

    run: str
    """The id."""
    experiment: str
    """That the run is to count for."""
    labels: Mapping[str, str]
    """What the experiment calls it, by axis."""
    epochs: Sequence[int]
    """Whose weights it is to have kept."""


@dataclass(frozen=True)
class Destination:
    """Where results go, and what to do with what is there."""

    results: Path
    database: str
    """URL of the results database."""
    resume: Literal["auto", "never"] = "auto"
    command: str = "python main.py ..."
    """How the program was called, without passwords."""

    def folder(self, run: str) -> RunFolder:
        """Where a run lies."""
        return RunFolder(self.results / "runs" / run)

    @property
    def afresh(self) -> str:
        """The command that does the run again from its beginning."""
        return f"`{self.command} --resume never`"


def if_finished(claim: Claim, destination: Destination, console: Console) -> RunRecord | None:
    """The record of a run that has nothing left to do; its results are in the database then.

    Raises DamagedError where it has finished but its results are no longer what they were.
    """
    folder = destination.folder(claim.run)
    try:
        record = folder.read_status()
    except DamagedError:  # told, and taken as cut off, by whoever holds the lock
        return None
    if record is None or record.status != "finished" or destination.resume == "never":
        return None
    if record.id != folder.path.name:
        return None
    if damage := folder.damage():
        raise DamagedError("; ".join(damage))
    console.info(f"{folder.path.name} is already finished: {folder.path}")
    _tell_of_changed_code(record, destination, console)
    for epoch in claim.epochs:
        if not epoch_path(folder, epoch).exists():
            console.warn(f"it kept no weights of epoch {epoch}; `--resume never` trains it again")
    enrol(folder, record, claim)
    ensure_stored({record.id: folder}, destination, console)
    return record


def _tell_of_changed_code(record: RunRecord, destination: Destination, console: Console) -> None:
    if not record.code:
        console.info(
            "the run does not record its code: whether that has changed cannot be checked"
        )
    elif changed := code_changes(record.code):
        console.warn(
            f"the code has changed since: {changed}. The results are those of the old code; "
            f"{destination.afresh} does the run again and keeps the old results"
        )


def tell_of_resumed_code(
    codes: Mapping[str, Code], destination: Destination, console: Console
) -> None:
    """Say where a run that was cut off goes on under other code than ``codes``, by phase."""
    if not codes:
        console.info(
            "the run does not record its code: whether that has changed cannot be checked"
        )
    elif changed := code_changes(codes):
        console.warn(
            f"the code has changed since the run was cut off: {changed}. The run goes on "
            f"and is marked as of mixed code; {destination.afresh} begins it anew"
        )


def code_changes(codes: Mapping[str, Code]) -> str:
    """What has changed of the code of a run's phases, in words; empty where nothing has."""
    phases: dict[str, list[str]] = {}
    for phase, code in codes.items():
        for change in changes(code):
            phases.setdefault(change, []).append(phase)
    texts = [
        change if len(found) == len(codes) else f"{change} ({', '.join(found)})"
        for change, found in phases.items()
    ]
    more = [f"{len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
    return ", ".join(texts[:MAX_SHOWN] + more)


def enrol(folder: RunFolder, record: RunRecord, claim: Claim) -> None:
    """Note that another experiment has asked for the run, and what it calls it.

    Its science is the same.
    """
    link = Link(claim.experiment, MEMBERSHIP)
    if claim.experiment != record.experiment and link not in folder.links.read():
        folder.links.append([link])
    label(folder, claim)


def label(folder: RunFolder, claim: Claim) -> None:
    """Note what the experiment calls the run, where it does so for the first time or anew."""
    known = _last_labels(folder)
    wanted = [Label(claim.experiment, *pair) for pair in claim.labels.items()]
    folder.labels.append(row for row in wanted if row not in known)


def ensure_stored(
    finished: Mapping[str, RunFolder], destination: Destination, console: Console
) -> None:
    """Copy finished runs, by id, into a database that does not have all of them."""
    try:
        with closing(ResultsDatabase(destination.database)) as database:
            known = _stored(database, list(finished))
            for run, folder in finished.items():
                told = {*folder.links.read(), *_last_labels(folder)}
                if run not in known or known[run] != told:
                    database.import_run(folder)
    except (DatabaseError, DamagedError, SQLAlchemyError, OSError) as error:
        console.warn(
            f"results database: {first_line(error)}; the results are in "
            f"{destination.results / 'runs'}"
        )


def _stored(database: ResultsDatabase, ids: Sequence[str]) -> dict[str, set[tuple[str, ...]]]:
    """The links and labels of those of the runs that the database knows as finished."""
    c = schema.runs.c
    query = select(c.id).where(c.id.in_(ids), c.status == "finished")
    known: dict[str, set[tuple[str, ...]]] = {row["id"]: set() for row in database.query(query)}
    for table in (schema.links, schema.labels):
        for row in database.query(select(table).where(table.c.run.in_(ids))):
            known.get(row.pop("run"), set()).add(tuple(row.values()))
    return known


def _last_labels(folder: RunFolder) -> list[Label]:
    return list({row[:2]: row for row in folder.labels.read()}.values())


def cut_off(folder: RunFolder, console: Console) -> RunRecord | None:
    """What is known of an earlier try; None where there is none, or its status cannot be read.

    Such a status is moved aside, with a warning: the run then goes on from its checkpoint.
    """
    try:
        record = folder.read_status()
        if record is not None and record.id != folder.path.name:
            raise DamagedError(f"{folder.status_path} is the status of run {record.id}")
    except DamagedError as error:
        kept = folder.status_path.with_name(f"status.json.damaged-{stamp()}")
        folder.status_path.rename(kept)
        console.warn(f"{error}. The run is taken as cut off; that file is now {kept.name}")
        return None
    return record


def set_aside(folder: RunFolder, destination: Destination, console: Console) -> None:
    """Move what is in a run's folder to ``replaced``, all but its lock and a sweep's log.

    The status goes last: where that is cut off, it still tells what the other files should be.
    """
    items = [item for item in folder.path.iterdir() if item.name not in ("lock", LOG)]
    items.sort(key=lambda item: item == folder.status_path)
    if not items:
        return
    target = destination.results / "replaced" / f"{folder.path.name}-{stamp()}"
    target.mkdir(parents=True)
    for item in items:
        shutil.move(item, target / item.name)
    console.info(f"what was there is kept in {target}")
