"""What the documents hold: their blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "experiments").glob("*/README.md")),
    ROOT / "results" / "reference" / "README.md",
]

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|file): (?P<what>[^\n]+) -->\n)?"
    r"```(?P<kind>[a-z]*)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code with the comment before it, ``<!-- mark: what -->``."""

    mark: str | None
    what: str | None
    kind: str
    text: str


def blocks(document: Path) -> Iterator[Block]:
    """In their order."""
    return (Block(**match.groupdict()) for match in BLOCK.finditer(document.read_text()))


def name_of(document: Path) -> str:
    """As a reader knows it."""
    return document.relative_to(ROOT).as_posix()
