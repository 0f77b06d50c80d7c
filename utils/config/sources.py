"""YAML as people expect it, each value with the place where it was written.

The scalars are those of YAML 1.2's core schema, decimal only: ``1e-3`` is a number; ``on``,
``yes``, ``2024-01-01``, ``1:30``, ``0o17`` and ``1_000`` are strings; ``010`` is ten. A mapping's
keys are strings, written once and without dots (a dotted key is what ``-set`` takes). Aliases
(``*anchor``) work, and each counts as all that it repeats; merge keys (``<<``) are refused, for
``include`` does their work. A text has at most ``MAX_SIZE`` bytes, ``MAX_VALUES`` values and
``MAX_DEPTH`` levels: what is beyond is a mistake or an attack, and would take minutes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import yaml

T = TypeVar("T")

KeyPath = tuple[str | int, ...]
"""Where a value stands in a configuration: keys of mappings, indices of lists."""


class Origin(NamedTuple):
    """Where a value was written: a file (with its line), ``-set``, ``default`` or nowhere.

    ``filled in`` is what follows from the data or from other runs.
    """

    source: str
    line: int | None = None

    def __str__(self) -> str:
        source = self.source if self.source.isprintable() else ascii(self.source)[1:-1]
        return source if self.line is None else f"{source}:{self.line}"


DEFAULT = Origin("default")
ASSIGNED = Origin("-set")
FILLED_IN = Origin("filled in")


MAX_SIZE = 1_000_000  # bytes of a file, characters of a value of -set
MAX_VALUES = 10_000
MAX_DEPTH = 100
MAX_KEY = 100  # characters


class Problem(NamedTuple):
    """One thing that is wrong with a configuration, and where."""

    origin: Origin
    message: str


class ConfigError(ValueError):
    """All that is wrong with a configuration, one line a problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"  {problem.origin}: {problem.message}" for problem in self.problems]
        super().__init__("\n".join([f"config error ({len(lines)}):", *lines]))


def wrong(origin: Origin, message: str) -> ConfigError:
    """The error of a single problem."""
    return ConfigError([Problem(origin, message)])


def collect(read: Callable[[], T], problems: list[Problem]) -> T | None:
    """What ``read`` returns; or None, with its problems added to ``problems``."""
    try:
        return read()
    except ConfigError as error:
        problems += error.problems
        return None


class Parsed(NamedTuple):
    """Plain data (dicts, lists, scalars) and the origin of every value in it, by its path."""

    value: Any
    origins: dict[KeyPath, Origin]


