"""The figure of samplers on one decoder: its lines, and what it says of runs that are missing."""

from __future__ import annotations

import sys

import matplotlib.image
import pytest

from experiments.drawing import held_out, save
from experiments.runner.rows import means
from experiments.samplers_vae import figure
from experiments.samplers_vae.figure import Key
from utils.console import Console
from utils.results.methods import Method
from utils.results.records import Estimate

NUMBERS = {
    Key("langevin", 0, 0): -30.0,
    Key("langevin", 0, 1): -32.0,
    Key("langevin", 4, 0): -28.0,
    Key("uha", 1, 0): -29.0,
    Key("uha", 4, 0): -27.0,
}


def test_lines_begin_at_the_gaussian_and_are_means_over_seeds():
    found = figure.points(NUMBERS, "uha")
    assert [(k, number.mean) for k, number in found.items()] == [(0, -31), (1, -29), (4, -27)]
    assert found[0].standard_error == pytest.approx(1.0)
    assert list(figure.points(NUMBERS, "langevin")) == [0, 4]


def test_the_figure_is_drawn(tmp_path):
    drawn = figure.draw({"elbo": NUMBERS, "log_px": NUMBERS}, ["langevin", "uha"])
    assert [len(axis.get_lines()) >= 2 for axis in drawn.axes] == [True, True]
    save(drawn, tmp_path / "figure.png", Console())
    assert matplotlib.image.imread(tmp_path / "figure.png").ndim == 3


@pytest.mark.usefixtures("results_here")
def test_of_missing_runs_the_command_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figure", "--methods", "uha", "--steps", "4"])
    with pytest.raises(SystemExit) as ended:
        figure.main()
    assert ended.value.code == 2
    assert "python main.py -config configs/samplers_vae/base.yaml" in capsys.readouterr().err


def test_figures_are_of_held_out_data_where_several_splits_were_measured() -> None:
    rows = [
        Estimate("estimate", *Method("importance"), split, "elbo", datum, value)
        for split, value in (("train", -1.0), ("test", -3.0), ("simulated", -9.0))
        for datum in range(2)
    ]
    assert means(held_out(rows)) == {(Method("importance"), "elbo"): -3.0}
    assert [row.split for row in held_out(rows[:2])] == ["train", "train"]
    assert held_out([]) == []
