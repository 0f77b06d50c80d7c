"""The points of a sweep: one choice on every axis, less what is excluded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import NamedTuple

from utils.cli import did_you_mean
from utils.config.sources import ConfigError, Origin, Problem, wrong

VARY = Origin("--vary")
MAX_POINTS = 100_000
"""More fill the memory long before anything is said of them."""


class Word(NamedTuple):
    """A file or an assignment ``key=value`` of main.py, with where it is written.

    What is no file belongs after ``-set``; a file's path may hold ``=``, too.
    """

    text: str
    origin: Origin
    is_file: bool = False


class Choice(NamedTuple):
    """One value of an axis: what it is called, and what it adds to the command."""

    label: str
    words: tuple[Word, ...]


class Axis(NamedTuple):
    """What varies; ``is_key`` where its choices are values of the key that it is called by."""

    name: str
    choices: tuple[Choice, ...]
    is_key: bool
    origin: Origin


class Excluded(NamedTuple):
    """Points with one of these labels on every axis named are left out."""

    labels: Mapping[str, Collection[str]]
    origin: Origin

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a point of these ``labels`` is left out."""
        return all(labels[axis] in choices for axis, choices in self.labels.items())


@dataclass(frozen=True)
class Stage:
    """What a run of a sweep is made of, and the runs that start from its weights.

    The axes of one group advance together; the first group varies slowest.
    """

    words: tuple[Word, ...]
    groups: tuple[tuple[Axis, ...], ...]
    excluded: tuple[Excluded, ...]
    following: Stage | None
    origin: Origin

    @property
    def axes(self) -> Iterator[Axis]:
        """Of this stage alone."""
        return (axis for group in self.groups for axis in group)


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its words in the order of the command line, and its labels by axis.

    ``parent`` is the point from whose weights it starts.
    """

    words: tuple[Word, ...]
    labels: Mapping[str, str]
    origin: Origin
    parent: Point | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return ", ".join(f"{axis}={label}" for axis, label in self.labels.items())


def expand(stage: Stage) -> list[Point]:
    """All points, each before those that start from it.

    Raises ConfigError where axes of a group are not equally long, or points are too many.
    """
    problems = list(_unequal(stage))
    if problems:
        raise ConfigError(problems)
    points = list(islice(_points(stage, None), MAX_POINTS + 1))
    if len(points) > MAX_POINTS:
        lengths = " x ".join(str(len(axis.choices)) for axis in _all_axes(stage))
        raise wrong(stage.origin, f"more than {MAX_POINTS:,} points ({lengths}); leave some out")
    return points


def _points(stage: Stage, parent: Point | None) -> Iterator[Point]:
    together = [
        list(zip(*(axis.choices for axis in group), strict=True)) for group in stage.groups
    ]
    names = [axis.name for axis in stage.axes]
    for chosen in product(*together):
        choices = [choice for group in chosen for choice in group]
        labels = dict(zip(names, (choice.label for choice in choices), strict=True))
        words = (*stage.words, *(word for choice in choices for word in choice.words))
        if parent is not None:
            labels, words = {**parent.labels, **labels}, (*parent.words, *words)
        if any(rule.holds(labels) for rule in stage.excluded):
            continue
        point = Point(words, labels, stage.origin, parent)
        yield point
        if stage.following is not None:
            yield from _points(stage.following, point)


def _unequal(stage: Stage) -> Iterator[Problem]:
    for group in stage.groups:
        lengths = {axis.name: len(axis.choices) for axis in group}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            yield Problem(
                group[0].origin, f"`zip`: axes that advance together are equally long; {shown}"
            )
    if stage.following is not None:
        yield from _unequal(stage.following)


def exclusion_problems(stage: Stage, above: Mapping[str, Axis] | None = None) -> Iterator[Problem]:
    """What is excluded and is not there; ``above`` are the axes of earlier stages."""
    axes = {**(above or {}), **{axis.name: axis for axis in stage.axes}}
    for rule in stage.excluded:
        for name, labels in rule.labels.items():
            if name not in axes:
                reason = f"no axis {name!r}{did_you_mean(name, axes)}"
                yield Problem(rule.origin, f"`exclude`: {reason}")
                continue
            known = [choice.label for choice in axes[name].choices]
            for label in (label for label in labels if label not in known):
                reason = f"{name} has no {label!r}{did_you_mean(label, known)}"
                yield Problem(rule.origin, f"`exclude`: {reason}")
    if stage.following is not None:
        yield from exclusion_problems(stage.following, axes)


def vary(stage: Stage, wanted: Mapping[str, Sequence[str]]) -> Stage:
    """The stage with other choices on some axes, by name: labels, or values where it is a key.

    Raises ConfigError for an axis or a label that is not there.
    """
    problems: list[Problem] = []
    unknown = dict(wanted)
    varied = _varied(stage, wanted, unknown, problems)
    names = [axis.name for axis in _all_axes(stage)]
    for name in unknown:
        reason = f"no axis {name!r}; there are {', '.join(names)}{did_you_mean(name, names)}"
        problems.append(Problem(VARY, reason))
    if problems:
        raise ConfigError(problems)
    return varied


def with_seeds(stage: Stage, seeds: Sequence[int]) -> Stage:
    """The stage with these seeds instead of its own, on an axis that it has or gets."""
    if any(axis.name == "seed" for axis in _all_axes(stage)):
        return vary(stage, {"seed": [str(seed) for seed in seeds]})
    choices = (Choice(str(seed), (Word(f"seed={seed}", VARY),)) for seed in seeds)
    axis = Axis("seed", tuple(choices), True, VARY)
    return replace(stage, groups=((axis,), *stage.groups))


def _varied(
    stage: Stage,
    wanted: Mapping[str, Sequence[str]],
    unknown: dict[str, Sequence[str]],
    problems: list[Problem],
) -> Stage:
    def change(axis: Axis) -> Axis:
        if axis.name not in wanted:
            return axis
        unknown.pop(axis.name, None)
        return axis._replace(choices=tuple(_chosen(axis, wanted[axis.name], problems)))

    groups = tuple(tuple(map(change, group)) for group in stage.groups)
    following = stage.following
    if following is not None:
        following = _varied(following, wanted, unknown, problems)
    return replace(stage, groups=groups, following=following)


def _chosen(axis: Axis, wanted: Sequence[str], problems: list[Problem]) -> Iterator[Choice]:
    known = {choice.label: choice for choice in axis.choices}
    for text in dict.fromkeys(wanted):
        label = text.strip("[]{}") if axis.is_key else text
        if label in known:
            yield known[label]
        elif axis.is_key:
            yield Choice(label, (Word(f"{axis.name}={text}", VARY),))
        else:
            reason = f"{axis.name} has no {label!r}; it has {', '.join(known)}"
            problems.append(Problem(VARY, reason + did_you_mean(label, known)))


def _all_axes(stage: Stage) -> Iterator[Axis]:
    yield from stage.axes
    if stage.following is not None:
        yield from _all_axes(stage.following)
