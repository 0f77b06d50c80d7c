"""The run folder's part of the results: append-only CSV logs and an atomic status.json.

The CSV files hold deterministic content only, so that a run that was cut off and resumed leaves
the same bytes as one that was not. Times and memory stand in status.json.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from utils.results.columns import columns_of
from utils.results.migrations import Convert, converter
from utils.results.records import Estimate, Label, Link, Metric, RunRecord, checked

LONGEST_HEADER = 4096  # bytes: what is longer is no header of ours, and may never end

FINGERPRINTS = "files"
"""The key of status.json under which a finished run's files are described."""

Row = TypeVar("Row", bound=tuple[Any, ...])


class Cell(NamedTuple):
    """How a value turns into a CSV cell's text and back."""

    parse: Callable[[str], Any]
    format: Callable[[Any], str]


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError(f"names in results must stand on one line; got {text!r}")
    return text


def _integer(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{text[:40]} is not an integer of 64 bits, which databases hold")
    return value


def _real(value: Any) -> str:
    return repr(float(value))  # the shortest text that reads back as the same double


CELLS: Mapping[Any, Cell] = {
    str: Cell(str, _one_line),
    int: Cell(_integer, lambda value: str(operator.index(value))),
    float: Cell(float, _real),
    float | None: Cell(
        lambda text: float(text) if text else None,
        lambda value: "" if value is None else _real(value),
    ),
}
"""By the type of a row's column."""


Earlier = Callable[[Sequence[str]], Convert | None]
"""Knows the headers of earlier forms of a file, and what makes their rows those of today."""


class DamagedError(ValueError):
    """A file of a run's folder is not what was written; the message names it."""


class CsvLog(Generic[Row]):
    """A CSV file that grows by whole rows and can be cut back to an earlier size.

    A process that dies while it writes leaves at most one torn line at the end; readers skip it
    and the next ``append`` removes it. A file of an earlier form is read as one of today; the
    next ``append`` writes it again.
    """

    def __init__(self, path: Path, row_type: type[Row], earlier: Earlier = lambda _: None) -> None:
        self.path = path
        self._row_type = row_type
        self._cells = {name: CELLS[kind] for name, kind, _ in columns_of(row_type)}
        self._earlier = earlier

    def append(self, rows: Iterable[Row]) -> list[Row]:
        """Write ``rows`` at once and return them as they will be read back.

        Raises ValueError for a text with a line break; OSError, naming the file, when it cannot
        be written (the file then ends where it did before).
        """
        cells = [self._format(row) for row in rows]
        if cells:
            self._bring_up_to_date()
            self._write(cells)
        return [self._parse(texts) for texts in cells]

    def read(self) -> list[Row]:
        """All complete rows; none when there is no file.

        Raises DamagedError, naming file and line, when the content is not what was written.
        """
        content = self._text()
        if not content:
            return []
        reader = csv.reader(io.StringIO(content, newline=""))
        try:
            return self._rows(reader)
        except (ValueError, csv.Error) as error:
            raise DamagedError(f"{self.path}:{reader.line_num}: {error}") from error

    def size(self) -> int:
        """Bytes in the file now; 0 when there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def fingerprint(self, size: int | None = None) -> str:
        """Size and checksum of the file, or of its first bytes: ``1234:sha256:...``.

        "0" where there is no file.
        """
        if not self.path.exists():
            return "0"
        with self.path.open("rb") as file:
            content = file.read(-1 if size is None else size)
        return f"{len(content)}:sha256:{hashlib.sha256(content).hexdigest()}"

    def truncate(self, size: int) -> None:
        """Cut the file back to ``size`` bytes.

        Raises DamagedError when the file is shorter or ``size`` is not the end of a row.
        """
        if size == 0 and not self.path.exists():
            return
        if size > self.size():
            raise DamagedError(
                f"{self.path} has {self.size()} bytes, fewer than {size}: rows are lost"
            )
        with naming(self.path), self.path.open("rb+") as file:
            file.seek(max(size - 1, 0))
            if size > 0 and file.read(1) != b"\n":
                raise DamagedError(f"{self.path}: byte {size} is not the end of a row")
            file.truncate(size)

    def keep_first(self, num_rows: int) -> None:
        """Cut the file back to its first rows. Raises DamagedError when it has fewer."""
        lines = self._complete_lines().splitlines(keepends=True)  # the header first
        if num_rows > max(len(lines) - 1, 0):
            raise DamagedError(f"{self.path} has fewer than {num_rows} rows: rows are lost")
        self.truncate(sum(map(len, lines[: num_rows + 1])) if num_rows else 0)

    def sync(self) -> None:
        """Return when the content is on the disk, not just in the system's memory."""
        if self.path.exists():
            with naming(self.path), self.path.open("rb+") as file:
                os.fsync(file.fileno())

    def _format(self, row: Row) -> list[str]:
        cells = self._cells.values()
        return [cell.format(value) for cell, value in zip(cells, row, strict=True)]

    def _parse(self, texts: list[str]) -> Row:
        cells = self._cells.values()
        return self._row_type(*(c.parse(text) for c, text in zip(cells, texts, strict=True)))

    def _text(self) -> str:
        content = self._complete_lines()
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            line = 1 + content.count(b"\n", 0, error.start)
            raise DamagedError(f"{self.path}:{line}: these bytes are no text") from None

    def _rows(self, reader: Iterator[list[str]]) -> list[Row]:
        header = next(reader)
        convert = self._converter(header)
        rows = []
        for texts in reader:
            if len(texts) != len(header):
                raise ValueError(f"{len(texts)} cells, not {len(header)}")
            rows.append(self._parse(convert(texts)))
        return rows

    def _converter(self, header: list[str]) -> Convert:
        """What makes the file's cells those of today."""
        if header == list(self._cells):
            return list
        convert = self._earlier(header)
        if convert is None:
            raise ValueError(f"the header must be {','.join(self._cells)}")
        return convert

    def _bring_up_to_date(self) -> None:
        """Write a file of an earlier form again, as a whole or not at all, before it grows."""
        if self._header() in ("", ",".join(self._cells)):
            return
        current = CsvLog(self.path.with_suffix(".csv.tmp"), self._row_type)
        current.path.unlink(missing_ok=True)
        current.append(self.read())
        current.sync()
        current.path.replace(self.path)

    def _header(self) -> str:
        """The first line; empty where there is none, or a torn one."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            line = file.readline(LONGEST_HEADER)
        return line[:-1].decode(errors="replace") if line.endswith(b"\n") else ""

    def _complete_lines(self) -> bytes:
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]

    def _write(self, cells: list[list[str]]) -> None:
        with naming(self.path), self.path.open("ab", buffering=0) as file:
            start = file.tell()
            if start > 0 and not _ends_with_newline(self.path):
                start = len(self._complete_lines())
                file.truncate(start)
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([list(self._cells)] * (start == 0) + cells)
            _write_all(file, text.getvalue().encode(), start)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _write_all(file: io.FileIO, content: bytes, start: int) -> None:
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):  # a full disk can still give bytes back
            file.truncate(start)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError of the block say which results file could not be written."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write results: {error.strerror}"
        raise OSError(error.errno, reason, str(path)) from error


class RunFolder:
    """A run's folder, ``results/runs/<id>/``: metrics, estimates, links, labels and status."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics = CsvLog(self.path / "metrics.csv", Metric)
        self.estimates = CsvLog(self.path / "estimates.csv", Estimate, self._earlier)
        self.links = CsvLog(self.path / "links.csv", Link)
        self.labels = CsvLog(self.path / "labels.csv", Label)
        self.status_path = self.path / "status.json"

    def _earlier(self, header: Sequence[str]) -> Convert | None:
        record = self.read_status()
        return converter(header, {} if record is None else record.config)

    @property
    def _logs(self) -> tuple[CsvLog[Any], ...]:
        return self.metrics, self.estimates, self.links, self.labels

    def create(self) -> None:
        """Make the folder if it is not there. Raises OSError, naming it, when that fails."""
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def sync(self) -> None:
        """Return when all rows are on the disk."""
        for log in self._logs:
            log.sync()

    def write_status(self, record: RunRecord, *, vouch: bool = False) -> None:
        """Replace status.json as a whole: a reader sees the old one or the new one.

        With ``vouch`` it tells sizes and checksums of metrics and estimates too, for nothing more
        is written to them: by these ``damage`` sees later whether they are whole.
        """
        row = record.as_row()
        if vouch:
            row[FINGERPRINTS] = {log.path.name: log.fingerprint() for log in self._measured}
        content = json.dumps(row, indent=2, default=str)
        temporary = self.status_path.with_suffix(".json.tmp")
        with naming(self.status_path):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(content + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.status_path)

    def read_status(self) -> RunRecord | None:
        """The run's record; None when there is none yet.

        Raises DamagedError, naming the file, when it cannot be read.
        """
        row = self._status_row()
        if row is None:
            return None
        try:
            return checked(row)
        except ValueError as error:
            raise DamagedError(f"{self.status_path} is not a run's status: {error}") from error

    def damage(self) -> list[str]:
        """What is not as it was when the run finished, one text a file.

        Empty for a run that has not finished, or was made before fingerprints were written.
        """
        row = self._status_row() or {}
        fingerprints = row.get(FINGERPRINTS)
        if row.get("status") != "finished" or not isinstance(fingerprints, dict):
            return []
        return [
            f"{log.path} is not what it was when the run finished: {log.size()} bytes"
            for log in self._measured
            if fingerprints.get(log.path.name, log.fingerprint()) != log.fingerprint()
        ]

    def is_vouched_for(self) -> bool:
        """Whether the status tells fingerprints, so that ``damage`` sees what is lost."""
        return FINGERPRINTS in (self._status_row() or {})

    @property
    def _measured(self) -> tuple[CsvLog[Any], ...]:
        return self.metrics, self.estimates  # the others may grow when a run has finished

    def _status_row(self) -> dict[str, Any] | None:
        try:
            row = json.loads(self.status_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, OSError) as error:
            raise DamagedError(f"{self.status_path} cannot be read: {error}") from error
        if not isinstance(row, dict):
            raise DamagedError(f"{self.status_path} is not a run's status: it holds no mapping")
        return row


def results_root(given: str | None = None) -> Path:
    """Where results live: as given, else $VI_RESULTS, else ``results``; ``~`` is one's home."""
    root = given or os.environ.get("VI_RESULTS") or "results"  # no shell fills in --results=~/x
    return Path(os.path.expanduser(root))  # noqa: PTH111 (Path's raises where there is no home)


def run_folders(root: Path) -> list[RunFolder]:
    """The folders of all runs below a results root, sorted by name."""
    return [RunFolder(path) for path in sorted((root / "runs").glob("*")) if path.is_dir()]
