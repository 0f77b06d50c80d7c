"""The configuration reference, docs/configuration.md, out of the schema and the registries.

python -m experiments.runner.reference > docs/configuration.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.runner.catalogue import (
    argument_lines,
    default_of,
    field_lines,
    section_options,
    type_of,
)
from experiments.runner.schema import REGISTRIES, SECTIONS, default_values
from utils.registry import Entry, Option, Registry

HEAD = """\
# Configuration reference

<!-- Made by `make reference` out of the code; a test says when it is not current. -->

Every key of a configuration, with its type and its default. `python main.py --list` prints the
same: `--list training` a section, `--list posteriors` a registry. A component is a mapping with a
`name` and its options, such as `posterior: {name: iaf, num_layers: 4}`.
"""


def reference() -> str:
    """The page, in Markdown."""
    parts = [HEAD, "## Sections\n"]
    for name, schema in SECTIONS.items():
        title = "The top level" if name == "run" else name
        options = section_options(schema, default_values(name))
        text = _prose(inspect.getdoc(schema) or "")
        parts += [f"### {title}\n", f"{text}\n", *_table(options, field_lines(schema))]
    for kind, registry in REGISTRIES.items():
        parts += [f"## {kind}\n", *_registry(registry)]
    return "\n".join(parts)


def _registry(registry: Registry[Any]) -> Iterator[str]:
    for entry in registry:
        yield f"### {entry.name}\n"
        yield f"{_prose(_docstring(entry))}\n"
        yield from _table(entry.options, argument_lines(_docstring(entry)))


def _docstring(entry: Entry[Any]) -> str:
    return inspect.getdoc(entry.factory) or ""


def _prose(docstring: str) -> str:
    """A docstring without its list of arguments, as Markdown."""
    before, _, after = docstring.partition("Args:\n")
    _, _, rest = after.partition("\n\n")
    return _escaped(f"{before.strip()}\n\n{rest.strip()}".strip().replace("``", "`"))


def _escaped(text: str) -> str:
    """Outside of code, what Markdown or HTML would take for a mark."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part
        if index % 2
        else re.sub(r"([*_|\[\]])", r"\\\1", part.replace("<", "&lt;").replace(">", "&gt;"))
        for index, part in enumerate(parts)
    )


def _table(options: Sequence[Option], meanings: Mapping[str, str]) -> Iterator[str]:
    if not options:
        return
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for option in options:
        meaning = _escaped(meanings.get(option.name, "").replace("``", "`"))
        default = default_of(option).removeprefix("= ")
        cells = (f"`{option.name}`", _escaped(type_of(option)), f"`{default}`", meaning)
        yield f"| {' | '.join(cell.replace('`(required)`', 'required') for cell in cells)} |"
    yield ""


if __name__ == "__main__":
    print(reference(), end="")
