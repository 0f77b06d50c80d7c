"""The experiments on Monte-Carlo VAEs: their sweeps, tables and figures, each by one command."""

from __future__ import annotations

import importlib
import math
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from experiments.mcvae_images.published import EPOCHS, PUBLISHED
from experiments.mcvae_toy_posteriors import figure as rings
from experiments.mcvae_toy_recovery.figure import of_greatest_likelihood
from experiments.sweeping.sweep_file import read
from main import main
from models.noisy_radius import NoisyRadius
from tests.components import reseed
from utils.data import toy

ROOT = Path(__file__).resolve().parent.parent
OTHERS = {  # files that are no methods
    "mcvae_toy_recovery": {"reduced"},
    "mcvae_toy_posteriors": {"reduced"},
    "mcvae_ppca": {"reduced", "kept", "iwae"},
    "mcvae_images": {
        "chains", "measure", "mnist", "cifar10", "omniglot", "fashion_mnist", "celeba",
    },
}  # fmt: skip
every_experiment = pytest.mark.parametrize("experiment", OTHERS)


@every_experiment
def test_the_sweep_has_each_method_and_each_method_a_file(experiment):
    figure = importlib.import_module(f"experiments.{experiment}.figure")
    files = {path.stem for path in (ROOT / "configs" / experiment / "additional").glob("*.yaml")}
    assert files - OTHERS[experiment] == figure.METHODS.keys()
    stage = read(ROOT / "configs" / experiment / "sweep.yaml").stage
    stages = [stage, *([stage.following] if stage.following else [])]
    (axis,) = (axis for of in stages for axis in of.axes if axis.name == "method")
    assert [choice.label for choice in axis.choices] == list(figure.METHODS)
    script = (ROOT / "experiments" / experiment / "run.sh").read_text()
    for listed in re.findall(r"METHODS:-([^}]*)}", script):
        assert listed.split() == list(figure.METHODS)


def test_published_tables_are_of_our_methods():
    images = importlib.import_module("experiments.mcvae_images.figure")
    assert PUBLISHED.keys() <= set(images.DATA)
    for table in PUBLISHED.values():
        assert table.rows.keys() == images.METHODS.keys()
        for row in table.rows.values():
            assert len(row.bound) == len(row.nll) == len(EPOCHS)
            assert row.bound[0] > row.bound[-1] and row.nll[0] > row.nll[-1]


class Small(NamedTuple):
    """What makes an experiment tiny: the figure's options and assignments to each run."""

    options: list[str]
    assignments: list[str]


TINY = [
    "training.batch_size=32",
    "training.epochs=1",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "evaluation.max_data=4",
]
EXACT = "evaluation.estimators=[{name: exact}, {name: importance, num_samples: 5}]"
ANNEALED = (
    "evaluation.estimators=[{name: ais, num_chains: 4, num_distributions: 2, schedule: linear, "
    "step_size: 0.05}, {name: ais, num_chains: 4, num_distributions: 3, schedule: linear, "
    "step_size: 0.05}, {name: importance, num_samples: 5}]"
)
NARROW = [
    "model.latent_dim=2",
    "model.decoder.channels=[2,2]",
    "encoder.channels=[2,2]",
    "runtime.keep_epochs=[1]",
]
SMALL = {
    "mcvae_toy_recovery": Small(["--dims", "3"], ["data.num_train=64", "data.num_test=8", EXACT]),
    "mcvae_toy_posteriors": Small([], ["data.num_train=64", "data.num_test=8", EXACT]),
    "mcvae_ppca": Small(
        ["--data", "4", "--repeats", "3"],
        ["data={name: digits, binarisation: none}", "model.latent_dim=3", EXACT],
    ),
    "mcvae_images": Small(
        ["--methods", "vae", "l_5", "--epochs", "1"],
        [*NARROW, ANNEALED, "data={name: digits}", "training.max_data=40"],
    ),
}


