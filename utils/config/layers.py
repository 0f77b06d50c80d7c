"""Plain nested data whose every value remembers where it came from, and their merge.

Mappings merge deeply; scalars and lists replace. A mapping with another ``name`` is another
component and replaces its whole node, so that planar's keys do not leak into hvae. ``Elements``
change a list in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.config.sources import DEFAULT, KeyPath, Origin


@dataclass(frozen=True)
class Layer:
    """Plain nested data, the origin of every value in it, and its sources in reading order."""

    data: Mapping[str, Any]
    origins: Mapping[KeyPath, Origin]
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any], origin: Origin = DEFAULT) -> Layer:
        """A layer whose values all have one origin."""
        origins = dict.fromkeys(paths(data, ()), origin)
        return cls(data, origins, (origin.source,))

    def origin(self, path: KeyPath) -> Origin:
        """Where the value at ``path`` was written or, if it was not, the mapping around it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, DEFAULT)

    def last_origin(self, path: KeyPath) -> Origin:
        """Of the origins of the value at ``path`` and all inside it, that of the last source."""
        inside = (self.origins[inner] for inner in paths(value_at(self.data, path), path))
        return max(inside, key=lambda origin: self.sources.index(origin.source))


class Elements(dict[int, Any]):
    """What an upper layer says of a list that it does not replace: new values by their index.

    Indices from the list's length on, without a gap, append to it.
    """


def merge(lower: Layer, upper: Layer) -> Layer:
    """``upper`` over ``lower``.

    A value's origin is the last layer that set it; a mapping's is the first that wrote it (after
    the defaults), which is where a person looks for a key that it lacks. A ``name`` at the top
    level is a value like others: the top level is no component.
    """
    origins: dict[KeyPath, Origin] = {}

    def keep(layer: Layer, value: Any, path: KeyPath) -> Any:
        origins.update((inner, layer.origins[inner]) for inner in paths(value, path))
        return value

    def combine(below: Mapping[str, Any], above: Mapping[str, Any], path: KeyPath) -> Any:
        older = lower.origins[path]
        origins[path] = upper.origins[path] if older == DEFAULT else older
        result: dict[str, Any] = {}
        for key in [*below, *(key for key in above if key not in below)]:
            inner = (*path, key)
            if key not in above:
                result[key] = keep(lower, below[key], inner)
            elif key in below:
                result[key] = join(below[key], above[key], inner)
            else:
                result[key] = keep(upper, above[key], inner)
        return result

    def join(below: Any, above: Any, path: KeyPath) -> Any:
        if isinstance(above, Elements):
            return change(below, above, path)
        if _deep(below, above):
            return combine(below, above, path)
        return keep(upper, above, path)

    def change(below: Sequence[Any], above: Elements, path: KeyPath) -> list[Any]:
        origins[path] = lower.origins[path]
        kept = [
            join(item, above[index], (*path, index))
            if index in above
            else keep(lower, item, (*path, index))
            for index, item in enumerate(below)
        ]
        added = range(len(below), max(above, default=-1) + 1)
        return kept + [keep(upper, above[index], (*path, index)) for index in added]

    data = combine(lower.data, upper.data, ())
    sources = tuple(dict.fromkeys((*lower.sources, *upper.sources)))
    return Layer(data, origins, sources)


def paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of ``value`` and of everything inside it."""
    yield path
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from paths(item, (*path, index))


def value_at(value: Any, path: KeyPath) -> Any:
    """The value at ``path`` inside ``value``; None where there is none."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _deep(below: Any, above: Any) -> bool:
    """Whether two values merge key by key: two mappings that do not name two components."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return False
    return "name" not in above or "name" not in below or above["name"] == below["name"]
