"""The figure of samplers on one decoder: its lines, and what it says of runs that are missing."""

from __future__ import annotations

import sys

import matplotlib.image
import pytest

from experiments.drawing import save
from experiments.samplers_vae import figure
from experiments.samplers_vae.figure import Key
from utils.console import Console

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
