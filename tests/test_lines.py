"""Figures of estimates against what a sweep varies."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

import plot_from_db
from experiments.reporting import ReportError
from experiments.reporting.lines import line_figure
from experiments.reporting.pivot import Axes, Placed
from experiments.reporting.tables import Number
from tests.test_plot_from_db import add_run
from utils.results.database import ResultsDatabase, database_url
from utils.results.methods import Method
from utils.results.records import Label

QUANTITY = ("elbo", Method("importance", '{"num_samples":10}'))
AXES = Axes(["method"], ["steps"])


def placed(numbers: dict[tuple[str, str], float]) -> Placed:
    rows, columns = (list(dict.fromkeys(zip(names))) for names in zip(*numbers, strict=True))
    cells = {
        ((row,), (column,), QUANTITY): Number(v, 0.5, 1) for (row, column), v in numbers.items()
    }
    return Placed(cells, rows, columns, {QUANTITY: "ELBO (IWAE-10)"}, (), ())


def test_lines_stand_at_their_numbers_and_a_single_point_is_level():
    numbers = {("a", "10"): -1.0, ("a", "2"): -3.0, ("b", "0"): -4.0}
    (panel,) = line_figure(placed(numbers), AXES, "log").axes
    (errors,) = panel.containers
    assert errors.lines[0].get_xydata().tolist() == [[2, -3], [10, -1]]
    level = next(line for line in panel.get_lines() if line.get_label() == "b")
    assert list(level.get_ydata()) == [-4, -4]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "10"]
    assert panel.get_xlabel() == "steps" and panel.get_title() == "ELBO (IWAE-10)"
    assert panel.get_ylabel() == "nats"


@pytest.mark.parametrize(
    ("column", "scale", "message"),
    [
        ("many", "linear", "'many' is not a number"),
        ("nan", "linear", "is not a number"),
        ("0", "log", "value 0"),
    ],
)
def test_what_has_no_place_on_the_axis_is_refused(column, scale, message):
    with pytest.raises(ReportError, match=message):
        line_figure(placed({("a", column): -1.0, ("a", "1"): -2.0}), AXES, scale)


def test_a_sweep_is_drawn_from_the_database(tmp_path: Path, capsys):
    for steps in (1, 4):
        for seed in (0, 1):
            means = {"log_px IWAE-5000": -90.0 + steps, "elbo IWAE-5000": -91.0}
            folder = add_run(tmp_path, f"hash{steps}", seed, means)
            folder.labels.append([Label("expA", "steps", str(steps))])
    database = ResultsDatabase(database_url(tmp_path))
    database.rebuild(tmp_path)
    database.close()
    output = tmp_path / "lines.png"
    options = ["lines", "--results", str(tmp_path), "--output", str(output), "--across"]
    assert plot_from_db.main([*options, "steps"]) == 0
    assert matplotlib.image.imread(output).ndim == 3
    said = capsys.readouterr().err
    assert "Data points: " in said and f"wrote {output}" in said
    assert plot_from_db.main([*options, "posterior"]) == 2
    assert "add what they differ in to --lines or --across" in capsys.readouterr().err
