"""Configuration in layers: defaults < ``-config`` < ``-additional_configs`` < ``-set``.

Mappings merge deeply; scalars and lists replace. A mapping with another ``name`` is another
component and replaces its whole node, so that planar's keys do not leak into hvae. Every value
remembers where it came from. What the sections mean is no business of this module: see
``utils.validation``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from utils.sources import (
    ASSIGNED,
    DEFAULT,
    ConfigError,
    KeyPath,
    Origin,
    Parsed,
    Problem,
    parse,
    show_path,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """Plain nested data, the origin of every value in it, and its sources in reading order."""

    data: Mapping[str, Any]
    origins: Mapping[KeyPath, Origin]
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any], origin: Origin = DEFAULT) -> Layer:
        """A layer whose values all have one origin."""
        origins = dict.fromkeys(_paths(data, ()), origin)
        return cls(data, origins, (origin.source,))


class Assignment(NamedTuple):
    """One ``-set key.path=value``: the path of its keys, and its value as a layer."""

    keys: tuple[str, ...]
    layer: Layer


def load(
    config: str | Path | None,
    additional: Iterable[str | Path] = (),
    assignments: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Layer:
    """Merge defaults, a file, additional files (a folder: its ``*.yaml`` by name) and ``-set``.

    Raises ConfigError with the problems of all files and assignments at once.
    """
    problems: list[Problem] = []
    paths = [] if config is None else [Path(config)]
    for path in map(Path, additional):
        paths += _collect(partial(_files, path), problems) or []
    files = [_collect(partial(read_file, path), problems) for path in paths]
    sets = [_collect(partial(parse_assignment, text), problems) for text in assignments]
    if problems:
        raise ConfigError(problems)
    merged = reduce(merge, filter(None, files), Layer.of(defaults or {}))
    for assignment in filter(None, sets):
        if _through_list(merged.data, assignment.keys):
            problems.append(Problem(ASSIGNED, f"{show_path(assignment.keys)}: {_NO_ELEMENTS}"))
        else:
            merged = merge(merged, assignment.layer)
    if problems:
        raise ConfigError(problems)
    return merged


def merge(lower: Layer, upper: Layer) -> Layer:
    """``upper`` over ``lower``.

    A value's origin is the last layer that set it; a mapping's is the first that wrote it (after
    the defaults), which is where a person looks for a key that it lacks. A ``name`` at the top
    level is a value like others: the top level is no component.
    """
    origins: dict[KeyPath, Origin] = {}

    def keep(layer: Layer, value: Any, path: KeyPath) -> Any:
        origins.update((inner, layer.origins[inner]) for inner in _paths(value, path))
        return value

    def combine(below: Mapping[str, Any], above: Mapping[str, Any], path: KeyPath) -> Any:
        older = lower.origins[path]
        origins[path] = upper.origins[path] if older == DEFAULT else older
        result: dict[str, Any] = {}
        for key in [*below, *(key for key in above if key not in below)]:
            inner = (*path, key)
            if key not in above:
                result[key] = keep(lower, below[key], inner)
            elif key in below and _deep(below[key], above[key]):
                result[key] = combine(below[key], above[key], inner)
            else:
                result[key] = keep(upper, above[key], inner)
        return result

    data = combine(lower.data, upper.data, ())
    sources = tuple(dict.fromkeys((*lower.sources, *upper.sources)))
    return Layer(data, origins, sources)


def read_file(path: str | Path) -> Layer:
    """Read a YAML file and, below its own content, the files that it includes.

    Raises ConfigError with the problems of this file and of all that it includes.
    """
    return _read(Path(path), ())


def parse_assignment(text: str) -> Assignment:
    """Parse ``key.path=value``; the value is YAML, so 0, false, null, lists and mappings count.

    An empty value is refused rather than read as null: it is what an unset shell variable gives.

    Raises ConfigError: no ``=``, an empty key, an index, an empty value, bad YAML.
    """
    key, equals, value = text.partition("=")
    keys = tuple(key.split("."))
    if not equals:
        raise _wrong(ASSIGNED, f"{text!r} has no `=`; write -set key.path=value")
    if not all(part.strip() == part != "" for part in keys):
        raise _wrong(ASSIGNED, f"{text!r} has an empty key; write -set key.path=value")
    if "[" in key:
        raise _wrong(ASSIGNED, f"`{key}`: {_NO_ELEMENTS}")
    try:
        parsed = parse(value, ASSIGNED)
    except ConfigError as error:
        raise ConfigError([Problem(o, f"`{key}`: {m}") for o, m in error.problems]) from None
    if parsed is None:
        raise _wrong(ASSIGNED, f"`{key}` has an empty value; write `{key}=null` or `{key}=''`")
    data = reduce(lambda inner, part: {part: inner}, reversed(keys), parsed.value)
    return Assignment(keys, Layer.of(data, ASSIGNED))


_NO_ELEMENTS = "elements of a list cannot be set one by one; set the whole list, `key=[...]`"


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of ``value`` and of everything inside it."""
    yield path
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))


