"""The list of runs."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reporting.tables import Heading, Table, Text
from utils.results.lock import is_free

DESCRIBED = ("id", "experiment", "posterior", "loss", "dataset")
SILENCE = timedelta(minutes=5)  # ten heartbeats


def shown_status(status: str, heartbeat: str, now: datetime, lock_is_free: bool = False) -> str:
    """The status; ``lost`` for a run that says it is running, and is not.

    That is one whose lock is free, or that has not been heard of lately.
    """
    if status != "running":
        return status
    if lock_is_free:
        return "lost"
    try:
        silent = now - datetime.fromisoformat(heartbeat) > SILENCE
    except (ValueError, TypeError):  # none, or no time at all
        silent = True
    return "lost" if silent else status


def run_table(runs: pd.DataFrame, now: datetime) -> Table:
    """One row a run; times in UTC."""
    headings = [Heading(label) for label in (*DESCRIBED, "seed", "status", "started", "wall time")]
    return Table(headings, [_row(run, now) for run in runs.to_dict("records")])


def _lock_is_free(run: Mapping[Any, Any]) -> bool:
    """Whether a run's lock is known to be free: by its own host only, which is where it counts."""
    return run["host"] == socket.gethostname() and is_free(Path(run["folder"]))


def _row(run: Mapping[Any, Any], now: datetime) -> list[Text]:
    texts = [
        *(run[name] for name in DESCRIBED),
        str(run["seed"]),
        shown_status(run["status"], run["heartbeat"], now, _lock_is_free(run)),
        run["started"].removesuffix("+00:00"),
        "" if pd.isna(run["wall_seconds"]) else str(timedelta(seconds=round(run["wall_seconds"]))),
    ]
    return [Text(text) for text in texts]
