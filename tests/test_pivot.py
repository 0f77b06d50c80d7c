"""Tables over two axes, by labels of sweeps or by what the database knows anyway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import plot_from_db
from tests.tables import rows_of
from tests.test_plot_from_db import add_run
from utils.results.database import ResultsDatabase, database_url
from utils.results.records import MEMBERSHIP, Label, Link

MEANS = {("FFG", "MNIST"): -90.0, ("IAF", "MNIST"): -85.0, ("FFG", "digits"): -20.0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two models on two data sets, less one, two seeds each."""
    for number, ((model, data), mean) in enumerate(MEANS.items()):
        for seed in (0, 1):
            folder = add_run(
                tmp_path,
                f"hash{number}",
                seed,
                {"log_px IWAE-5000": mean + seed, "elbo IWAE-5000": mean - 1 + seed},
                posterior=model.lower(),
                dataset=data.lower(),
                started=f"2024-05-0{number + 1}T10:00:00+00:00",
            )
            labels = {"model": model, "data set": data, "training epochs": "9"}
            folder.labels.append([Label("expA", *pair) for pair in labels.items()])
            if model == "FFG":
                folder.links.append([Link("expB", MEMBERSHIP)])
                folder.labels.append([Label("expB", "model", "other name")])
    database = ResultsDatabase(database_url(tmp_path))
    assert len(database.rebuild(tmp_path).imported) == 6
    database.close()
    return tmp_path


def table(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert plot_from_db.main(["table", "--results", str(root), *arguments]) == 0
    return capsys.readouterr().out


def refusal(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert plot_from_db.main(["table", "--results", str(root), *arguments]) == 2
    return capsys.readouterr().err


LOG_PX = ("-name", "log_px")


def test_models_down_data_sets_across_means_over_seeds(root, capsys):
    printed = table(root, capsys, "--rows", "model", "--columns", "data set", *LOG_PX)
    first, second = rows_of(printed)
    assert list(first) == ["model", "MNIST", "digits"]
    assert first["model"] == "FFG" and first["MNIST"].startswith("-89.50 ± ")
    assert first["digits"].startswith("-19.50 ± ")
    assert second["model"] == "IAF" and second["digits"] == "-"


def test_the_best_of_each_column_is_bold(root, capsys):
    options = ("--rows", "model", "--columns", "data set", *LOG_PX, "--format", "latex")
    printed = table(root, capsys, *options)
    assert re.findall(r"(\w+) &.*mathbf\{(.*?)\}", printed) == [("IAF", "-84.50")]
    assert r"IAF & $\mathbf{-84.50} \pm" in printed
    assert "FFG & $-89.50" in printed


def test_each_bound_has_its_lines(root, capsys):
    rows = rows_of(table(root, capsys, "--rows", "model", "--columns", "data set"))
    assert [(row["bound"], row["model"]) for row in rows] == [
        (f"{bound} (IWAE-5000)", model)
        for bound in ("ELBO", "log p(x)")
        for model in ("FFG", "IAF")
    ]


def test_bounds_may_stand_across(root, capsys):
    rows = rows_of(table(root, capsys, "--rows", "model", "--columns", "data set", "bound"))
    across = [
        f"{data}, {bound} (IWAE-5000)"
        for data in ("MNIST", "digits")
        for bound in ("ELBO", "log p(x)")
    ]
    assert [list(row) for row in rows] == 2 * [["model", *across]]
    assert rows[1]["MNIST, log p(x) (IWAE-5000)"].startswith("-84.50 ± ")
    assert rows[1][across[-1]] == "-"
    rows = rows_of(table(root, capsys, "--rows", "model", "data set", "--columns", "bound"))
    assert [(row["model"], row["data set"]) for row in rows] == list(MEANS)


def test_columns_of_the_database_are_axes_too_and_keys_may_have_their_dots(root, capsys):
    printed = table(root, capsys, "--rows", "training.epochs", "posterior", *LOG_PX)
    assert list(rows_of(printed)[0]) == ["training.epochs", "posterior", "mnist", "digits"]


def test_labels_are_those_of_the_experiment_asked_for(root, capsys):
    printed = table(root, capsys, "-experiment", "expB", "--rows", "model", *LOG_PX)
    assert [row["model"] for row in rows_of(printed)] == ["other name"]


def test_what_cannot_stand_in_one_place_is_told(root, capsys):
    said = refusal(root, capsys, "--rows", "training epochs", "--columns", "data set", *LOG_PX)
    assert "2 configurations stand in one place" in said and "posterior=" in said
    said = refusal(root, capsys, "--rows", "modle", *LOG_PX)
    assert "no run has a label 'modle'" in said and "Did you mean 'model'?" in said


def test_runs_without_a_place_are_counted(root, capsys):
    axes = ("--rows", "model", "--columns", "data set", *LOG_PX)
    assert "no label for an axis" not in table(root, capsys, *axes)
    add_run(root, "plain", 0, {"log_px IWAE-5000": -80.0}, dataset="mnist")  # of no sweep
    database = ResultsDatabase(database_url(root))
    database.rebuild(root)
    database.close()
    printed = table(root, capsys, *axes)
    assert "1 run(s) have no label for an axis." in printed
    assert len(rows_of(printed)) == 2


def test_a_place_with_numbers_of_several_data_sets_says_so(root, capsys):
    said = refusal(root, capsys, "--rows", "model", "--columns", "loss", *LOG_PX)
    assert "differ in data set:" in said and "splits" not in said
