"""What a configuration amounts to: plain data, its identity, and a listing for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from utils.config.sources import DEFAULT, KeyPath, Origin, flow


def resolved(instance: Any) -> dict[str, Any]:
    """A validated configuration as plain data, every default filled in, in the schema's order."""
    plain: dict[str, Any] = _plain(instance)
    return plain


def identity(data: Mapping[str, Any], excluded: Collection[str] = ()) -> str:
    """Ten hexadecimal digits that name a configuration: sha256 of its canonical JSON.

    The order of keys does not count, and 1 and 1.0 are one number (true is another value). A key
    whose value is null counts as not there, so that a new optional setting renames nothing.
    ``excluded`` names what does not count: keys such as ``runtime``, or ``training.log_every``.
    """
    canonical = _canonical(data, (), frozenset(excluded))
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


_COMMENT_COLUMN = 60


class _Line(NamedTuple):
    text: str
    origin: Origin | None


def describe(data: Mapping[str, Any], origins: Mapping[KeyPath, Origin]) -> str:
    """YAML that gives ``data`` back, one value a line, each with its origin as a comment.

    A list of plain values stands on one line. What has no origin is a default.
    """
    lines = list(_block(data, (), origins))
    width = min(max(len(line.text) for line in lines), _COMMENT_COLUMN)
    shown = [f"{text:{width}}  # {origin}" if origin else text for text, origin in lines]
    return "\n".join(shown)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[KeyPath]:
    """Paths of the values in ``after`` that ``before`` lacks or has otherwise."""
    for key, value in after.items():
        former = before.get(key)
        if isinstance(value, Mapping) and value:
            inner = former if isinstance(former, Mapping) else {}
            yield from ((key, *path) for path in changed(inner, value))
        elif value != former:
            yield (key,)


def _block(value: Any, path: KeyPath, origins: Mapping[KeyPath, Origin]) -> Iterator[_Line]:
    """The lines of a value; those of what is inside it are indented."""
    if not _is_nested(value):
        yield _Line(flow(value), origins.get(path, DEFAULT))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            first, *rest = _block(item, (*path, key), origins)
            if _is_nested(item):
                yield _Line(f"{flow(key)}:", None)
                yield from (_Line(f"  {line.text}", line.origin) for line in (first, *rest))
            else:
                yield _Line(f"{flow(key)}: {first.text}", first.origin)
    else:
        for index, item in enumerate(value):
            first, *rest = _block(item, (*path, index), origins)
            yield _Line(f"- {first.text}", first.origin)
            yield from (_Line(f"  {line.text}", line.origin) for line in rest)


def _is_nested(value: Any) -> bool:
    """Whether a value takes lines of its own: a mapping, or a list with one in it."""
    if isinstance(value, list):
        return any(_is_nested(item) for item in value)
    return isinstance(value, Mapping) and bool(value)


def _plain(value: Any) -> Any:
    from utils.registry import Node  # pydantic comes with it: not needed to load and merge

    if isinstance(value, Node):
        return _plain(value.dump())
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _canonical(value: Any, path: tuple[str, ...], excluded: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        inner = {key: (*path, str(key)) for key in value}
        return {
            key: _canonical(item, inner[key], excluded)
            for key, item in value.items()
            if item is not None and ".".join(inner[key]) not in excluded
        }
    if isinstance(value, (list, tuple)):
        return [_canonical(item, path, excluded) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
