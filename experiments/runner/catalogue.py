"""What main.py tells of its components: registries, sections, their options, their sizes."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Annotated, Any, Literal

from torch import nn

from experiments.runner.build import Built
from utils.config.identity import flow
from utils.registry import REQUIRED, Option, Registry
from utils.types import LARGEST


def registries(all_registries: Mapping[str, Registry[Any]]) -> str:
    """One line a registry: its kind and what it holds."""
    width = max(map(len, all_registries))
    return "\n".join(
        f"{kind:{width}}  {', '.join(registry.names())}"
        for kind, registry in all_registries.items()
    )


def components(registry: Registry[Any]) -> str:
    """Each component of a registry: its line, then its options with types and defaults."""
    blocks = []
    for entry in registry:
        meanings = argument_lines(inspect.getdoc(entry.factory) or "")
        lines = [f"{entry.name}", f"    {entry.summary}"]
        blocks.append("\n".join([*lines, *_options(entry.options, meanings)]))
    return "\n\n".join(blocks)


def section(schema: type, defaults: Mapping[str, Any]) -> str:
    """A section of the configuration: its line, then its keys with types and defaults."""
    summary = (inspect.getdoc(schema) or "").split("\n", 1)[0]
    keys = section_options(schema, defaults)
    return "\n".join([f"    {summary}", *_options(keys, field_lines(schema))])


def section_options(schema: type, defaults: Mapping[str, Any]) -> list[Option]:
    """The keys of a section; those of ``defaults``, which every run starts from, go before."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return [
        Option(entry.name, hints[entry.name], defaults.get(entry.name, _default(entry)))
        for entry in fields(schema)
    ]


def argument_lines(docstring: str) -> dict[str, str]:
    """What the lines below ``Args:`` say, by argument, each in one line."""
    found: dict[str, str] = {}
    name = ""
    _, _, block = docstring.partition("Args:\n")
    for line in block.split("\n\n", 1)[0].splitlines():
        words = line.strip()
        if re.match(r" {4}\w+: ", line):
            name, _, words = words.partition(": ")
        if name and words:
            found[name] = f"{found.get(name, '')} {words}".strip()
    return found


def field_lines(schema: type) -> dict[str, str]:
    """The string below each field of a dataclass, in one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(getattr(tree, "body", [])):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def _default(entry: Field[Any]) -> Any:
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return REQUIRED if entry.default is MISSING else entry.default


def _options(options: Sequence[Option], meanings: Mapping[str, str]) -> Iterator[str]:
    for option in options:
        yield f"      {option.name}: {type_of(option)} {default_of(option)}"
        if meaning := meanings.get(option.name):
            yield textwrap.indent(textwrap.fill(meaning, 80), " " * 10)


def default_of(option: Option) -> str:
    """``= 3``, or that there is none."""
    return "(required)" if option.default is REQUIRED else f"= {flow(option.default)}"


def type_of(option: Option) -> str:
    """The type of an option as people say it."""
    return _type(option.annotation)


def _type(annotation: Any) -> str:
    """A type as people say it: `int > 0`, `diagonal | full`, `one of warmups`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        declared, *metadata = arguments
        for item in metadata:
            if isinstance(item, Registry):
                return f"one of {item.kind}"
        return " ".join(filter(None, [_type(declared), *map(_bound, metadata)]))
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (list, tuple, Sequence):
        return f"list of {_type(arguments[0])}"
    if origin in (dict, Mapping):
        return f"mapping to {_type(arguments[1])}"
    if is_dataclass(annotation):
        return f"mapping ({getattr(annotation, '__name__', '')})"
    if arguments:
        return " | ".join(map(_type, arguments))
    return getattr(annotation, "__name__", str(annotation))


def _bound(metadata: Any) -> str:
    """``Gt(gt=0)`` as ``> 0``; what holds everywhere, such as ``LARGEST``, goes without saying."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >="}
    return " ".join(
        f"{signs[key]} {value:g}"
        for key, value in asdict(metadata).items()
        if key in signs and value != LARGEST
    )


def parameter_counts(built: Built) -> dict[str, int]:
    """Trained numbers by part of the VAE, and together."""
    vae = built.vae
    parts: dict[str, list[nn.Module]] = {
        "model": [vae.model],
        "encoder": [vae.encoder],
        "posterior": [vae.posterior, vae.expansion],
        "amortiser": [vae.amortiser],
        "total": [vae],
    }
    return {
        name: sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
        for name, modules in parts.items()
    }
