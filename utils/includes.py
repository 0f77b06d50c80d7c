"""YAML files of a configuration, each with the files that it includes."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

from utils.layers import Layer, merge, paths
from utils.sources import ConfigError, Origin, Parsed, Problem, collect, parse, wrong


def read_file(path: str | Path) -> Layer:
    """Read a YAML file and, below its own content, the files that it includes.

    Raises ConfigError with the problems of this file and of all that it includes.
    """
    return _read(Path(path), ())


def files_of(path: Path) -> list[Path]:
    """The file, or the ``*.yaml`` of a folder by name. Raises ConfigError where it has none."""
    if not os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises where it may not look)
        return [path]
    if files := sorted(file for file in path.glob("*.yaml") if not file.name.startswith(".")):
        return files
    raise wrong(_named(path), "this folder holds no *.yaml files")


def _read(path: Path, outer: tuple[Path, ...], place: Origin | None = None) -> Layer:
    """Read a file that ``outer``, one inside the other, include; the last does at ``place``."""
    parsed = _parse_file(path, place)
    problems: list[Problem] = []
    layers = []
    for index, name in enumerate(_includes(parsed)):
        line = parsed.origins.get(("include", index), parsed.origins["include",])
        included = partial(_include, path.parent / name, (*outer, path), line)
        layers.append(collect(included, problems))
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
        raise wrong(place, f"`include`: files include each other in a circle: {circle}")
    return _read(path, outer, place)


def _parse_file(path: Path, place: Origin | None) -> Parsed:
    origin = _named(path)
    parsed = parse(_text(path, place), origin._replace(line=1))
    if parsed is None:
        raise wrong(origin, "the file is empty; a mapping (`key: value`) is expected")
    if not isinstance(parsed.value, dict):
        kind = "list" if isinstance(parsed.value, list) else "single value"
        raise wrong(parsed.origins[()], f"a mapping (`key: value`) is expected; got a {kind}")
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
        raise wrong(_named(path), reason)
    raise wrong(place, f"`include`: {_named(path)}: {reason}")


def _includes(parsed: Parsed) -> list[str]:
    value = parsed.value.get("include", [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        place = parsed.origins["include",]
        raise wrong(place, "`include` must be a path or a list of paths, relative to this file")
    return names


def _without_include(parsed: Parsed, path: Path) -> Layer:
    data = {key: value for key, value in parsed.value.items() if key != "include"}
    origins = {inner: parsed.origins[inner] for inner in paths(data, ())}
    return Layer(data, origins, (_named(path).source,))


def _named(path: Path) -> Origin:
    return Origin(os.path.normpath(path))
