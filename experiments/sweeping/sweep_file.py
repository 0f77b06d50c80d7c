"""The file of a sweep: which configurations all runs share, what varies, what follows.

Paths are relative to the file that names them, also where that file is included by another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from experiments.sweeping.points import Axis, Choice, Excluded, Stage, Word, exclusion_problems
from utils.config.assignments import parse_assignment
from utils.config.includes import read_file
from utils.config.layers import Layer
from utils.config.sources import ConfigError, KeyPath, Problem, collect, flow, show_path
from utils.config.validation import validate
from utils.types import check_label

MAX_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Varied:
    """Configurations, and what varies over them; ``grid`` and ``zip`` map an axis to choices.

    An axis is a list of values of the key that it is called by, a list of files or a pattern of
    files (``../posterior/*.yaml``), or a mapping of labels to files and assignments.
    """

    additional_configs: list[str] = field(default_factory=list)
    set: list[str] = field(default_factory=list)
    grid: dict[str, Any] = field(default_factory=dict)
    """Every choice of an axis with every choice of the others; the first varies slowest."""
    zip: dict[str, Any] = field(default_factory=dict)
    """Axes of equal length that advance together."""
    exclude: list[Annotated[dict[str, Any], MinLen(1)]] = field(default_factory=list)
    """Points that are left out: choices by axis, a list for any of them."""
    from_each: Varied | None = None
    """Runs that start from the weights of each run above, with its settings and these."""


@dataclass(frozen=True, kw_only=True)
class SweepFile(Varied):
    """The whole file."""

    config: str
    seeds: int | str | list[int | str] | None = None
    """3, ``0-4``, or a list of such; null: the seed of the configuration."""
    then: list[str] = field(default_factory=list)
    """Commands of plot_from_db.py at the end; ``{results}`` in them is the results folder."""
    slurm: dict[str, str | int] = field(default_factory=dict)
    """Long options of sbatch, such as ``time: 4:00:00``."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file says."""

    name: str
    config: Word
    stage: Stage
    then: Sequence[str] = ()
    slurm: Mapping[str, str | int] = field(default_factory=dict)


def read(path: str | Path) -> Sweep:
    """Read the file. Raises ConfigError with all that is wrong with it."""
    layer = read_file(path, dotted=True)
    return _Reader(layer).sweep(validate(SweepFile, layer), Path(path))


class _Reader:
    """Turns a validated file into axes, and gathers what is still wrong with it."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._problems: list[Problem] = []

    def sweep(self, file: SweepFile, path: Path) -> Sweep:
        config = self._file(file.config, ("config",))
        if Path(config.text).is_dir():
            self._wrong(("config",), f"{config.text} is a folder; a YAML file is expected")
        groups = [(self._seeds(file.seeds),)] if file.seeds is not None else []
        stage = self._stage(file, (), groups)
        self._check_names(stage, [])
        self._problems += exclusion_problems(stage)
        if self._problems:
            raise ConfigError(self._problems)
        name = path.parent.name if path.stem == "sweep" and path.parent.name else path.stem
        return Sweep(name, config, stage, file.then, file.slurm)

    def _stage(self, given: Varied, path: KeyPath, groups: Sequence[tuple[Axis, ...]]) -> Stage:
        words = [
            *self._words(given.additional_configs, (*path, "additional_configs"), self._file),
            *self._words(given.set, (*path, "set"), self._assignment),
        ]
        zipped = [self._axis(*item, (*path, "zip")) for item in given.zip.items()]
        grid = [self._axis(*item, (*path, "grid")) for item in given.grid.items()]
        groups = [*groups, *([tuple(zipped)] if zipped else []), *((axis,) for axis in grid)]
        excluded = [
            Excluded(
                {name: _labels(choices) for name, choices in rule.items()},
                self._layer.origin((*path, "exclude", index)),
            )
            for index, rule in enumerate(given.exclude)
        ]
        following = None
        if given.from_each is not None:
            following = self._stage(given.from_each, (*path, "from_each"), [])
        origin = self._layer.origin((*path, "from_each")) if path else self._layer.origin(path)
        return Stage(tuple(words), tuple(groups), tuple(excluded), following, origin)

    def _axis(self, name: str, given: Any, place: KeyPath) -> Axis:
        path = (*place, name)
        choices, is_key = [], False
        if isinstance(given, str):
            choices = list(self._matching(given, path))
        elif isinstance(given, Mapping):
            choices = [self._choice(label, of, (*path, label)) for label, of in given.items()]
        elif isinstance(given, list) and given and all(map(_is_yaml, given)):
            files = self._words(given, path, self._file)
            choices = [Choice(Path(file.text).stem, (file,)) for file in files]
        elif isinstance(given, list):
            is_key = True
            choices = [
                Choice(label_of(value), (Word(f"{name}={flow(value)}", self._origin(path, i)),))
                for i, value in enumerate(given)
            ]
        else:
            self._wrong(path, f"{show_path(path)}: {_AXIS}")
        if not choices and given in ([], {}):
            self._wrong(
                path, f"{show_path(path)} is empty: leave the axis out, or give it choices"
            )
        labels = [choice.label for choice in choices]
        for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
            self._wrong(path, f"{show_path(path)}: {label!r} stands there twice")
        for label in (name, *labels):
            try:
                check_label(label)
            except ValueError as error:
                self._wrong(path, f"{show_path(path)}: {error}")
        return Axis(name, tuple(choices), is_key, self._layer.origin(path))

    def _choice(self, label: str, given: Any, path: KeyPath) -> Choice:
        words = [given] if isinstance(given, str) else [] if given is None else given
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            self._wrong(
                path,
                f"{show_path(path)} must be a file, an assignment such as seed=3, or a list of "
                "such; [] for none",
            )
            words = []
        return Choice(
            label,
            tuple(
                self._file(word, place)
                if self._is_file(word, place)
                else self._assignment(word, place)
                for word, place in ((w, (*path, i)) for i, w in enumerate(words))
            ),
        )

    def _matching(self, pattern: str, path: KeyPath) -> Iterator[Choice]:
        where = Path(self._resolved(pattern, path))
        files = sorted(where.parent.glob(where.name))
        if not files:
            self._wrong(path, f"{show_path(path)}: no file is like {pattern}")
        for file in files:
            yield Choice(file.stem, (Word(str(file), self._layer.origin(path), is_file=True),))

    def _words(self, texts: Sequence[str], path: KeyPath, make: Any) -> list[Word]:
        return [make(text, (*path, index)) for index, text in enumerate(texts)]

    def _is_file(self, text: str, path: KeyPath) -> bool:
        """Whether it is no assignment: a file's name may hold ``=``, too."""
        file = self._resolved(text, path)
        return "=" not in text or os.path.exists(file)  # noqa: PTH110 (raises on long texts)

    def _file(self, text: str, path: KeyPath) -> Word:
        file = self._resolved(text, path)
        if not Path(file).exists():
            self._wrong(path, f"no such file: {file}")
        return Word(file, self._layer.origin(path), is_file=True)

    def _assignment(self, text: str, path: KeyPath) -> Word:
        origin = self._layer.origin(path)
        collect(partial(parse_assignment, text, origin), self._problems)
        return Word(text, origin)

    def _resolved(self, text: str, path: KeyPath) -> str:
        source = self._layer.origin(path).source
        return os.path.normpath(Path(source).parent / text)

    def _seeds(self, given: int | str | Sequence[int | str]) -> Axis:
        path: KeyPath = ("seeds",)
        texts = given if isinstance(given, list) else [given]
        seeds: list[int] = []
        for text in map(str, texts):
            try:
                seeds += seed_range(text)
            except ValueError as error:
                self._wrong(path, f"`seeds`: {error}")
        if not texts:
            self._wrong(path, "`seeds` is empty: leave it out, or give it seeds")
        origin = self._layer.origin(path)
        choices = (Choice(str(n), (Word(f"seed={n}", origin),)) for n in dict.fromkeys(seeds))
        return Axis("seed", tuple(choices), True, origin)

    def _check_names(self, stage: Stage, known: list[str]) -> None:
        """An axis has one place."""
        for axis in stage.axes:
            if axis.name in known:
                self._problems.append(Problem(axis.origin, f"`{axis.name}` is an axis already"))
            known.append(axis.name)
        if stage.following is not None:
            self._check_names(stage.following, known)

    def _origin(self, path: KeyPath, index: int) -> Any:
        return self._layer.origin((*path, index))

    def _wrong(self, path: KeyPath, message: str) -> None:
        self._problems.append(Problem(self._layer.origin(path), message))


_AXIS = (
    "an axis is a list of values, a list of files, a pattern such as ../posterior/*.yaml, or a "
    "mapping of labels to files and assignments"
)


def label_of(value: Any) -> str:
    """What a value is called on its axis: as a person writes it, without outer brackets."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {label_of(of)}" for key, of in value.items()) or "none"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return flow(value).strip("[]{}") or "none"


def _labels(choices: Any) -> tuple[str, ...]:
    return tuple(map(label_of, choices if isinstance(choices, list) else [choices]))


def _is_yaml(item: Any) -> bool:
    return isinstance(item, str) and item.endswith((".yaml", ".yml"))


def seed_range(text: str) -> range:
    """The seeds of ``3`` or ``0-4``. Raises ValueError where it is neither."""
    found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    if found is None or not 0 <= int(found[2] or found[1]) - int(found[1]) < MAX_SEEDS:
        raise ValueError(f"seeds are like 3, 0-4 or [0, 2, 5-9]; got {text[:40]!r}")
    return range(int(found[1]), int(found[2] or found[1]) + 1)