def _deep(below: Any, above: Any) -> bool:
    """Whether two values merge key by key: two mappings that do not name two components."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return False
    return "name" not in above or "name" not in below or above["name"] == below["name"]


def _through_list(value: Any, keys: tuple[str, ...]) -> bool:
    """Whether ``keys`` lead to an element of a list in ``value``."""
    for key in keys:
        if isinstance(value, (list, tuple)):
            return True
        value = value.get(key) if isinstance(value, Mapping) else None
    return False


def _collect(read: Callable[[], T], problems: list[Problem]) -> T | None:
    """What ``read`` returns; or None, with its problems added to ``problems``."""
    try:
        return read()
    except ConfigError as error:
        problems += error.problems
        return None


def _files(path: Path) -> list[Path]:
    if not os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises where it may not look)
        return [path]
    if files := sorted(file for file in path.glob("*.yaml") if not file.name.startswith(".")):
        return files
    raise _wrong(_named(path), "this folder holds no *.yaml files")


def _read(path: Path, outer: tuple[Path, ...], place: Origin | None = None) -> Layer:
    """Read a file that ``outer``, one inside the other, include; the last does at ``place``."""
    parsed = _parse_file(path, place)
    problems: list[Problem] = []
    layers = []
    for index, name in enumerate(_includes(parsed)):
        line = parsed.origins.get(("include", index), parsed.origins["include",])
        included = partial(_include, path.parent / name, (*outer, path), line)
        layers.append(_collect(included, problems))
    if problems:
        raise ConfigError(problems)
    own = _without_include(parsed, path)
    merged = reduce(merge, [*filter(None, layers), own])
    return replace(merged, origins={**merged.origins, (): own.origins[()]})


def _include(path: Path, outer: tuple[Path, ...], place: Origin) -> Layer:
    files = [os.path.realpath(file) for file in (*outer, path)]
    first = files.index(files[-1])
    if first < len(outer):
        circle = " -> ".join(str(_named(file)) for file in (*outer[first:], path))
        raise _wrong(place, f"`include`: files include each other in a circle: {circle}")
    return _read(path, outer, place)


def _parse_file(path: Path, place: Origin | None) -> Parsed:
    origin = _named(path)
    parsed = parse(_text(path, place), origin._replace(line=1))
    if parsed is None:
        raise _wrong(origin, "the file is empty; a mapping (`key: value`) is expected")
    if not isinstance(parsed.value, dict):
        kind = "list" if isinstance(parsed.value, list) else "single value"
        raise _wrong(parsed.origins[()], f"a mapping (`key: value`) is expected; got a {kind}")
    return parsed


def _text(path: Path, place: Origin | None) -> str:
    """The text of a file; what hinders is reported at ``place``, the line that asks for it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        reason = "no such file"
    except IsADirectoryError:
        reason = "this is a folder; a YAML file is expected"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text (byte {error.start})"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    if place is None:
        raise _wrong(_named(path), reason)
    raise _wrong(place, f"`include`: {_named(path)}: {reason}")


def _includes(parsed: Parsed) -> list[str]:
    value = parsed.value.get("include", [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        place = parsed.origins["include",]
        raise _wrong(place, "`include` must be a path or a list of paths, relative to this file")
    return names


def _without_include(parsed: Parsed, path: Path) -> Layer:
    data = {key: value for key, value in parsed.value.items() if key != "include"}
    origins = {inner: parsed.origins[inner] for inner in _paths(data, ())}
    return Layer(data, origins, (_named(path).source,))


def _named(path: Path) -> Origin:
    return Origin(os.path.normpath(path))


def _wrong(origin: Origin, message: str) -> ConfigError:
    return ConfigError([Problem(origin, message)])
