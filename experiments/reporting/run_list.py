"""The list of runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reporting.tables import Heading, Table, Text
from utils.results.lock import is_free_here, shown_status

DESCRIBED = ("id", "experiment", "posterior", "loss", "dataset")


def run_table(runs: pd.DataFrame, now: datetime) -> Table:
    """One row a run; times in UTC."""
    headings = [Heading(label) for label in (*DESCRIBED, "seed", "status", "started", "wall time")]
    return Table(headings, [_row(run, now) for run in runs.to_dict("records")])


def _row(run: Mapping[Any, Any], now: datetime) -> list[Text]:
    texts = [
        *(run[name] for name in DESCRIBED),
        str(run["seed"]),
        shown_status(
            run["status"], run["heartbeat"], now, is_free_here(run["host"], Path(run["folder"]))
        ),
        run["started"].removesuffix("+00:00"),
        "" if pd.isna(run["wall_seconds"]) else str(timedelta(seconds=round(run["wall_seconds"]))),
    ]
    return [Text(text) for text in texts]
