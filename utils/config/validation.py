"""From merged plain data to an instance of a schema, or to all that is wrong with it at once.

A schema is a frozen dataclass of numbers, strings, ``Literal``, lists, mappings, further
dataclasses and components (``Annotated[X, registry]``). Types are strict: ``"3"`` and ``3.0`` are
no integers, ``true`` is no number; an integer does where a float is wanted, and so do ``.inf`` and
``.nan`` unless a bound excludes them. Unknown keys are errors everywhere.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError

from utils.cli import nearest
from utils.config.layers import Layer, value_at
from utils.config.sources import ConfigError, KeyPath, Problem, flow, show_path
from utils.registry import Entry, Registry

T = TypeVar("T")


def validate(schema: type[T], merged: Layer) -> T:
    """Make ``merged`` an instance of the dataclass ``schema``.

    Raises ConfigError with every problem, ordered by file and line.
    """
    return validator(schema)(merged)  # made on each call, for registries may have grown


def validator(schema: type[T]) -> Callable[[Layer], T]:
    """``validate`` by ``schema`` as it and its registries are now, made once for many layers."""
    # In a tuple, for pydantic hands a config on to a standard dataclass only from outside.
    alone = tuple[schema]  # type: ignore[valid-type]
    adapter = TypeAdapter(alone, config=ConfigDict(extra="forbid"))

    def check(merged: Layer) -> T:
        problems = _odd_texts(merged)
        try:
            (instance,) = adapter.validate_json(json.dumps([merged.data]), strict=True)
        except ValidationError as error:
            problems += _problems(error.errors(), schema, merged)
        if problems:
            raise ConfigError(_in_order(problems, merged))
        return instance

    return check


MAX_TEXT = 1000
MAX_PROBLEMS = 50


def _odd_texts(merged: Layer) -> list[Problem]:
    """Strings that no option takes: not printable, endless, or to be filled in by a shell."""
    problems = []
    for path in merged.origins:
        text = value_at(merged.data, path)
        if not isinstance(text, str):
            continue
        if len(text) > MAX_TEXT or not text.isprintable():
            reason = f"a text has at most {MAX_TEXT:,} printable characters; got {text[:40]!a}..."
        elif "${" in text:
            reason = (
                f"environment variables such as {text[:40]!r} are not filled in; "
                "give the value by -set, where the shell does it"
            )
        else:
            continue
        problems.append(Problem(merged.origin(path), f"{show_path(path)}: {reason}"))
    return problems


def _in_order(problems: Sequence[Problem], merged: Layer) -> list[Problem]:
    """The problems by source and line; of very many, the first."""
    order = {source: rank for rank, source in enumerate(merged.sources)}
    ordered = sorted(problems, key=lambda p: (order.get(p.origin.source, 0), p.origin.line or 0))
    if left_out := ordered[MAX_PROBLEMS:]:
        ordered[MAX_PROBLEMS:] = [Problem(left_out[0].origin, f"{len(left_out)} more problems")]
    return ordered


class _Fault(NamedTuple):
    """One of pydantic's errors in the user's terms.

    ``message`` is complete, or it is empty and the value at ``path`` must be ``wanted`` instead.
    """

    path: KeyPath
    message: str = ""
    wanted: str = ""
    hint: str = ""
    value: Any = None


class _SchemaNode(NamedTuple):
    """A node of the schema: its path for the user, and what may stand there."""

    path: KeyPath
    alternatives: Sequence[Any]


def _problems(errors: Iterable[Any], schema: type, merged: Layer) -> list[Problem]:
    faults = [_fault(error, error["loc"][1:], schema) for error in errors]
    groups: dict[KeyPath, list[_Fault]] = {}
    for fault in faults:
        # Of several alternatives the one whose inside is at fault is the one that was meant.
        if fault.message or not any(_is_inside(other.path, fault.path) for other in faults):
            groups.setdefault(fault.path, []).append(fault)
    return [
        Problem(merged.origin(path), message)
        for path, group in groups.items()
        for message in _messages(group)
    ]


def _messages(group: Sequence[_Fault]) -> list[str]:
    """The complete messages of faults at one path, what is wanted instead joined to one more."""
    messages = [fault.message for fault in group if fault.message]
    wanting = [fault for fault in group if not fault.message]
    if wanting:
        wanted = " or ".join(dict.fromkeys(fault.wanted for fault in wanting))
        hints = "".join(dict.fromkeys(fault.hint for fault in wanting))
        path, got = show_path(group[0].path), _show_value(wanting[0].value)
        messages.append(f"{path} must be {wanted}; got {got}{hints}")
    return messages


def _is_inside(inner: KeyPath, outer: KeyPath) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


# --- what pydantic's errors mean -----------------------------------------------------------------

_WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
}


_KEY_AT_FAULT = "[key]"  # pydantic's word after a mapping's key that is itself at fault


def _fault(error: Mapping[str, Any], location: Sequence[Any], schema: type) -> _Fault:
    kind, value = error["type"], error["input"]
    if location[-1] == _KEY_AT_FAULT:
        location = location[:-1]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return _unknown_key(_follow(schema, location[:-1]), location[-1])
    path, alternatives = _follow(schema, location)
    if kind == "missing":
        return _Fault(path, f"missing required key {show_path(path)}")
    names = [
        name for option in alternatives if isinstance(option, Registry) for name in option.names()
    ]
    if kind == "union_tag_not_found":
        path = (*path, "name")
        return _Fault(path, f"missing required key {show_path(path)}; it must be {_one_of(names)}")
    if kind == "union_tag_invalid":
        return _choice((*path, "name"), names, value["name"])
    if kind == "literal_error":
        literals = [option for option in alternatives if typing.get_origin(option) is Literal]
        choices = [_show_word(choice) for option in literals for choice in typing.get_args(option)]
        return _choice(path, choices, value)
    if kind == "dict_type" and names:
        return _not_a_component(path, names, value)
    if kind == "too_short":
        least = error["ctx"]["min_length"]
        return _Fault(path, wanted=f"a list of at least {least}", value=value)
    wanted = _WANTED.get(kind) or error["msg"].removeprefix("Input should be ")
    if kind not in _WANTED and wanted == error["msg"]:
        return _Fault(path, f"{show_path(path)}: {error['msg'].removeprefix('Value error, ')}")
    return _Fault(path, wanted=wanted, value=value)


def _unknown_key(mapping: _SchemaNode, key: str) -> _Fault:
    path = (*mapping.path, key)
    valid = [name for option in mapping.alternatives for name in _keys(option)]
    if near := nearest(key, valid):
        hint = f"Did you mean {show_path((*mapping.path, near))}?"
    else:
        hint = f"Valid keys: {_shorten(valid)}"
    return _Fault(path, f"unknown key {show_path(path)}. {hint}")


def _choice(path: KeyPath, choices: Sequence[str], value: Any) -> _Fault:
    near = nearest(str(value), choices)
    hint = f". Did you mean {near!r}?" if near else ""
    return _Fault(path, wanted=_one_of(choices), hint=hint, value=value)


def _not_a_component(path: KeyPath, names: Sequence[str], value: Any) -> _Fault:
    """Something else stands where a component should: most often its bare name."""
    component = f"{{name: {nearest(str(value), names) or '...'}}}"
    key = "" if isinstance(path[-1], int) else f"{path[-1]}: "
    wanted = f"a mapping whose `name` is {_one_of(names)}"
    return _Fault(path, wanted=wanted, hint=f". Write `{key}{component}`", value=value)


# --- where in the schema -------------------------------------------------------------------------


def _follow(schema: type, location: Sequence[Any]) -> _SchemaNode:
    """Walk the schema along pydantic's location.

    It holds more than the user's path: a component's name after its place, and a label after a
    place where one of several alternatives may stand.
    """
    path: KeyPath = ()
    alternatives: Sequence[Any] = [schema]
    rest = list(location)
    while rest:
        if len(alternatives) > 1:
            del rest[0]
            if not rest:
                break
        key = rest.pop(0)
        entered, inside = _enter(alternatives, key)
        alternatives = inside
        if not isinstance(entered, Registry):
            path = (*path, key)
    return _SchemaNode(path, alternatives)


def _enter(alternatives: Sequence[Any], key: Any) -> tuple[Any, Sequence[Any]]:
    """The alternative that has something under ``key``, and what may stand there."""
    for option in alternatives:
        if inside := _inside(option, key):
            return option, inside
    return None, ()


def _inside(option: Any, key: Any) -> Sequence[Any]:
    if isinstance(option, Registry):
        return [option[key]] if key in option.names() else []
    if isinstance(option, Entry):
        return [a for o in option.options if o.name == key for a in _alternatives(o.annotation)]
    if dataclasses.is_dataclass(option):
        hints = typing.get_type_hints(option, include_extras=True)
        return _alternatives(hints[key]) if key in hints else []
    arguments = [argument for argument in typing.get_args(option) if argument is not Ellipsis]
    if typing.get_origin(option) is Literal or not arguments:
        return []
    index = key if isinstance(key, int) and key < len(arguments) else -1  # list[X]: X; dict: X
    return _alternatives(arguments[index])


def _alternatives(annotation: Any) -> list[Any]:
    """What may stand there: registries for components, types for the rest; null left out."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        registries = [item for item in arguments[1:] if isinstance(item, Registry)]
        return registries or _alternatives(arguments[0])
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return [option for member in members for option in _alternatives(member)]
    return [annotation]


def _keys(option: Any) -> list[str]:
    if isinstance(option, Entry):
        return ["name", *(o.name for o in option.options)]
    if dataclasses.is_dataclass(option):
        return [field.name for field in dataclasses.fields(option) if field.init]
    return []


# --- words ---------------------------------------------------------------------------------------

_MAX_LISTED = 100  # characters of a list of valid words: a line of an error is to be read
_MAX_SHOWN = 60  # characters of a bad value


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"one of {_shorten(words)}"


def _shorten(words: Sequence[str]) -> str:
    text = ", ".join(words)
    if len(text) <= _MAX_LISTED:
        return text
    return text[:_MAX_LISTED].rpartition(",")[0] + ", ..."


def _show_word(value: Any) -> str:
    return value if isinstance(value, str) else _show_value(value)


def _show_value(value: Any) -> str:
    """A value as it stands in YAML, or nearly; long ones are cut."""
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(value) if isinstance(value, str) else flow(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
