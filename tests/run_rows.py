"""What tests of run folders, database and recorder share: a record, and what is stored of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import select

from utils.results import schema
from utils.results.database import ResultsDatabase
from utils.results.folder import RunFolder
from utils.results.records import RunRecord


def a_record(config_hash: str = "abc", seed: int = 0, **changes: Any) -> RunRecord:
    known = {"dataset": "digits", "binarisation": "static", "posterior": "planar", "loss": "elbo"}
    return RunRecord("expA", config_hash, seed, **(known | changes))


def folder_of(root: Path, record: RunRecord) -> RunFolder:
    return RunFolder(root / "runs" / record.id)


def values_of(database: ResultsDatabase) -> dict[tuple[Any, ...], float]:
    rows = database.query(select(schema.metrics))
    return {(r["phase"], r["step"], r["split"], r["name"]): r["value"] for r in rows}


def sql(root: Path, query: str) -> list[dict[str, Any]]:
    """What any SQL tool would see."""
    with closing(sqlite3.connect(root / "results.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]
