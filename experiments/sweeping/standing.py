"""How far a run is, as its folder says: the only memory that a sweep has."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.runner.earlier import LOG, Destination, code_changes, enrol, ensure_stored
from experiments.sweeping.planning import PlannedRun
from utils.console import Console
from utils.results.folder import CsvLog, DamagedError, RunFolder
from utils.results.lock import is_free_here, shown_status

State = Literal["to do", "running", "finished", "failed"]

LAST_BYTES = 4096  # of a log: where it says why it ended


class Standing(NamedTuple):
    """A state, and what there is to say about it."""

    state: State
    message: str = ""


def look(folder: RunFolder) -> Standing:
    """What the folder says. A run that was cut off is to be done; so is one that nobody began."""
    try:
        record = folder.read_status()
        damage = folder.damage()
    except DamagedError:  # main.py says what it makes of it
        return Standing("to do")
    if record is None or record.id != folder.path.name:
        return Standing("to do")
    if record.status == "finished":
        damage += unreadable(folder.links) + unreadable(folder.labels)  # which enrolling reads
        return Standing("failed", "; ".join(damage)) if damage else Standing("finished")
    if record.status in ("failed", "diverged"):
        return Standing("failed", f"{record.status}: {record.message}")
    lock_is_free = is_free_here(record.host, folder.path)
    if shown_status(record.status, record.heartbeat, datetime.now(UTC), lock_is_free) == "running":
        return Standing("running", f"on {record.host} (pid {record.pid})")
    return Standing("to do", "cut off")


def unreadable(log: CsvLog[Any]) -> list[str]:
    """What is wrong with a file, if anything is."""
    try:
        log.read()
    except DamagedError as error:
        return [str(error)]
    return []


def look_at_all(runs: Sequence[PlannedRun]) -> dict[str, Standing]:
    """The standing of each run, by its id."""
    return {run.id: look(run.folder) for run in runs}


def enrol_finished(
    runs: Sequence[PlannedRun],
    standings: Mapping[str, Standing],
    destination: Destination,
    console: Console,
) -> None:
    """Let finished runs count for the sweep's experiment under its labels, also in the database.

    Says once where their code has changed.
    """
    finished: dict[str, RunFolder] = {}
    changed: Counter[str] = Counter()
    for run in runs:
        record = run.folder.read_status() if standings[run.id].state == "finished" else None
        if record is not None:
            enrol(run.folder, record, run.identified.claim)
            finished[run.id] = run.folder
            changed[code_changes(record.code)] += 1
    del changed[""]
    for changes, count in changed.items():
        console.warn(
            f"the code of {count} finished runs has changed since: {changes}; main.py does a run "
            "again with --resume never"
        )
    if finished:
        ensure_stored(finished, destination, console)


def log_path(folder: RunFolder) -> Path:
    """Where everything goes that a run says."""
    return folder.path / LOG


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"no log: {error.strerror}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("#")]
    return said[-1] if said else "it said nothing"
