"""What tables, labels and listings are made of."""

from __future__ import annotations

import math
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.reporting.labels import distinguish
from experiments.reporting.reliability import is_reliable
from experiments.reporting.run_list import run_table
from experiments.reporting.tables import (
    Heading,
    Number,
    Table,
    Text,
    escape_latex,
    to_latex,
    to_markdown,
)
from utils.results.lock import holding, shown_status
from utils.results.methods import Method


def test_markdown_keeps_pipes_out_of_the_way() -> None:
    table = Table([Heading("a|b")], [[Text("c|d")], [Number(None, None, 0)]])
    assert to_markdown(table) == "| a\\|b |\n| --- |\n| c\\|d |\n| - |\n"


def test_latex_escapes() -> None:
    assert escape_latex(r"\a{b}_~^#$<") == (
        r"\textbackslash{}a\{b\}\_\textasciitilde{}\textasciicircum{}\#\$\textless{}"
    )


@pytest.mark.parametrize(
    ("mean", "error", "digits", "text"),
    [
        (-87.1534, 0.0712, 2, "-87.15 ± 0.07"),
        (-87.1534, 0.712, 2, "-87.15 ± 0.71"),
        (-87.1534, 7.12, 2, "-87.2 ± 7.1"),
        (-87.1534, 71.2, 2, "-87 ± 71"),
        (-87.1534, 0.0712, 5, "-87.153 ± 0.071"),
        (-87.1534, 0.0996, 5, "-87.15 ± 0.10"),  # two digits, not three
        (-87.1534, 9.96, 2, "-87 ± 10"),
        (-87.1534, math.inf, 2, "-87.15 ± inf"),
        (-87.1534, 0.0001, 2, "-87.15 ± 0.01"),  # never shown as zero
        (-87.1534, 0.0, 2, "-87.15 ± 0.00"),  # unless it is
        (-87.1534, None, 1, "-87.2"),
        (-0.004, 0.04, 2, "0.00 ± 0.04"),  # not -0.00
        (None, None, 1, "-"),
        (-968230917.0, 71.2, 2, "-968230917 ± 71"),
        (3.4104e14, 3.4099e14, 2, "3.4e14 ± 3.4e14"),
    ],
)
def test_numbers_have_the_digits_that_their_error_allows(
    mean: float | None, error: float | None, digits: int, text: str
) -> None:
    assert Number(mean, error, 3, digits).text() == text


def test_powers_of_ten_are_set_as_a_formula() -> None:
    assert Number(-2.5e8, 1e7, 1).latex() == r"$-2.5 \times 10^{8} \pm 1.0 \times 10^{7}$"


def test_configurations_alike_in_their_group_are_told_apart_by_what_differs() -> None:
    configs = {
        "a": {"model": {"latent_dim": 2}, "training": {"lr": 1e-3}, "seed": 0},
        "b": {"model": {"latent_dim": 32}, "training": {"lr": 1e-3}, "seed": 1},
        "c": {"model": {"latent_dim": 64}, "training": {"lr": 1e-4}, "seed": 1},
    }
    assert distinguish(configs, {"a": 1, "b": 1, "c": 2}) == {
        "a": "latent_dim=2",
        "b": "latent_dim=32",
        "c": "",
    }


def test_labels_are_as_long_as_they_must_be() -> None:
    configs: dict[str, dict[str, Any]] = {
        "a": {"encoder": {"hidden": [1, 2]}, "decoder": {"hidden": 3}, "data": {"name": "x"}},
        "b": {"encoder": {"hidden": [1, 3]}, "decoder": {"hidden": 4}, "data": {"name": "y"}},
    }
    labels = distinguish(configs, {"a": 0, "b": 0})
    assert labels["a"] == "encoder.hidden=[1, 2], decoder.hidden=3, data=x"


def test_settings_of_nested_components_and_of_one_side_only() -> None:
    configs = {
        "a": {"posterior": {"steps": [{"name": "planar", "k": 1}], "beta": None}},
        "b": {"posterior": {"steps": [{"name": "planar", "k": 2}], "clip": True}},
    }
    labels = distinguish(configs, {"a": 0, "b": 0})
    assert labels == {"a": "k=1", "b": "k=2, clip=true"}


def test_a_setting_that_is_null_is_as_one_that_older_runs_do_not_have() -> None:
    configs = {
        "old": {"training": {"lr": 1}},
        "new": {"training": {"lr": 2, "clip": None, "warmup": None}},
        "other": {"training": {"lr": 3, "clip": 5, "warmup": None}},
    }
    labels = distinguish(configs, {"old": 0, "new": 0, "other": 0})
    assert labels == {"old": "lr=1", "new": "lr=2, clip=null", "other": "lr=3, clip=5"}


def test_configurations_that_differ_in_nothing_known_go_by_their_hash() -> None:
    configs = {"a": {"seed": 0}, "b": {"seed": 1}}
    assert distinguish(configs, {"a": 0, "b": 0}) == {"a": "[a]", "b": "[b]"}


def test_a_run_is_lost_after_five_silent_minutes() -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    late = (now - timedelta(minutes=5, seconds=1)).isoformat()
    recent = (now - timedelta(minutes=5)).isoformat()
    assert shown_status("running", late, now) == "lost"
    assert shown_status("running", recent, now) == "running"
    assert shown_status("running", "", now) == "lost"
    assert shown_status("finished", late, now) == "finished"
    assert shown_status("running", "last week", now) == "lost"


def test_a_run_of_this_host_is_lost_as_soon_as_its_lock_is_free(tmp_path: Path) -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    run = {"host": socket.gethostname(), "folder": str(tmp_path), "heartbeat": now.isoformat()}
    described = {"id": "a", "experiment": "e", "posterior": "p", "loss": "l", "dataset": "d"}
    described |= {"seed": 0, "status": "running", "started": "", "wall_seconds": None}

    def shown(**changes: str) -> str:
        (row,) = run_table(pd.DataFrame([described | run | changes]), now).rows
        return row[6].text()

    assert shown() == "running"  # no lock is there: nothing is known
    with holding(tmp_path):
        assert shown() == "running"
    assert shown() == "lost"
    assert shown(host="elsewhere") == "running"


def test_no_latex_row_begins_with_what_ends_the_row_before_it():
    rows = [[Text(name)] for name in ("plain", "[1cm] x", "*starred")]
    lines = to_latex(Table([Heading("name")], rows)).splitlines()
    assert r"plain \\" in lines
    assert r"{}[1cm] x \\" in lines
    assert r"{}*starred \\" in lines
    assert r"{}[x] \\" in to_latex(Table([Heading("[x]")], rows)).splitlines()


def test_what_an_estimator_says_counts_for_its_own_run_alone() -> None:
    rows = [
        ("old", "k_hat", 0, 0.9),  # of before estimators said so themselves
        ("old", "k_hat", 1, 0.3),
        ("new", "k_hat", 0, 0.9),
        ("new", "reliable", 0, 1.0),
        ("new", "reliable", 1, 0.0),
    ]
    rows += [(run, "log_px", datum, -1.0) for run in ("old", "new") for datum in (0, 1)]
    frame = pd.DataFrame(rows, columns=["run", "name", "datum", "value"]).assign(
        standard_error=0.1
    )
    found = is_reliable(frame, Method("importance"))
    assert found["old"].tolist() == [False, True]
    assert found["new"].tolist() == [True, False]
