"""The numbers in the documents are those of the runs in results/reference.

A table is marked by the command that prints it, ``<!-- table: plot_from_db.py gaps ... -->``:
``make tables`` carries out all of them. A document may leave out rows and columns, and what
stands in brackets at the end of a heading.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest

import plot_from_db
from tests.documents import DOCUMENTS, ROOT, name_of
from tests.tables import rows_of
from utils.results.folder import run_folders

REFERENCE = ROOT / "results" / "reference"
MARKED = re.compile(r"^<!-- table: (.+) -->\n\n((?:\|.*\n)+)", re.MULTILINE)
NUMBER = re.compile(r"\d\.\d+ (?:±|\|)")
SHORTER = {"BDMC width": "width"}
"""Headings that are words of their own in documents."""

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rows]:
    """The rows that a command prints out of a copy of the reference results."""
    results = tmp_path_factory.mktemp("reference") / "results"
    shutil.copytree(REFERENCE, results)
    assert plot_from_db.main(["rebuild", "--results", str(results)]) == 0
    known: dict[str, Rows] = {}

    def rows(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Rows:
        if command not in known:
            monkeypatch.setenv("VI_RESULTS", str(results))
            monkeypatch.chdir(ROOT)
            match shlex.split(command):
                case ["plot_from_db.py", *options]:
                    assert plot_from_db.main(options) == 0, capsys.readouterr().err
                case ["-m", module, *options]:
                    monkeypatch.setattr(sys, "argv", [module, *options])
                    importlib.import_module(module).main()
            known[command] = rows_of(capsys.readouterr().out)
        return known[command]

    return rows


def test_the_runs_are_whole():
    folders = run_folders(REFERENCE)
    assert folders
    for folder in folders:
        assert folder.damage() == []
        assert folder.is_vouched_for()
        assert folder.read_status().status == "finished"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(*found, id=f"{name_of(document)}: {found[0]}")
        for document in DOCUMENTS
        for found in MARKED.findall(document.read_text())
    ],
)
def test_a_table_is_that_of_its_runs(command, shown, printed, monkeypatch, capsys):
    rows = rows_of(shown)
    assert rows
    found = [_shortened(row, set(rows[0])) for row in printed(command, monkeypatch, capsys)]
    for row in rows:
        assert row in found


def _shortened(row: dict[str, str], headings: set[str]) -> dict[str, str]:
    """The columns that a document shows, by its headings."""

    def full(heading: str) -> str:
        beginning = f"{SHORTER.get(heading, heading)} ("
        return heading if heading in row else next(h for h in row if h.startswith(beginning))

    return {heading: row[full(heading)] for heading in headings}


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md"])
def test_the_demo_is_shown_as_it_is(document):
    assert "<!-- table: plot_from_db.py gaps -experiment quickstart -->" in (
        (ROOT / document).read_text()
    )


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if d.name in ("README.md", "results.md")],
    ids=name_of,
)
def test_a_table_of_other_runs_says_that_they_are_not_kept(document):
    """Or that its numbers are published ones."""
    before = ""
    for part in re.split(r"\n\n+", document.read_text()):
        if not part.startswith("|"):
            before = "" if part.startswith("#") else f"{before}\n{part}"
            continue
        if len(NUMBER.findall(part)) > 2:
            assert re.search("<!-- table: |not kept|ublished", before), part
        before = ""


def test_all_marks_are_read():
    """One that has no table below it would be tested by nothing."""
    for document in DOCUMENTS:
        text = document.read_text()
        marks = re.findall("^<!-- table: ", text, re.MULTILINE)
        assert len(MARKED.findall(text)) == len(marks), name_of(document)