@pytest.mark.parametrize(
    "experiment",
    [
        "mcvae_toy_recovery",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in sorted({*SMALL} - {"mcvae_toy_recovery"})
        ),
    ],
)
def test_one_command_makes_figure_and_table(experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VI_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(rings, "NUM_DRAWS", 500)
    figure = importlib.import_module(f"experiments.{experiment}.figure")
    options, assignments = SMALL[experiment]
    output = tmp_path / "figures" / "figure.png"
    command = ["figure", "--output", str(output), *options, "-set", *TINY, *assignments]
    monkeypatch.setattr(sys, "argv", command)
    for _ in range(2):  # some run on what others have trained
        try:
            figure.main()
            break
        except SystemExit as missing:  # a figure trains nothing
            assert missing.code == 2
        first, *lines = capsys.readouterr().err.splitlines()
        assert first.endswith("are missing or not finished; make them:")
        for line in lines:
            _, program, *arguments = shlex.split(line)
            assert program == "main.py"
            assert main([*arguments, "-q"]) == 0
        capsys.readouterr()
    else:
        figure.main()
    assert output.stat().st_size > 1000
    table = capsys.readouterr().out.splitlines()
    shown = options[1:3] if experiment == "mcvae_images" else figure.METHODS
    for method in shown:
        assert any(figure.METHODS[method] in line for line in table), method
    assert len({line.count("|") for line in table if line}) == 1
    assert not any("nan" in line for line in table)


def test_the_most_likely_parameters_are_a_maximum_near_the_truth():
    splits = toy.NoisyRadiusData(latent_dim=5, num_train=5000).load().splits
    best = of_greatest_likelihood(5, splits)
    x = splits["train"]

    def mean_log_px(slope: float, offset: float) -> torch.Tensor:
        model = NoisyRadius((1, 1, 1), latent_dim=5, slope=slope, offset=offset)
        return model.log_px(x)

    top = mean_log_px(best.slope, best.offset)
    for slope, offset in ((1.01, 1.0), (0.99, 1.0), (1.0, 1.01), (1.0, 0.99)):
        assert top.mean() > mean_log_px(slope * best.slope, offset * best.offset).mean()
    # Twice the log-likelihood ratio to the truth is chi-square of two degrees: 33 at 5 deviations.
    ratio = 2 * (top - mean_log_px(2 * math.pi, 2.0)).sum()
    assert 0 <= ratio < 33


@torch.no_grad()
def test_shares_of_exact_draws_are_those_of_the_quadrature(monkeypatch):
    """KL of draws from p(z|x) itself is 0: found by rejection from a ring."""
    reseed(0)
    x = rings.data()[1][None]
    model = NoisyRadius((1, 1, 1), slope=2 * math.pi, offset=2.0, learn=False).double()
    log_exact = rings.log_shares(model, x)
    assert abs(log_exact.logsumexp(0)) < 1e-9
    radius = torch.linspace(0.01, 4, 4000).double()
    log_f = (
        radius.log()
        + model.log_joint(x.double())(
            torch.stack([radius, torch.zeros_like(radius)], -1)[:, None]
        )[:, 0]
    )
    num = 100_000
    r = radius[log_f.softmax(0).multinomial(num, replacement=True)]
    angle = 2 * math.pi * torch.rand(num).double()
    z = torch.stack([r * angle.cos(), r * angle.sin()], -1)
    found = rings.divergence(rings.shares(z), log_exact)
    # 2 N KL is chi-square of about as many degrees as there are cells, less them: deviation √2m.
    cells = (rings.shares(z) > 0).sum().item()
    assert abs(found) < 5 * math.sqrt(2 * cells) / (2 * num) + 2e-3  # what the cells' radii round


def test_following_the_exact_likelihood_takes_the_experiments_steps(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    settings = ["data.num_train=200", "data.num_test=8", "training.epochs=2"]
    monkeypatch.setattr(sys, "argv", ["likelihood", "--dims", "3", "-set", *settings])
    importlib.import_module("experiments.mcvae_toy_recovery.likelihood").main()
    *_, row = capsys.readouterr().out.split("\n| 3 |")
    slope, offset = (float(cell) for cell in row.split("|")[:2])
    # Four steps of Adam change a logarithm by no more than four times the rate, 0.001, or so.
    assert 0 < 1 - slope / math.e**2 < 0.005 and 0 < 1 - offset / math.e**2 < 0.005
