"""Damages of a run's folder, drawn by hypothesis."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from utils import checkpoint
from utils.checkpoint import CheckpointError

TEXTS = ("metrics.csv", "estimates.csv", "links.csv", "status.json", "config.yaml", "lock")
CHECKPOINTS = ("last.pt", "previous_last.pt", "epochs/000001.pt")
Change = Callable[[Path], None]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=5,
)


def _bytes(change: Callable[[bytearray, int], None], place: float) -> Change:
    def apply(path: Path) -> None:
        content = bytearray(path.read_bytes())
        change(content, int(place * len(content)))
        path.write_bytes(content)

    return apply


@st.composite
def byte_changes(draw: st.DrawFn) -> Change:
    """Truncate, insert, overwrite, flip."""
    place = draw(st.floats(0, 1))
    junk = draw(st.binary(min_size=1, max_size=40))
    kind = draw(st.sampled_from(["cut", "insert", "overwrite", "flip", "append", "all"]))

    def change(content: bytearray, at: int) -> None:
        if kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = junk
        elif kind == "overwrite":
            content[at : at + len(junk)] = junk
        elif kind == "flip" and content:
            content[min(at, len(content) - 1)] ^= 1 << junk[0] % 8
        elif kind == "append":
            content.extend(junk + b"\n" * (junk[0] % 2))
        elif kind == "all":
            content[:] = junk

    return _bytes(change, place)


@st.composite
def line_changes(draw: st.DrawFn) -> Change:
    """Lines lost, doubled, swapped; a cell replaced."""
    kind = draw(st.sampled_from(["lose", "double", "swap", "cell"]))
    place, cell = draw(st.floats(0, 1)), draw(st.integers(0, 9))
    word = draw(st.text(max_size=12) | st.sampled_from(["nan", "inf", "1e999", "-1", str(2**80)]))

    def apply(path: Path) -> None:
        lines = path.read_text(errors="replace").splitlines(keepends=True) or ["\n"]
        at = int(place * (len(lines) - 1))
        if kind == "lose":
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "swap":
            lines[at], lines[0] = lines[0], lines[at]
        else:
            cells = lines[at].rstrip("\n").split(",")
            cells[cell % len(cells)] = word
            lines[at] = ",".join(cells) + "\n"
        path.write_text("".join(lines), errors="replace")

    return apply


@st.composite
def status_changes(draw: st.DrawFn) -> Change:
    """A key of status.json lost or given another value."""
    place, lost = draw(st.floats(0, 1)), draw(st.booleans())
    value = draw(json_values | st.sampled_from(["running", "finished", "failed"]))

    def apply(path: Path) -> None:
        try:
            row = json.loads(path.read_text())
        except ValueError:  # damaged by now
            return
        if not isinstance(row, dict) or not row:
            return
        key = list(row)[int(place * (len(row) - 1))]
        row[key] = value
        if lost:
            del row[key]
        path.write_text(json.dumps(row))

    return apply


@st.composite
def checkpoint_changes(draw: st.DrawFn) -> Change:
    """A key lost or renamed, a value of another type or shape, anywhere in a checkpoint."""
    turns = draw(st.lists(st.integers(0, 100), min_size=1, max_size=4))
    other = draw(
        st.sampled_from([None, 7, -1, 2.5, "text", [], {}, torch.zeros(3), torch.zeros(2, 5)])
    )
    kind = draw(st.sampled_from(["replace", "lose", "rename"]))

    def apply(path: Path) -> None:
        try:
            state = checkpoint.load(path, "cpu")
        except CheckpointError:
            return
        node: Any = state
        for turn in turns[:-1]:
            inner = [value for value in node.values() if isinstance(value, dict) and value]
            node = inner[turn % len(inner)] if inner else node
        key = list(node)[turns[-1] % len(node)]
        value = node.pop(key)
        if kind == "replace":
            node[key] = other
        elif kind == "rename":
            node["renamed"] = value
        checkpoint.save(state, path)

    return apply


def lose(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def turn_into_a_folder(path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def _named(file: str, change: Change) -> tuple[str, Change]:
    return file, change


whole = st.sampled_from([lose, turn_into_a_folder])
damages = st.one_of(
    st.builds(_named, st.sampled_from(TEXTS), byte_changes() | whole),
    st.builds(_named, st.sampled_from(TEXTS[:3]), line_changes()),
    st.builds(_named, st.just("status.json"), status_changes()),
    st.builds(_named, st.sampled_from(CHECKPOINTS), byte_changes() | whole | checkpoint_changes()),
)
"""Which file of a run's folder, and what happens to it."""


def afflict(folder: Path, file: str, change: Change) -> None:
    """Do a damage where there still is such a file."""
    path = folder / file
    if path.is_file():
        change(path)
    elif path.is_dir():
        shutil.rmtree(path)
