"""Keeps the database in line with a run's folder, from a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from utils.results.database import ResultsDatabase, Write, database_url, first_line
from utils.results.folder import RunFolder, results_root

MAX_BATCH = 1000  # writes in one transaction


class Mirror:
    """A background thread that copies what is written to ``folder`` into the database.

    It starts with an import of the folder, because a resumed run may have cut rows off that the
    database still has; then it applies the writes that are put in, many in one transaction. When
    the database fails, writes are dropped, for the folder holds them, and the folder is imported
    again with the next heartbeat and at the end. That costs one warning and nothing else.

    Args:
        beat: called about every ``heartbeat_seconds``; refreshes the folder's status.
        warn: told once, what went wrong and how to repair it.
        linger: seconds to wait for more writes to go into a transaction.
        patience: seconds that ``stop`` waits at most.
    """

    def __init__(
        self,
        folder: RunFolder,
        url: str,
        *,
        beat: Callable[[], Write],
        warn: Callable[[str], None],
        heartbeat_seconds: float,
        busy_timeout: float,
        linger: float,
        patience: float,
    ) -> None:
        self._folder, self._url, self._beat, self._warn = folder, url, beat, warn
        self._heartbeat_seconds, self._busy_timeout = heartbeat_seconds, busy_timeout
        self._linger, self._patience = linger, patience
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._database: ResultsDatabase | None = None
        self._in_line = False
        self._warned = threading.Lock()  # taken for good by whoever warns first
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> None:
        """Have ``write`` done soon; what it writes must be in the folder by now."""
        self._queue.put(write)

    def stop(self) -> bool:
        """Finish what is due, then end; whether the database now holds what the folder holds."""
        self._queue.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._warn_once("it does not answer")
            return False
        return self._in_line

    def _run(self) -> None:
        self._bring_in_line([])
        next_beat = time.monotonic() + self._heartbeat_seconds
        stopping = False
        while not stopping:
            writes, stopping = self._collect(next_beat)
            due = time.monotonic() >= next_beat
            if due:
                writes.append(self._beat())
                next_beat = time.monotonic() + self._heartbeat_seconds
            if self._in_line or due or stopping:
                self._bring_in_line(writes)
        if self._database is not None:
            self._database.close()

    def _collect(self, until: float) -> tuple[list[Write], bool]:
        """Writes of the next transaction, and whether the end has come."""
        writes: list[Write] = []
        while len(writes) < MAX_BATCH:
            try:
                write = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if write is None:
                return writes, True
            until = until if writes else time.monotonic() + self._linger
            writes.append(write)
        return writes, False

    def _bring_in_line(self, writes: list[Write]) -> None:
        try:
            if self._database is None:
                self._database = ResultsDatabase(self._url, busy_timeout=self._busy_timeout)
            if self._in_line:
                self._database.apply(writes)
            else:
                self._database.import_run(self._folder)
            self._in_line = True
        except Exception as error:  # drivers raise what they like, and no run may die of it
            self._in_line = False
            self._warn_once(first_line(error))

    def _warn_once(self, reason: str) -> None:
        if self._warned.acquire(blocking=False):
            self._warn(
                f"results database: {reason}. Nothing is lost: {self._folder.path} holds all "
                "results. The database is tried again while the run goes on and at its end; "
                f"`{self._rebuild_command()}` brings it up to date at any time"
            )

    def _rebuild_command(self) -> str:
        root = self._folder.path.resolve().parent.parent
        command = "python plot_from_db.py rebuild"
        if root != results_root().resolve():
            command += f" --results {root}"
        if self._url not in (database_url(root), database_url(results_root())):
            command += " --db URL"
        return command
