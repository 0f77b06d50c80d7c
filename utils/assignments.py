"""``-set key.path=value``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

from utils.layers import Layer
from utils.sources import ASSIGNED, ConfigError, Problem, parse, wrong


class Assignment(NamedTuple):
    """One ``-set key.path=value``: the path of its keys, and its value as a layer."""

    keys: tuple[str, ...]
    layer: Layer


def parse_assignment(text: str) -> Assignment:
    """Parse ``key.path=value``; the value is YAML, so 0, false, null, lists and mappings count.

    An empty value is refused rather than read as null: it is what an unset shell variable gives.

    Raises ConfigError: no ``=``, an empty key, an index, an empty value, bad YAML.
    """
    key, equals, value = text.partition("=")
    keys = tuple(key.split("."))
    if not equals:
        raise wrong(ASSIGNED, f"{text!r} has no `=`; write -set key.path=value")
    if not all(part.strip() == part != "" for part in keys):
        raise wrong(ASSIGNED, f"{text!r} has an empty key; write -set key.path=value")
    if "[" in key:
        raise wrong(ASSIGNED, f"`{key}`: {NO_ELEMENTS}")
    try:
        parsed = parse(value, ASSIGNED)
    except ConfigError as error:
        raise ConfigError([Problem(o, f"`{key}`: {m}") for o, m in error.problems]) from None
    if parsed is None:
        raise wrong(ASSIGNED, f"`{key}` has an empty value; write `{key}=null` or `{key}=''`")
    data = reduce(lambda inner, part: {part: inner}, reversed(keys), parsed.value)
    return Assignment(keys, Layer.of(data, ASSIGNED))


NO_ELEMENTS = "elements of a list cannot be set one by one; set the whole list, `key=[...]`"


def through_list(value: Any, keys: tuple[str, ...]) -> bool:
    """Whether ``keys`` lead to an element of a list in ``value``."""
    for key in keys:
        if isinstance(value, (list, tuple)):
            return True
        value = value.get(key) if isinstance(value, Mapping) else None
    return False
