"""Plugins: components of one's own in files outside the program, named by a configuration.

A plugin is one Python file that registers something, as the files of this program do. It may
import this program and what is installed, not the files beside it: a run keeps a copy of it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.runner.schema import REGISTRIES, Plugin
from utils.config.layers import Layer
from utils.config.sources import ConfigError, KeyPath, Origin, Problem
from utils.registry import Entry, Registry
from utils.startup import describe_failure

SECTION = "plugins"
FOLDER = "plugins"
"""In a run's folder, holds the copies."""


class PluginError(ValueError):
    """A plugin cannot be used; the message says in one line which, why and what to do."""


@dataclass(frozen=True)
class Loaded:
    """An imported plugin: its text, its module, and what it has registered."""

    name: str
    """Of its file."""
    digest: str
    source: bytes
    module: str
    entries: Sequence[tuple[Registry[Any], Entry[Any]]]


_loaded: dict[str, Loaded] = {}
"""All that this process has imported, by digest."""

_active: list[Loaded] = []
"""Those whose components can be named now."""


def activate(layer: Layer) -> Layer:
    """Make the components of the plugins that ``layer`` names available, and of no others.

    A path is relative to the file that it stands in, or to the current folder where it comes from
    the command line. Returns the layer with the path and the digest of each. What is no list of
    paths is left for the validation to refuse. Raises ConfigError with all that is wrong.
    """
    given = layer.data.get(SECTION) or []
    if not isinstance(given, list) or not all(map(_is_plugin, given)):
        return layer
    problems: list[Problem] = []
    chosen: dict[str, str] = {}
    for index, item in enumerate(given):
        origin = layer.origin((SECTION, index, "path"))
        try:
            path = _path_of(item, origin)
            chosen[str(path)] = _checked(path, item)
        except PluginError as error:
            problems.append(Problem(origin, f"`plugins[{index}]`: {error}"))
    names = [Path(path).name for path in chosen]
    problems += [
        Problem(layer.origin((SECTION,)), f"`plugins`: two are called {name}; rename one of them")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise ConfigError(problems)
    try:
        use({digest: Path(path) for path, digest in chosen.items()})
    except PluginError as error:
        raise ConfigError([Problem(layer.origin((SECTION,)), f"`plugins`: {error}")]) from error
    return _with_digests(layer, chosen)


def use(wanted: Mapping[str, Path]) -> None:
    """Register what the plugins hold, by digest, and forget what other plugins have registered.

    Models that were built with one of those keep working. Raises PluginError where one cannot be
    imported, registers nothing, or takes a name that is taken.
    """
    for registry in REGISTRIES.values():
        registry.names()  # first what belongs to the program: a plugin must not take its names
    while _active:
        _forget(_active.pop().entries)
    for digest, path in wanted.items():
        if digest in _loaded:
            _register(_loaded[digest], path)
        else:
            _loaded[digest] = _imported(path, _read(path))
        _active.append(_loaded[digest])


def of_modules(modules: Iterable[str]) -> Iterator[Loaded]:
    """The plugins among these modules."""
    names = set(modules)
    return (plugin for plugin in _loaded.values() if plugin.module in names)


def stored(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration that names the copies in its run's folder, where it will lie."""
    kept = [
        {**plugin, "path": f"{FOLDER}/{Path(plugin['path']).name}"}
        for plugin in plain[SECTION] or []
    ]
    return {**plain, SECTION: kept or None}


def keep_copies(plugins: Sequence[Plugin] | None, folder: Path) -> None:
    """Write the plugins, as they were imported, into a run's folder."""
    for plugin in plugins or ():
        target = folder / FOLDER / Path(plugin.path).name
        target.parent.mkdir(exist_ok=True)
        source = _loaded[str(plugin.digest)].source
        if not target.is_file() or target.read_bytes() != source:  # it may be the only copy
            target.write_bytes(source)


def _is_plugin(item: Any) -> bool:
    path = item.get("path") if isinstance(item, Mapping) else item
    return isinstance(path, str) and path != ""


def _path_of(item: Any, origin: Origin) -> Path:
    """Where a plugin lies that is named at ``origin``.

    Somebody else's configuration must not run code by being looked at: PluginError.
    """
    given = item["path"] if isinstance(item, Mapping) else item
    path = Path(os.path.expanduser(given))  # noqa: PTH111 (Path's raises where there is no home)
    if origin.line is None:  # from the command line
        return Path(os.path.normpath(path.absolute()))
    with suppress(OSError):
        if Path(origin.source).stat().st_uid != os.geteuid():
            raise PluginError(
                f"{origin.source} belongs to another user and asks to run {path}; read that file "
                "and, if you trust it, copy both"
            )
    return Path(os.path.normpath(Path(origin.source).parent.absolute() / path))


def _checked(path: Path, item: Any) -> str:
    """The digest of the plugin at ``path``; PluginError where ``item`` wants another."""
    digest = _digest(_read(path))
    wanted = item.get("digest") if isinstance(item, Mapping) else None
    if wanted is not None and wanted != digest:
        raise PluginError(
            f"{_shown(path)} has changed: its digest is {digest} and the configuration wants "
            f"{wanted}; put that version back, or leave the digest out to use this one"
        )
    return digest


def _read(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe or a device may never end
        state = "is no file" if os.path.lexists(path) else "is not there"
        raise PluginError(f"{_shown(path)} {state}; give the path of a Python file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise PluginError(f"{_shown(path)} cannot be read: {error.strerror}") from error


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]


def _imported(path: Path, source: bytes) -> Loaded:
    """Run a plugin, exactly this text of it, and note what it registers."""
    digest = _digest(source)
    module = ModuleType(f"plumbline_plugin_{digest}")
    module.__file__ = str(path)
    before = _entries()
    sys.modules[module.__name__] = module  # where dataclasses and annotations look for it
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        _forget(_new_since(before))
        del sys.modules[module.__name__]
        raise PluginError(f"it cannot be imported: {describe_failure(error, path)}") from error
    entries = _new_since(before)
    if not entries:
        del sys.modules[module.__name__]
        raise PluginError(
            f"{_shown(path)} registers nothing; decorate a component, as in "
            '@posteriors.register("mine")'
        )
    return Loaded(path.name, digest, source, module.__name__, entries)


def _register(plugin: Loaded, path: Path) -> None:
    done = []
    try:
        for registry, entry in plugin.entries:
            registry.add(entry)
            done.append((registry, entry))
    except ValueError as error:
        _forget(done)
        raise PluginError(f"{_shown(path)}: {error}") from error


def _forget(entries: Iterable[tuple[Registry[Any], Entry[Any]]]) -> None:
    for registry, entry in entries:
        registry.unregister(entry.name)


def _entries() -> dict[str, set[str]]:
    return {kind: set(registry.names()) for kind, registry in REGISTRIES.items()}


def _new_since(before: Mapping[str, set[str]]) -> list[tuple[Registry[Any], Entry[Any]]]:
    return [
        (registry, entry)
        for kind, registry in REGISTRIES.items()
        for entry in registry
        if entry.name not in before[kind]
    ]


def _with_digests(layer: Layer, chosen: Mapping[str, str]) -> Layer:
    items = [{"path": path, "digest": digest} for path, digest in chosen.items()]
    origins = dict(layer.origins)
    for index, item in enumerate(items):
        place: KeyPath = (SECTION, index)
        origins |= dict.fromkeys([place, *((*place, key) for key in item)], layer.origin(place))
    return replace(layer, data={**layer.data, SECTION: items}, origins=origins)


def _shown(path: Path) -> str:
    return os.path.relpath(path)
