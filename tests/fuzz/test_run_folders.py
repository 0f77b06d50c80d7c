"""Damaged folders of finished runs: told in plain words, and nothing that was good is lost."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.finished_runs import Copy, finished_run
from tests.fuzz.damage import Change, afflict, damages
from tests.run_rows import sql

pytestmark = pytest.mark.usefixtures("results_here")

EXIT_CODES = (0, 1, 2, 3, 4, 75, 130)
PYTHON = re.compile(r"Traceback|weights_only|Background on|\b[A-Za-z]+(Error|Exception)\b")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Copy:
    return finished_run(tmp_path_factory.mktemp("original") / "results")


@contextmanager
def another(original: Copy) -> Iterator[Copy]:
    """A copy, which goes away again: hypothesis runs many cases in one test."""
    with tempfile.TemporaryDirectory() as place:
        yield original.copied(Path(place) / "results")


def database_rows(copy: Copy) -> dict[str, set[tuple[Any, ...]]]:
    tables = ("metrics", "estimates")
    return {
        t: {tuple(row.values()) for row in sql(copy.results, f"SELECT * FROM {t}")} for t in tables
    }


def is_vouched_for(copy: Copy, status: str) -> bool:
    """Whether the status is as it was, so that nothing may be taken for a run cut off."""
    path = copy.folder.status_path
    return path.is_file() and path.read_text(errors="replace") == status


def check_words(copy: Copy, code: int, said: str) -> None:
    assert code in EXIT_CODES, said
    assert not PYTHON.search(said), said
    assert code == 0 or str(copy.results) in said, said  # a place is named


def check_folder(original: Copy, afflictions: list[tuple[str, Change]], cut: bool, capsys) -> None:
    """All that a person may do with a damaged folder."""
    with another(original) as copy:
        run = copy.folder.path.name
        if cut:
            copy.edit_status(lambda row: row.update(status="interrupted"))
        before, status = database_rows(copy), copy.folder.status_path.read_text()
        for file, change in afflictions:
            afflict(copy.folder.path, file, change)
        vouched_for = is_vouched_for(copy, status) and not cut
        for number, command in enumerate(
            (
                lambda: copy.report("rebuild"),
                copy.run,
                lambda: copy.run("evaluation.max_data=4"),
                lambda: copy.report("rebuild"),
                lambda: copy.report("runs"),
            )
        ):
            capsys.readouterr()
            code = command()
            event(f"command {number} exits with {code}")
            check_words(copy, code, capsys.readouterr().err)
            after = {
                t: {r for r in rows if r[0] == run} for t, rows in database_rows(copy).items()
            }
            if vouched_for:
                assert after == before
        locked_up = (copy.results / "runs" / run / "lock").is_dir()  # told, and for people to mend
        assert copy.run(options=("--resume", "never")) == locked_up
        if locked_up:
            return
        after = {t: {r for r in rows if r[0] == run} for t, rows in database_rows(copy).items()}
        assert after == before  # the same command gives the same numbers


CASES = st.lists(damages, min_size=1, max_size=3)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(derandomize=True, max_examples=10, deadline=None, suppress_health_check=QUIET)
@given(CASES, st.booleans())
def test_damaged_folders_are_told_and_nothing_is_lost(original, capsys, afflictions, cut):
    check_folder(original, afflictions, cut, capsys)


@pytest.mark.slow
@settings(derandomize=True, max_examples=500, deadline=None, suppress_health_check=QUIET)
@given(CASES, st.booleans())
def test_many_damaged_folders_are_told_and_nothing_is_lost(original, capsys, afflictions, cut):
    check_folder(original, afflictions, cut, capsys)
