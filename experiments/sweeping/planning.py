"""From the points of a sweep to runs: validated and identified in one process, nothing started."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from pathlib import Path

from experiments.runner import plugins
from experiments.runner.app import located
from experiments.runner.run import Identified, identify
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.sweeping.points import Point, Word
from experiments.sweeping.sweep_file import Sweep
from utils.config.assignments import assign, parse_assignment
from utils.config.includes import files_of, read_file
from utils.config.layers import Layer, merge
from utils.config.sources import ASSIGNED, ConfigError, Origin, Problem, collect, flow
from utils.config.validation import validator
from utils.results.folder import RunFolder

SEED = "seed"  # an axis that the database has anyway


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: what main.py is to be given, and who it is.

    ``parent`` is the id of the run whose weights it takes.
    """

    point: Point
    identified: Identified
    arguments: tuple[str, ...]
    folder: RunFolder
    parent: str | None = None

    @property
    def id(self) -> str:
        """The run's id."""
        return self.identified.id

    @property
    def label(self) -> str:
        """What people call it: its choices on the axes."""
        return str(self.point) or self.id

    @property
    def command(self) -> str:
        """What to type to do it alone."""
        return shlex.join(["python", "main.py", *self.arguments])


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep in their order, each once; ``repeated`` are points equal to another."""

    runs: Sequence[PlannedRun]
    repeated: Sequence[tuple[Point, PlannedRun]]

    @property
    def experiments(self) -> list[str]:
        """Of the runs, in their order."""
        return list(dict.fromkeys(run.identified.config.experiment for run in self.runs))


@dataclass(frozen=True)
class Additions:
    """What the sweep's own command line puts over every run."""

    files: Sequence[str] = ()
    assignments: Sequence[str] = ()
    options: Sequence[str] = ()
    """Further options of main.py."""


def make_plan(
    sweep: Sweep,
    points: Sequence[Point],
    results: Path,
    additions: Additions | None = None,
    warn: Callable[[str], None] = print,
) -> Plan:
    """Validate and identify all points.

    Raises ConfigError with everything that is wrong, each mistake once, with the points that have
    it.
    """
    planner = _Planner(sweep, results, additions or Additions(), warn)
    for point in points:
        planner.add(point)
    if planner.mistakes:
        raise ConfigError(
            [
                Problem(problem.origin, problem.message + _where(of, len(points)))
                for problem, of in planner.mistakes.items()
            ]
        )
    return Plan(list(planner.runs.values()), planner.repeated)


def _where(points: Sequence[Point], total: int) -> str:
    """Which points have a mistake; nothing where all do."""
    if len(points) == total or not str(points[0]):
        return ""
    more = f" and {len(points) - 1} more" if len(points) > 1 else ""
    return f" (point {points[0]}{more})"


@dataclass
class _Planner:
    sweep: Sweep
    results: Path
    additions: Additions
    warn: Callable[[str], None]
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    repeated: list[tuple[Point, PlannedRun]] = field(default_factory=list)
    mistakes: dict[Problem, list[Point]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._validate = validator(RunConfig)
        self._read = cache(_read)  # a sweep names the same files again and again
        self._of_point: dict[int, PlannedRun] = {}

    def add(self, point: Point) -> None:
        """Plan one point; a mistake is noted."""
        if point.parent is not None and id(point.parent) not in self._of_point:
            return  # its parent has a mistake
        try:
            run = self._plan(point)
        except ConfigError as error:
            for problem in error.problems:
                self.mistakes.setdefault(problem, []).append(point)
            return
        known = self.runs.setdefault(run.id, run)
        self._of_point[id(point)] = known
        if known is not run:
            self.repeated.append((point, known))

    def _plan(self, point: Point) -> PlannedRun:
        parent = None if point.parent is None else self._of_point[id(point.parent)]
        words = [*point.words]
        if parent is not None:
            words.append(Word(f"initialise.run={parent.id}", point.origin))
        files = [word for word in words if word.is_file]
        files += [Word(file, Origin(file), is_file=True) for file in self.additions.files]
        sets = [word for word in words if not word.is_file]
        sets += [Word(text, ASSIGNED) for text in self.additions.assignments]
        labels = {label_name(axis): of for axis, of in point.labels.items() if axis != SEED}
        if labels:
            sets.append(Word(f"labels={flow_mapping(labels)}", point.origin))
        layer = plugins.activate(self._layer([self.sweep.config, *files], sets))
        planned = {} if parent is None else {parent.id: parent.identified.resolved}
        with located(layer):
            config = self._validate(layer)
            identified = identify(config, self.results, self.warn, planned)
        arguments = ["-config", self.sweep.config.text]
        arguments += ["-additional_configs", *(f.text for f in files)] if files else []
        arguments += ["-set", *(s.text for s in sets)] if sets else []
        return PlannedRun(
            point,
            identified,
            (*arguments, *self.additions.options),
            RunFolder(self.results / "runs" / identified.id),
            None if parent is None else parent.id,
        )

    def _layer(self, files: Sequence[Word], sets: Sequence[Word]) -> Layer:
        problems: list[Problem] = []
        layers = [collect(partial(self._read, file.text), problems) for file in files]
        typed = [
            collect(partial(parse_assignment, word.text, word.origin), problems) for word in sets
        ]
        if problems:
            raise ConfigError(problems)
        merged = reduce(merge, filter(None, layers), Layer.of(DEFAULTS))
        return assign(merged, filter(None, typed))


def label_name(axis: str) -> str:
    """What the database calls an axis: a key without its dots, which no configuration holds."""
    return axis.replace(".", " ")


def flow_mapping(values: Mapping[str, str]) -> str:
    """A mapping of texts in one line of YAML."""
    return "{" + ", ".join(f"{flow(key)}: {flow(value)}" for key, value in values.items()) + "}"


def _read(path: str) -> Layer:
    """A file, or the files of a folder."""
    return reduce(merge, [read_file(file) for file in files_of(Path(path))])
