"""The rows of the results: what the run folder and the database both hold.

Each row type stands here alone; its CSV file and its SQL table are made of its annotations
(``columns``). The lengths of a row's texts in SQL add up to less than 768: keys are at most 3,072
bytes long in MySQL, four a character.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from utils.results.columns import InSql
from utils.results.methods import Method

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Status = Literal["running", "finished", "failed", "interrupted", "diverged"]

RUN_ID_LENGTH = 96


class Metric(NamedTuple):
    """One number of a phase ("train", ...) at a step (an epoch) on a split."""

    phase: Annotated[str, InSql(64, is_key=True)]
    step: Annotated[int, InSql(is_key=True)]
    split: Annotated[str, InSql(64, is_key=True)]
    name: Annotated[str, InSql(160, is_key=True)]
    value: float


class Estimate(NamedTuple):
    """One number of an estimator for one datum; ``log_px`` and ``elbo`` in nats.

    ``estimator``, ``settings``, ``family`` and ``search`` are a ``Method``. ``standard_error`` is
    the Monte-Carlo error of ``value``, None where it is not known (NaN counts as not known). Of
    the method ``units``, ``datum`` is a dimension of z.
    """

    phase: Annotated[str, InSql(24, is_key=True)]
    estimator: Annotated[str, InSql(32, is_key=True)]
    settings: Annotated[str, InSql(320, is_key=True)]
    family: Annotated[str, InSql(64, is_key=True)]
    search: Annotated[str, InSql(120, is_key=True)]
    split: Annotated[str, InSql(24, is_key=True)]
    name: Annotated[str, InSql(80, is_key=True)]
    datum: Annotated[int, InSql(is_key=True)]
    value: float
    standard_error: float | None = None

    @property
    def method(self) -> Method:
        """By what it was measured."""
        return Method(self.estimator, self.settings, self.family, self.search)


REQUIRED = ("experiment", "hash", "seed", "status", "config")
"""What every run's status tells."""

MEMBERSHIP = "experiment"
"""Kind of a link to a further experiment (its name) that asked for the same run."""


class Link(NamedTuple):
    """Points from a run to the run (its id) that it builds on, such as a trained model."""

    target: Annotated[str, InSql(RUN_ID_LENGTH, is_key=True)]
    kind: Annotated[str, InSql(64, is_key=True)]


class Label(NamedTuple):
    """What an experiment calls a run on an axis ("data set", "MNIST"); of two the last counts."""

    experiment: Annotated[str, InSql(160, is_key=True)]
    name: Annotated[str, InSql(100, is_key=True)]
    value: Annotated[str, InSql(100)]


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run; empty text and None stand for "not known (yet)".

    ``hash`` is that of the scientific configuration, ``config`` the fully resolved one;
    ``posterior`` and ``loss`` are the short labels of tables and legends. ``code`` is what each
    phase stands on, by phase (``utils.code``); ``x_size`` counts the numbers of one x. Times are
    ISO 8601, UTC.
    """

    experiment: Annotated[str, InSql(160)]
    hash: Annotated[str, InSql(96)]
    seed: int
    status: Annotated[Status, InSql(16)] = "running"
    host: str = ""
    pid: int | None = None
    started: Annotated[str, InSql(32)] = ""
    heartbeat: Annotated[str, InSql(32)] = ""
    finished: Annotated[str, InSql(32)] = ""
    message: str = ""
    git_commit: str = ""
    git_dirty: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    dataset: Annotated[str, InSql(160)] = ""
    binarisation: Annotated[str, InSql(160)] = ""
    data_checksum: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    posterior: str = ""
    loss: str = ""
    num_parameters: int | None = None
    x_size: int | None = None
    wall_seconds: float | None = None
    peak_memory_mb: float | None = None
    folder: str = ""

    @property
    def id(self) -> str:
        """The run's name in folders and database."""
        return run_id(self.hash, self.seed)

    def as_row(self) -> dict[str, Any]:
        """Plain data with ``id`` in front: a row of the table ``runs``, and status.json."""
        return {"id": self.id} | asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> RunRecord:
        """Inverse of ``as_row``. Raises TypeError when experiment, hash or seed is missing."""
        names = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in names})


def checked(row: Mapping[str, Any]) -> RunRecord:
    """The record that a row of somewhere else holds, such as a file that people may have edited.

    Raises ValueError, in one line, where a field is missing or of another type.
    """
    from pydantic import ValidationError  # not needed to write results

    if missing := [name for name in REQUIRED if name not in row]:
        raise ValueError(f"it has no {', '.join(missing)}")
    try:
        record = _adapter().validate_python(dict(row))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for name, value in vars(record).items():
        if isinstance(value, (int, float)) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name}: a database cannot hold this number")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half a character") from None
    if record.id != row.get("id", record.id):
        raise ValueError(f"its id {row['id']!r} is not that of its hash and seed, {record.id!r}")
    return record


@functools.cache
def _adapter() -> TypeAdapter[RunRecord]:
    """Made once: that takes as long as reading some ten records."""
    from pydantic import TypeAdapter

    return TypeAdapter(RunRecord)


def run_id(config_hash: str, seed: int) -> str:
    """Identity of a run: ``<hash>-s<seed>``."""
    return f"{config_hash}-s{seed}"


def stamp() -> str:
    """Names what is moved aside, by the time of the machine; no two are the same."""
    return f"{datetime.now():%Y%m%d-%H%M%S-%f}"


def utc_now() -> str:
    """This moment as ISO 8601 text in UTC; such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="seconds")