def show_path(path: KeyPath) -> str:
    """A path as people write it, in backquotes: `posterior.transitions[1].num_layers`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return f"`{text.removeprefix('.')}`" if path else "the top level"


def read_path(text: str) -> KeyPath:
    """The path that is written so, without backquotes."""
    words = re.finditer(r"\[(\d+)\]|([^.\[\]]+)", text)
    return tuple(int(word[1]) if word[1] else word[2] for word in words)


def parse(text: str, source: Origin, dotted: bool = False) -> Parsed | None:
    """Parse one YAML document; None when it holds nothing.

    A ``source`` with a line number counts lines from there (give a file's first line); one
    without stands for every value as it is. ``dotted`` allows keys that hold a dot.

    Raises ConfigError: syntax, duplicate or odd keys, tags and numbers that mean nothing here,
    more than the limits of this module.
    """
    if len(text) > MAX_SIZE:
        raise wrong(source, f"more than {MAX_SIZE:,} characters; {_TOO_MUCH}")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except _LimitError as error:
        raise wrong(_origin(source, error.line), str(error)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise wrong(_origin(source, mark.line if mark else 0), _syntax(error)) from None
    except yaml.reader.ReaderError as error:
        message = f"the character {chr(error.character)!a} is not allowed in YAML"
        line = text.count("\n", 0, error.position)
        raise wrong(_origin(source, line), message) from None
    if node is None:
        return None
    builder = _Builder(source, dotted)
    value = builder.build(node, (), node)
    if builder.problems:
        raise ConfigError(builder.problems)
    return Parsed(value, builder.origins)


def block(data: Any) -> str:
    """Plain data as lines of YAML, which ``parse`` reads back as they were."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def flow(value: Any) -> str:
    """A value in one line of YAML, which ``parse`` reads back as it was."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    text = _dump(value)
    reread = None if "\n" in text else parse(text, DEFAULT)
    if reread is None or repr(reread.value) != repr([value]):
        text = _dump(value, default_style='"')  # "1e-3", a string to YAML 1.1; several lines
    return text.removeprefix("[").removesuffix("]")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own declaration)

    _depth = _count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """PyYAML's, which calls itself for what is inside, within the limits."""
        if excess := _excess(self._depth, self._count // 2):  # half may be keys
            raise _LimitError(excess, self.peek_event().start_mark.line)
        self._depth, self._count = self._depth + 1, self._count + 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which puts into quotes what YAML 1.2 takes for a number, too."""


class _LimitError(Exception):
    """A text of more levels or values than a configuration has."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


_TOO_MUCH = "no configuration needs as many"


def _excess(depth: int, count: int) -> str | None:
    """What is too much of a value ``depth`` levels down, after ``count`` others; or nothing."""
    if depth > MAX_DEPTH:
        return f"more than {MAX_DEPTH} levels of nesting; {_TOO_MUCH}"
    if count > MAX_VALUES:
        return f"more than {MAX_VALUES:,} values, aliases counted; {_TOO_MUCH}"
    return None


_PREFIX = "tag:yaml.org,2002:"
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
for _tag, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": "|".join(_TRUE + _FALSE),
    "int": r"[-+]?[0-9]+",  # before float, whose pattern it also fits
    "float": rf"{_NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_PREFIX + _tag, re.compile(rf"(?:{_pattern})\Z"), None)


def _to_float(text: str) -> float:
    return float(re.sub(r"\.(inf|nan)\Z", r"\1", text.lower()))


_SCALARS: dict[str, Any] = {
    _PREFIX + "null": lambda text: None,
    _PREFIX + "bool": {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}.__getitem__,
    _PREFIX + "int": int,
    _PREFIX + "float": _to_float,
    _PREFIX + "str": str,
}


class _Builder:
    """Turns a graph of YAML nodes into plain data, noting origins and problems on the way."""

    def __init__(self, source: Origin, dotted: bool) -> None:
        self.source = source
        self.dotted = dotted
        self.origins: dict[KeyPath, Origin] = {}
        self.problems: list[Problem] = []
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: KeyPath, key: yaml.Node) -> Any:
        """The value of ``node``, whose origin is the line of ``key`` (itself, if it has none).

        An alias is the anchor's node once more, so a node inside itself is an endless value, and
        a few lines of aliases to aliases may stand for millions of values.
        """
        if excess := _excess(len(self._open), len(self.origins)):
            raise wrong(self.origins.get(path[:1], self.source), excess)  # an alias has no line
        self.origins[path] = _origin(self.source, key.start_mark.line)
        if any(node is outer for outer in self._open):
            self._complain(key, f"{show_path(path)} contains itself (an alias to its parent)")
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if node.tag not in (_PREFIX + "map", _PREFIX + "seq"):
                self._complain(node, f"{show_path(path)}: the tag {_short(node.tag)} is unknown")
            elif isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            else:
                return [self.build(n, (*path, i), n) for i, n in enumerate(node.value)]
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            node.value.encode()  # an escape such as "\ud800" is half a character
            return _SCALARS[node.tag](node.value)
        except KeyError:  # an unknown tag, or !!bool with another word
            message = f"{node.value[:40]!a} with the tag {_short(node.tag)} means nothing here"
        except ValueError as error:
            message = f"{node.value[:40]!a} cannot be read ({error})"
        self._complain(node, f"{show_path(path)}: {message}")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if reason := _odd_key(key_node, self.dotted):
                self._complain(key_node, reason)
            elif key in lines:
                shown = show_path((*path, key))
                self._complain(key_node, f"duplicate key {shown}, first on line {lines[key]}")
            else:
                lines[key] = line
                result[key] = self.build(value_node, (*path, key), key_node)
        return result

    def _complain(self, node: yaml.Node, message: str) -> None:
        origin = _origin(self.source, node.start_mark.line)
        self.problems.append(Problem(origin, message))


def _odd_key(node: yaml.Node, dotted: bool) -> str | None:
    """What is wrong with a mapping's key, if anything is."""
    if not isinstance(node, yaml.ScalarNode):
        return "a key must be a string; got a list or a mapping"
    if node.tag != _PREFIX + "str":
        return f"a key must be a string; got {node.value[:40] or 'null'}. Put it in quotes"
    if len(node.value) > MAX_KEY or not node.value.isprintable():
        return f"a key has at most {MAX_KEY} printable characters; got {node.value[:40]!a}..."
    if node.value == "<<":
        return "merge keys (`<<`) are not supported; put what is shared in a file and `include` it"
    if "." in node.value and not dotted:
        first, rest = node.value.split(".", 1)
        return f"the key `{node.value}` holds a dot; nest it: `{first}: {{{rest}: ...}}`"
    return None


def _origin(source: Origin, line: int) -> Origin:
    return source if source.line is None else source._replace(line=source.line + line)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    message = f"YAML syntax: {error.problem}"
    if error.context:
        message += f" {error.context}" if error.context.startswith("while") else ""
    if "'\\t'" in message:
        message += "; indent with spaces, not tabs"
    return message


def _short(tag: str) -> str:
    return tag.replace(_PREFIX, "!!")


def _dump(value: Any, **style: Any) -> str:
    """``[value]``: what is plain inside brackets is plain everywhere."""
    text: str = yaml.safe_dump(
        [value], default_flow_style=True, allow_unicode=True, width=math.inf, **style
    )
    return text.rstrip("\n")
