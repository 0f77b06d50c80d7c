"""What the documents show can be run as it stands.

Blocks are carried out page by page, in the order of the page, in a folder of their own:

- ``python`` is executed, after ``<!-- file: NAME -->`` it is written to that file;
- ``yaml`` is read, and written the same way;
- ``sql`` is asked of the results of a small run;
- ``bash``: of ``python main.py`` the configuration is merged and validated and everything is
  built (``--dry-run``), of ``python plot_from_db.py`` the options are read; the slow test does
  all of it;
- what is marked ``<!-- not run: REASON -->`` is left out, and so is ``text``.
"""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import main as program
import plot_from_db
from experiments.runner import plugins
from experiments.runner.reference import reference
from tests.finished_runs import finished_run
from utils.cli import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))  # the README has tests of its own
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|file): (?P<what>[^\n]+) -->\n)?"
    r"```(?P<kind>[a-z]*)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    mark: str | None
    what: str | None
    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    return (Block(**match.groupdict()) for match in BLOCK.finditer(page.read_text()))


def commands(block: Block) -> Iterator[list[str]]:
    for line in block.text.splitlines():
        if words := shlex.split(line, comments=True):
            yield words


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """Looks as the clone does to whoever types a command."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
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


def of_kind(*kinds: str) -> list[Any]:
    """The pages that have such blocks, as test parameters."""
    return [
        pytest.param(page, id=page.relative_to(ROOT).as_posix())
        for page in PAGES
        if any(block.kind in kinds and block.mark != "not run" for block in blocks(page))
    ]


@pytest.mark.parametrize("page", of_kind("python", "yaml", "bash"))
def test_every_block_of_a_page_is_sound(page, folder, capsys):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.mark == "not run":
            continue
        written(block, page, names)
        for words in commands(block) if block.kind == "bash" else ():
            assert words[0] == "python", f"{words}: mark it as not run"
            if words[1] == "main.py":
                code = program.main([*words[2:], "--dry-run"])
                assert code == 0, capsys.readouterr().err
            else:
                assert words[1] == "plot_from_db.py", words
                parse(plot_from_db.build_parser(), words[2:])


@pytest.mark.slow
@pytest.mark.parametrize("page", of_kind("bash"))
def test_every_command_of_a_page_does_what_it_should(page, folder, capsys):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.mark == "not run":
            continue
        written(block, page, names)
        for words in commands(block) if block.kind == "bash" else ():
            command = program.main if words[1] == "main.py" else plot_from_db.main
            assert command(words[2:]) == 0, f"{words}: {capsys.readouterr().err}"


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("sql") / "results"
    finished_run(results)
    return results / "results.sqlite"


@pytest.mark.parametrize("page", of_kind("sql"))
def test_every_question_has_an_answer(page, database):
    with sqlite3.connect(database) as connection:
        for block in blocks(page):
            if block.kind == "sql":
                assert connection.execute(block.text).fetchall(), block.text


def test_every_block_says_what_it_is():
    for page in PAGES:
        for block in blocks(page):
            place = f"{page.relative_to(ROOT)}: {block.text[:60]}"
            assert block.kind in ("python", "yaml", "bash", "sql", "text", ""), place


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
