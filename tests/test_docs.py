"""What the documents show can be run as it stands.

Blocks are carried out document by document, in their order, in a folder of their own:

- ``python`` is executed, after ``<!-- file: NAME -->`` it is written to that file;
- ``yaml`` is read, and written the same way;
- ``sql`` is asked of the results of a small run;
- ``bash`` is carried out with a stand-in for Python, which writes down what it is told: of
  ``python main.py`` the configuration is then merged and validated and everything is built
  (``--dry-run``), ``python sweep.py`` is expanded, of all other programs the options are read.
  The slow test does all of it for the pages of docs/;
- what is marked ``<!-- not run: REASON -->`` is left out, and so is ``text``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

import main as program
import plot_from_db
import sweep
from experiments.runner import plugins
from experiments.runner.reference import reference
from experiments.sweeping.app import changed
from experiments.sweeping.points import expand
from experiments.sweeping.sweep_file import read
from tests.documents import BLOCK, DOCUMENTS, ROOT, Block, blocks, name_of
from tests.finished_runs import finished_run
from tests.stand_in import told
from utils.cli import parse

PAGES = [document for document in DOCUMENTS if ROOT / "docs" in document.parents]
OF_OTHER_RUNS = ("database.md", "report.md")
"""Pages that look at runs which they do not make."""
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """Looks as the clone does to whoever types a command."""
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("VI_DB", raising=False)
    yield tmp_path
    plugins.use({})


def written(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Write a block to its file, or carry out Python."""
    if block.mark == "file":
        Path(str(block.what)).write_text(block.text)
    if block.kind == "python" and block.mark is None:
        exec(compile(block.text, str(page), "exec"), names)
    if block.kind == "yaml":
        assert yaml.safe_load(block.text) is not None


def of_kind(*kinds: str, among: Sequence[Path] = DOCUMENTS) -> list[Any]:
    """The documents that have such blocks, as test parameters."""
    return [
        pytest.param(document, id=name_of(document))
        for document in among
        if any(block.kind in kinds and block.mark != "not run" for block in blocks(document))
    ]


def commands(block: Block, folder: Path) -> list[list[str]]:
    """What a block tells Python and make to do; it tells nothing else."""
    if block.kind != "bash":
        return []
    found = told(folder, ["bash", "-euc", block.text])
    assert len(found) >= len(re.findall(r"^[a-zA-Z]", block.text, re.MULTILINE)), block.text
    return found


class _OptionsReadError(Exception):
    """Raised once a program has read its options."""


def check(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """That a command is one: nothing is trained."""
    match words:
        case ["make", *targets]:
            assert set(targets) <= {*TARGETS}
        case ["python", "main.py", *options]:
            assert program.main([*options, "--dry-run"]) == 0, words
        case ["python", "plot_from_db.py", *options]:
            parse(plot_from_db.build_parser(), options)
        case ["python", "sweep.py", *options]:
            chosen = parse(sweep.parser(), options)
            assert expand(changed(read(chosen.file), chosen))
        case ["python", "-m", module, *options]:
            monkeypatch.setattr(sys, "argv", [module, *options])
            with pytest.raises(_OptionsReadError):
                importlib.import_module(module).main()
        case _:
            raise AssertionError(f"{words}: mark the block as not run")


@pytest.fixture
def programs_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all programs that have nothing but ``main`` end when they have read their options."""
    read = argparse.ArgumentParser.parse_args

    def and_stop(self: argparse.ArgumentParser, *arguments: Any) -> argparse.Namespace:
        read(self, *arguments)
        raise _OptionsReadError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", and_stop)


@pytest.mark.usefixtures("programs_only_read")
@pytest.mark.parametrize("document", of_kind("python", "yaml", "bash"))
def test_every_block_of_a_document_is_sound(document, folder, monkeypatch):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(document):
        if block.mark != "not run":
            written(block, document, names)
            for words in commands(block, folder):
                check(words, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", of_kind("bash", among=PAGES))
def test_every_command_of_a_page_does_what_it_should(page, folder, capsys):
    if page.name in OF_OTHER_RUNS:
        shutil.copytree(ROOT / "results" / "reference", folder / "results")
        assert plot_from_db.main(["rebuild"]) == 0
    names: dict[str, Any] = {"__name__": "page"}
    mains = {"main.py": program.main, "plot_from_db.py": plot_from_db.main, "sweep.py": sweep.main}
    for block in blocks(page):
        if block.mark != "not run":
            written(block, page, names)
            for _, name, *options in commands(block, folder):
                assert mains[name](options) == 0, f"{options}: {capsys.readouterr().err}"


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("sql") / "results"
    finished_run(results)
    return results / "results.sqlite"


@pytest.mark.parametrize("page", of_kind("sql"))
def test_every_question_has_an_answer(page, database):
    with closing(sqlite3.connect(database)) as connection:
        for block in blocks(page):
            if block.kind == "sql":
                assert connection.execute(block.text).fetchall(), block.text


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_says_what_it_is(document):
    for block in blocks(document):
        assert block.kind in ("python", "yaml", "bash", "sql", "text"), block.text
    rest = BLOCK.sub("", document.read_text())
    indented = re.findall(r"^    (?:python|bash|make) .*", rest, re.MULTILINE)
    assert not indented, "as a block of ```bash it is tested"


def test_the_configuration_reference_is_current():
    said = "make reference"
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), said


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in settings, (
            f"{page}: add it to mkdocs.yml"
        )


def test_every_anchor_that_a_page_links_to_is_there():
    for page in (ROOT / "docs").rglob("*.md"):
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            other = (page.parent / target) if target else page
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", t).strip().lower().replace(" ", "-") for t in titles}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


SHORT = {'"epochs": 150': '"epochs": 2', '"max_steps": 600': '"max_steps": 20', "2000": "50"}
"""What the test of the notebook takes less of."""


@pytest.mark.parametrize(
    "page", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name
)
def test_every_cell_of_a_notebook_runs(page, folder):
    from matplotlib import pyplot

    cells = [cell for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == "code"]
    source = "\n".join("".join(cell["source"]) for cell in cells)
    for given, less in SHORT.items():
        assert given in source
        source = source.replace(given, less)
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(source, str(page), "exec"), names)
    assert (names["gaps"]["amortisation gap"].abs() < 100).all()
    pyplot.close("all")
