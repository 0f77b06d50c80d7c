"""The experiments on collapse: exact counts, quadrature, and each figure by one command."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.collapse_linear import figure as linear
from experiments.collapse_toy import figure as toy
from experiments.collapse_toy.figure import posterior_mean
from experiments.sweeping.planning import make_plan
from experiments.sweeping.points import expand
from experiments.sweeping.sweep_file import read
from main import main
from models.generative import DeepLatentGaussian, LinearGaussian
from models.likelihoods import Gaussian
from tests.components import normal
from tests.test_sweeps import begun
from utils.data.ring import Ring

ROOT = Path(__file__).resolve().parent.parent


def test_sweeps_have_the_noises_and_methods_of_the_figures():
    points = expand(read(ROOT / "configs" / "collapse_linear" / "sweep.yaml").stage)
    for data, scales in linear.SCALES.items():
        noises = [point.labels["noise"] for point in points if point.labels["data"] == data]
        assert noises == list(scales)
    (_, axis) = read(ROOT / "configs" / "collapse_toy" / "sweep.yaml").stage.axes
    assert [choice.label for choice in axis.choices] == list(toy.METHODS)


@pytest.mark.parametrize(("data", "epochs", "period"), [("digits", 48, 16), ("mnist", 5, 2)])
def test_warm_ups_are_as_long_as_the_data_set_wants(tmp_path, data, epochs, period):
    script = ROOT / "experiments" / "collapse_mnist" / "run.sh"
    ((_, *words),) = begun(tmp_path, script, DATA=data)
    sweep = read(ROOT / words[0])
    plan = make_plan(sweep, expand(sweep.stage), tmp_path)
    configs = {run.label: run.identified.config for run in plan.runs}
    assert plan.experiments == [f"collapse_{data}"]
    assert {config.data.name for config in configs.values()} == {data}
    warmups = {
        method: configs[f"decoder=wide, method={method}"].loss.options["warmup"].options
        for method in ("kl_warmup", "cyclical")
    }
    assert warmups["kl_warmup"]["epochs"] == epochs
    assert warmups["cyclical"]["period"] == period


@pytest.mark.parametrize("variance", [0.1, 0.7, 20.0, None])
def test_the_optimum_is_that_of_the_most_likely_model(variance):
    """Its log p(x) is that of the model with these parameters, and no other near it has more."""
    x = (normal(400, 5) @ normal(5, 5)).view(400, 1, 1, 5)
    eigenvalues = linear.spectrum(x)
    best = linear.optimum(eigenvalues, 3, variance)
    if variance is None:
        assert best.variance == pytest.approx(eigenvalues[3:].mean().item())
    else:
        assert best.variance == variance
    rows = x.flatten(1)
    values, vectors = torch.linalg.eigh(rows.T.cov(correction=0))
    length = (values.flip(0)[:3] - best.variance).clamp_min(0).sqrt()
    model = LinearGaussian((1, 1, 5), latent_dim=3, scale=best.variance**0.5).double()
    with torch.no_grad():
        model.weight.copy_(vectors.flip(1)[:, :3] * length)
        model.bias.copy_(rows.mean(0))
        top = model.log_px(x).mean()
        assert top.item() == pytest.approx(best.log_px, abs=1e-6)
        active = (model.exact_posterior(x).mean.var(0, correction=0) > linear.ACTIVE).sum()
        assert best.active == active
        for _ in range(5):
            model.weight.add_(0.02 * torch.randn_like(model.weight))
            assert model.log_px(x).mean() < top


def test_the_posterior_mean_by_quadrature():
    """Of a linear decoder it is known."""
    decoder = nn.Sequential(nn.Linear(1, 2), nn.Unflatten(1, (1, 1, 1, 2)))
    model = DeepLatentGaussian(1, (1, 1, 2), decoder, Gaussian(scale=0.5)).double()
    x = normal(6, 1, 1, 2)
    weight, bias = decoder[0].weight[:, 0], decoder[0].bias
    precision = 1 + weight.square().sum() / 0.25
    exact = ((x.flatten(1) - bias) @ weight) / 0.25 / precision
    with torch.no_grad():
        torch.testing.assert_close(posterior_mean(model, x), exact, rtol=1e-6, atol=1e-6)


def test_a_ring_lies_around_a_stretched_circle():
    x = Ring(noise_scale=0.1, stretch=2.0, num_train=20_000).load().splits["train"]
    assert x.shape == (20_000, 1, 1, 2)
    first, second = (x.flatten(1).double() / torch.tensor([2.0, 1.0])).T
    radius = first.square() + second.square()
    expected = 1 + 0.01 / 4 + 0.01  # E of cos² + sin² and of the noise
    error = radius.std() / len(radius) ** 0.5
    assert abs(radius.mean() - expected) < 5 * error


TINY = [
    "training.epochs=2",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "evaluation={max_data: 6, estimators: [{name: exact}, {name: importance, num_samples: 5}]}",
]
CASES = {
    "collapse_linear": ([], ["data.num_train=50"]),
    "collapse_toy": (
        ["--methods", "elbo", "hvi_avo"],
        ["data.num_train=40", "evaluation.estimators=[{name: importance, num_samples: 5}]"],
    ),
}


@pytest.mark.parametrize("experiment", CASES)
def test_one_command_makes_figure_and_table(experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VI_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(linear, "SCALES", {"synthetic": ("1.0", linear.LEARNED)})
    figure = importlib.import_module(f"experiments.{experiment}.figure")
    options, small = CASES[experiment]
    output = tmp_path / "figures" / "figure.png"
    command = ["figure", "--output", str(output), *options, "-set", *TINY, *small]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as missing:  # a figure trains nothing
        figure.main()
    assert missing.value.code == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "2 of 2 runs are missing or not finished; make them:"
    for line in lines:
        _, program, *arguments = shlex.split(line)
        assert program == "main.py"
        assert main([*arguments, "-q"]) == 0
    capsys.readouterr()
    figure.main()
    assert output.stat().st_size > 1000
    table = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert not any("nan" in line for line in table)
