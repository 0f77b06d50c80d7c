"""``-set key.path=value``: single values over everything else.

What is typed arrives, whatever the order: an assignment to a whole comes before one to its part,
and a component's ``name`` before its options, so that ``posterior.num_layers=9
posterior.name=iaf`` is an IAF of nine layers. Of two assignments to the same key the later one
counts. ``list[0]`` is an element, ``list+=[...]`` appends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import yaml

from utils.config.layers import Elements, Layer, merge, value_at
from utils.config.sources import (
    ASSIGNED,
    ConfigError,
    KeyPath,
    Origin,
    Problem,
    collect,
    parse,
    read_path,
    show_path,
    wrong,
)


class Assignment(NamedTuple):
    """One ``-set key.path=value``, or ``key.path+=[...]`` where it ``appends``."""

    keys: KeyPath
    value: Any
    appends: bool = False
    origin: Origin = ASSIGNED

    @property
    def rank(self) -> tuple[int, bool, bool]:
        """Its place in order: wholes before their parts, names before options."""
        return len(self.keys), self.appends, self.keys[-1] != "name"


_KEY = re.compile(r"[^\s\[\].=]+(\[\d+\])*")


def parse_assignment(text: str, origin: Origin = ASSIGNED) -> Assignment:
    """Parse ``key.path=value``; the value is YAML, so 0, false, null, lists and mappings count.

    An empty value is refused rather than read as null: it is what an unset shell variable gives.
    So is a comment, which would cut ``run #5`` short.

    Raises ConfigError: no ``=``, an empty key, an odd index, an empty value, bad YAML.
    """
    key, equals, value = text.partition("=")
    shown = text if len(text) < _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
    if not equals:
        raise wrong(origin, f"{shown!r} has no `=`; write -set key.path=value")
    appends, key = key.endswith("+"), key.removesuffix("+")
    parts = key.split(".")
    if not all(part.strip() == part != "" for part in parts):
        raise wrong(origin, f"{shown!r} has an empty key; write -set key.path=value")
    if not all(map(_KEY.fullmatch, parts)) or not key.isprintable():
        raise wrong(origin, f"{shown!r}: write -set key.path=value, or list[0].key=value")
    try:
        parsed = parse(value, origin)
        _refuse_comments(key, value, origin)
    except ConfigError as error:
        raise ConfigError([Problem(o, f"`{key}`: {m}") for o, m in error.problems]) from None
    if parsed is None:
        raise wrong(origin, f"`{key}` has an empty value; write `{key}=null` or `{key}=''`")
    if appends and not isinstance(parsed.value, list):
        raise wrong(origin, f"`{key}+=` appends a list; write `{key}+=[...]`")
    return Assignment(read_path(key), parsed.value, appends, origin)


_MAX_SHOWN = 60  # characters of a bad word


def _refuse_comments(key: str, value: str, origin: Origin) -> None:
    """Raise ConfigError where a `#` stands outside of all that YAML reads."""
    spans = [(token.start_mark.index, token.end_mark.index) for token in yaml.scan(value)]
    for match in re.finditer("#", value):
        if not any(start <= match.start() < end for start, end in spans):
            quoted = f"'{key}=\"{value[:_MAX_SHOWN]}\"'"
            raise wrong(origin, f"`#` begins a comment in YAML; put the value in quotes, {quoted}")


def assign(layer: Layer, assignments: Iterable[Assignment]) -> Layer:
    """The layer with all assignments over it.

    Raises ConfigError: no such list or element, a value that another assignment undoes.
    """
    typed = list(assignments)
    problems: list[Problem] = []
    leaves: dict[int, Mapping[KeyPath, Any]] = {}
    for number in sorted(range(len(typed)), key=lambda number: typed[number].rank):
        data = collect(partial(_nested, typed[number], layer.data), problems)
        if data is not None:
            layer = merge(layer, Layer.of(data, typed[number].origin))
            leaves[number] = dict(_leaves(data, ()))
    undone = dict.fromkeys(
        Problem(typed[number].origin, f"{show_path(path)}: {_UNDONE}")
        for number, values in leaves.items()
        for path, value in values.items()
        if value_at(layer.data, path) != value and not _is_said_again(path, number, typed)
    )
    problems += undone
    if problems:
        raise ConfigError(problems)
    return layer


_UNDONE = "another assignment of -set undoes this one; leave one of them out"


def _nested(assignment: Assignment, data: Mapping[str, Any]) -> dict[str, Any]:
    """What the assignment says of ``data``, as data of the same structure."""

    def nest(depth: int, current: Any) -> Any:
        if depth == len(keys):
            if not assignment.appends:
                return assignment.value
            start = len(_list_at(assignment, keys, current))
            return Elements(enumerate(assignment.value, start))
        key = keys[depth]
        if isinstance(key, int):
            elements = _list_at(assignment, keys[:depth], current)
            if key >= len(elements):
                shown = show_path(keys[: depth + 1])
                reason = f"{shown}: the list has {len(elements)} elements, from [0]"
                raise wrong(assignment.origin, reason)
            return Elements({key: nest(depth + 1, elements[key])})
        if isinstance(current, (list, tuple)):
            shown = show_path(keys[:depth])
            reason = f"{shown} is a list; name an element, as in {shown[:-1]}[0]`"
            raise wrong(assignment.origin, reason)
        inner = current.get(key) if isinstance(current, Mapping) else None
        return {key: nest(depth + 1, inner)}

    keys = assignment.keys
    nested: dict[str, Any] = nest(0, data)
    return nested


def _list_at(assignment: Assignment, keys: KeyPath, value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    shown = show_path(keys)
    reason = f"{shown} is no list so far; set it whole, {shown[:-1]}=[...]`"
    raise wrong(assignment.origin, reason)


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """The values inside ``value`` that hold no others, each with its path."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        items = ()
        yield path, value
    for key, item in items:
        yield from _leaves(item, (*path, key))


def _is_said_again(path: KeyPath, number: int, typed: Sequence[Assignment]) -> bool:
    """Whether a later assignment sets ``path`` anew, to the same key or to one within it."""
    own = typed[number].keys
    return any(
        later.keys[: len(own)] == own and path[: len(later.keys)] == later.keys
        for later in typed[number + 1 :]
    )
