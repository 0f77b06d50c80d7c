"""What a run holds to record its results: the folder at once, the database soon after."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, SupportsFloat

from utils.results import schema
from utils.results.database import Write, rows_write, run_write
from utils.results.folder import RunFolder
from utils.results.mirror import Mirror
from utils.results.records import Estimate, Link, Metric, RunRecord, Status, utc_now


class Recorder:
    """Records one run: rows go to its CSV files before a call returns, to the database later.

    The run's status is ``running`` from now on; host, process, times and folder are filled in. A
    run that is resumed must have its logs cut back (``CsvLog.truncate``) before.

    Args:
        folder: the run's folder, named by the run's id.
        record: what is known of the run; more can be added by ``update``.
        url: the results database.
        warn: told once, by the background thread, when the database fails.
        heartbeat_seconds: how often the run says that it is alive.
        busy_timeout: seconds to wait for a locked SQLite database, each time it is tried.
        linger: seconds for which rows are collected before they go to the database.
        patience: seconds that ``close`` waits for the database at most.

    Raises OSError, naming the path, when the folder cannot be written: here and in every method.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        url: str,
        *,
        warn: Callable[[str], None],
        heartbeat_seconds: float = 30.0,
        busy_timeout: float = 10.0,
        linger: float = 1.0,
        patience: float = 60.0,
    ) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # the heartbeat changes the record too
        folder.create()
        previous = folder.read_status()
        now = utc_now()
        self._record = replace(
            record,
            status="running",
            host=socket.gethostname(),
            pid=os.getpid(),
            started=now if previous is None else previous.started,
            heartbeat=now,
            finished="",
            message="",
            folder=str(folder.path.resolve()),
        )
        folder.write_status(self._record)
        self._mirror = Mirror(
            folder,
            url,
            beat=self._beat,
            warn=warn,
            heartbeat_seconds=heartbeat_seconds,
            busy_timeout=busy_timeout,
            linger=linger,
            patience=patience,
        )

    @property
    def record(self) -> RunRecord:
        """What is known of the run now."""
        return self._record

    def add_metrics(
        self, phase: str, step: int, split: str, values: Mapping[str, SupportsFloat]
    ) -> None:
        """Record numbers of one step (epoch) on one split, by name."""
        rows = [Metric(phase, step, split, name, float(value)) for name, value in values.items()]
        self._put_rows(schema.metrics, self._folder.metrics.append(rows))

    def add_estimates(self, rows: Iterable[Estimate]) -> None:
        """Record estimates of single data points."""
        self._put_rows(schema.estimates, self._folder.estimates.append(rows))

    def add_link(self, target: str, kind: str) -> None:
        """Record that this run builds on the run ``target``; twice is once."""
        link = Link(target, kind)
        if link not in self._folder.links.read():
            self._put_rows(schema.links, self._folder.links.append([link]))

    def update(self, **changes: Any) -> None:
        """Change fields of the record (``num_parameters=...``). Raises TypeError for unknown."""
        with self._lock:
            record = replace(self._record, **changes)
            self._folder.write_status(record, vouch=record.status == "finished")
            self._record = record
        self._mirror.put(run_write(record))

    def close(self, status: Status, message: str = "", **changes: Any) -> bool:
        """End the run as ``status``: CSV on disk first, then status.json, the database last.

        Returns whether the database holds the run too; if not, ``warn`` was told what to do. No
        call may follow.
        """
        try:
            self._folder.sync()
            now = utc_now()
            ending = {"status": status, "message": message, "heartbeat": now, "finished": now}
            self.update(**ending, **changes)
        finally:
            in_line = self._mirror.stop()
        return in_line

    def _put_rows(self, table: Any, rows: list[Any]) -> None:
        if rows:
            self._mirror.put(rows_write(table, self._record.id, rows))

    def _beat(self) -> Write:
        with self._lock:
            if self._record.status == "running":
                self._record = replace(self._record, heartbeat=utc_now())
                with contextlib.suppress(OSError):  # a full disk is met, and told, by the run
                    self._folder.write_status(self._record)
            return run_write(self._record)
