"""YAML files of a configuration, each with the files that it includes."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

from utils.config.layers import Layer, merge, paths
from utils.config.sources import (
    MAX_SIZE,
    ConfigError,
    Origin,
    Parsed,
    Problem,
    collect,
    parse,
    wrong,
)

ROOT = Path(__file__).resolve().parents[2]
MAX_FILES = 50
"""How many files one file may include, all levels together."""


def read_file(path: str | Path, dotted: bool = False) -> Layer:
    """Read a YAML file and, below its own content, the files that it includes.

    ``dotted`` allows keys that hold a dot. Raises ConfigError with the problems of this file and
    of all that it includes.
    """
    return _Reader(dotted).read(Path(path))


def files_of(path: Path) -> list[Path]:
    """The file, or the ``*.yaml`` of a folder by name. Raises ConfigError where it has none."""
    if not os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises where it may not look)
        return [path]
    if files := sorted(file for file in path.glob("*.yaml") if not file.name.startswith(".")):
        return files
    raise wrong(_named(path), "this folder holds no *.yaml files")


class _Reader:
    """Reads files that may include one another, each once, however often it is included."""

    def __init__(self, dotted: bool) -> None:
        self._dotted = dotted
        self._done: dict[str, Layer | ConfigError] = {}
        self._open: list[Path] = []

    def read(self, path: Path, place: Origin | None = None) -> Layer:
        """Read a file, which is included at ``place``."""
        parsed = _parse_file(path, place, self._dotted)
        problems: list[Problem] = []
        layers = []
        self._open.append(path)
        for index, name in enumerate(_includes(parsed)):
            line = parsed.origins.get(("include", index), parsed.origins["include",])
            layers.append(collect(partial(self._include, path.parent / name, line), problems))
        self._open.pop()
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        own = _without_include(parsed, path)
        merged = reduce(merge, [*filter(None, layers), own])
        return replace(merged, origins={**merged.origins, (): own.origins[()]})

    def _include(self, path: Path, place: Origin) -> Layer:
        files = [os.path.realpath(file) for file in (*self._open, path)]
        file, first = files[-1], files.index(files[-1])
        if first < len(self._open):
            circle = " -> ".join(str(_named(file)) for file in (*self._open[first:], path))
            raise wrong(place, f"`include`: files include each other in a circle: {circle}")
        if file not in self._done:
            if len(self._done) + len(self._open) > MAX_FILES:
                raise wrong(place, f"`include`: more than {MAX_FILES} files")
            if not _may_include(self._open[-1], Path(file)):
                raise wrong(
                    place,
                    f"`include`: {_named(self._open[-1])} belongs to another user and asks for a "
                    f"file outside its folder and the project: {_named(path)}; copy what you "
                    "trust into a file of your own",
                )
            try:
                self._done[file] = self.read(path, place)
            except ConfigError as error:
                self._done[file] = error
        return _settled(self._done[file])


def _may_include(including: Path, included: Path) -> bool:
    """Whether a file may ask for another: somebody else's file must not point at private ones."""
    own = including.stat().st_uid == os.geteuid()
    near = (including.resolve().parent, ROOT)
    return own or any(included.is_relative_to(folder) for folder in near)


def _settled(outcome: Layer | ConfigError) -> Layer:
    if isinstance(outcome, ConfigError):
        raise outcome
    return outcome


def _parse_file(path: Path, place: Origin | None, dotted: bool) -> Parsed:
    origin = _named(path)
    parsed = parse(_text(path, place), origin._replace(line=1), dotted)
    if parsed is None:
        raise wrong(origin, "the file is empty; a mapping (`key: value`) is expected")
    if not isinstance(parsed.value, dict):
        kind = "list" if isinstance(parsed.value, list) else "single value"
        raise wrong(parsed.origins[()], f"a mapping (`key: value`) is expected; got a {kind}")
    return parsed


def _text(path: Path, place: Origin | None) -> str:
    """The text of a file; what hinders is reported at ``place``, the line that asks for it."""
    try:
        return _content(path).decode("utf-8-sig")
    except FileNotFoundError:
        reason = "no such file"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text (byte {error.start})"
    except _NoTextError as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    if place is None:
        raise wrong(_named(path), reason)
    raise wrong(place, f"`include`: {_named(path)}: {reason}")


class _NoTextError(Exception):
    """What is no YAML file by its kind or size."""


def _content(path: Path) -> bytes:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise _NoTextError("this is a folder; a YAML file is expected")
    if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
        raise _NoTextError("this is not a regular file; a YAML file is expected")
    with path.open("rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise _NoTextError(f"larger than {MAX_SIZE:,} bytes; no configuration needs as many")
    return content


def _includes(parsed: Parsed) -> list[str]:
    value = parsed.value.get("include", [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(map(_is_path, names)):
        place = parsed.origins["include",]
        raise wrong(place, "`include` must be a path or a list of paths, relative to this file")
    return names


def _is_path(name: object) -> bool:
    return isinstance(name, str) and name != "" and name.isprintable()


def _without_include(parsed: Parsed, path: Path) -> Layer:
    data = {key: value for key, value in parsed.value.items() if key != "include"}
    origins = {inner: parsed.origins[inner] for inner in paths(data, ())}
    return Layer(data, origins, (_named(path).source,))


def _named(path: Path) -> Origin:
    return Origin(os.path.normpath(path))
