"""The numbers in the documents are those of the runs in results/reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import plot_from_db
from tests.tables import rows_of
from utils.results.folder import run_folders

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
DEMO = "| log p(x) | L[q*_FFG] | L[q*_full] |"
"""How the table of the demo's gaps begins, wherever it is shown."""


@pytest.fixture
def gaps(tmp_path, capsys) -> dict[str, str]:
    """The row of the demo in the table that its runs give."""
    results = tmp_path / "results"
    shutil.copytree(REFERENCE, results)
    assert plot_from_db.main(["rebuild", "--results", str(results)]) == 0
    capsys.readouterr()
    options = ["-experiment", "quickstart", "--results", str(results)]
    assert plot_from_db.main(["gaps", *options]) == 0
    (row,) = rows_of(capsys.readouterr().out)
    return row


def test_the_runs_are_whole():
    folders = run_folders(REFERENCE)
    assert folders
    for folder in folders:
        assert folder.damage() == []
        assert folder.is_vouched_for()
        assert folder.read_status().status == "finished"


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md"])
def test_the_demo_in_the_documents_is_that_of_its_runs(document, gaps):
    text = (ROOT / document).read_text()
    (shown,) = rows_of(text[text.index(DEMO) :].split("\n\n", 1)[0])
    width = next(name for name in gaps if name.startswith("width"))
    for name, number in shown.items():
        assert number == gaps[width if name == "BDMC width" else name], name
