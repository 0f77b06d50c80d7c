"""The page about experiments: whole, alone, and safe whatever people have named."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import plot_from_db
from tests.gap_runs import ESTIMATED, OPTIMISED, add_run
from utils.results.database import database_url
from utils.results.folder import RunFolder
from utils.results.recorder import Recorder
from utils.results.records import RunRecord

EVIL = "<script>alert('x')</script> & \"quotes\" --> {{ 7 * 7 }}"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser would find: tags that are closed in their order, texts, addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def root(tmp_path) -> Path:
    for seed in (0, 1):
        add_run(tmp_path, "aaa", ESTIMATED | OPTIMISED, seed=seed)
    folder = RunFolder(tmp_path / "runs" / "aaa-s0")
    (folder.path / "figures").mkdir()
    (folder.path / "figures" / "samples.png").write_bytes(b"\x89PNG")
    record = RunRecord(
        EVIL, "bbb", 0, posterior=EVIL, loss="elbo", dataset=EVIL, config={"a": EVIL}
    )
    url = database_url(tmp_path)
    folder = RunFolder(tmp_path / "runs" / record.id)
    failed = Recorder(folder, record, url, warn=pytest.fail, linger=0.0)
    failed.add_metrics("train", 1, "test", {"bound": -3.0})
    assert failed.close("failed", EVIL)
    return tmp_path


def page(root: Path, *arguments: str) -> tuple[str, Page]:
    output = root / "report.html"
    options = ["--output", str(output), "--results", str(root)]
    assert plot_from_db.main(["report", *arguments, *options]) == 0
    text = output.read_text()
    return text, Page(text)


def test_the_page_holds_runs_gaps_pictures_and_settings(root):
    _, found = page(root, "-experiment", "expA")
    assert not found.open
    for words in ("aaa-s0", "aaa-s1", "approximation gap", "L[q*_gaussian]", "digits"):
        assert words in found.text, words
    pictures = [a for a in found.addresses if a.startswith("data:image/")]
    assert [a.partition(";")[0] for a in pictures] == 2 * ["data:image/svg+xml"] + [
        "data:image/png"
    ]
    drawn = base64.b64decode(pictures[0].partition(",")[2]).decode()
    assert "<svg" in drawn


def test_the_page_needs_no_network_and_no_script(root):
    text, found = page(root)
    assert "script" not in found.tags
    assert all(a.startswith(("data:", "#")) for a in found.addresses)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?https?:", text)


def test_names_and_messages_are_escaped(root):
    text, found = page(root)
    assert "<script>" not in text
    assert " ".join(EVIL.split()) in found.text
    assert "49" not in found.text.replace("aaa", "")  # no template in a name is filled in
    assert "bbb-s0 failed" in found.text


def test_the_numbers_can_be_taken_out_as_csv(root):
    _, found = page(root, "-experiment", "expA")
    tables = [a for a in found.addresses if a.startswith("data:text/csv")]
    rows = [
        list(csv.DictReader(io.StringIO(base64.b64decode(a.partition(",")[2]).decode())))
        for a in tables
    ]
    (line,) = rows[1]
    assert float(line["amortisation gap"]) == pytest.approx(2.0)
    assert float(line["inference gap runs"]) == 2


def test_the_same_results_give_the_same_pictures(root):
    first, second = (page(root)[1].addresses for _ in range(2))
    assert first == second


def test_what_is_not_there_is_said(root, capsys):
    _, found = page(root, "-experiment", EVIL)
    assert "no run is finished" in found.text or "There are no estimates" in found.text
    assert plot_from_db.main(["report", "--output", "x.pdf", "--results", str(root)]) == 2
    assert "a report is HTML" in capsys.readouterr().err


def test_curves_are_of_finished_runs(root):
    record = RunRecord("expC", "ccc", 0, posterior="gaussian", loss="elbo", dataset="digits")
    url = database_url(root)
    folder = RunFolder(root / "runs" / record.id)
    finished = Recorder(folder, record, url, warn=pytest.fail, linger=0.0)
    for epoch in (1, 2):
        finished.add_metrics("train", epoch, "test", {"bound": epoch - 9.0})
    assert finished.close("finished")
    _, found = page(root, "-experiment", "expC")
    assert sum(a.startswith("data:image/svg+xml") for a in found.addresses) == 1
    assert "There are no estimates" in found.text
