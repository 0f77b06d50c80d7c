"""The experiments on AVO: toy bounds stay below log Z, and each figure is made by one command."""

from __future__ import annotations

import importlib
import math
import shlex
import sys
from pathlib import Path

import pytest
import torch

from estimators.importance import ImportanceSampling
from experiments.avo_toy.figure import exact_histogram, histogram, mode_weights
from experiments.most_likely import most_likely
from experiments.runner.build import build
from experiments.runner.schema import DEFAULTS, REGISTRIES, RunConfig
from main import main
from models.energies import (
    FOUR_MODES,
    AbsoluteValue,
    ToyEnergy,
    log_normaliser,
)
from models.posteriors.gaussian import gaussian
from tests.components import POSTERIORS, make_node, make_posterior
from utils.config.loading import load
from utils.config.validation import validate
from utils.data import toy

ROOT = Path(__file__).resolve().parent.parent
NO_DATA = torch.zeros(1, 0, 1, 1)


@pytest.mark.parametrize("options", POSTERIORS)
def test_every_posterior_bounds_log_z(options):
    """Untrained, on a target close to where all of them start, so that weights have variances."""
    model = ToyEnergy((0, 1, 1), energy="correlated").double()
    posterior = make_posterior(options)
    context = posterior.initial_context().double()[None]
    estimate = ImportanceSampling(num_samples=4000)(model, posterior, NO_DATA, context)
    elbo = estimate.stats["elbo"]
    assert elbo.value.item() < 5 * elbo.standard_error.item()  # log Z = 0
    assert estimate.log_px.value.item() < 5 * estimate.log_px.standard_error.item()


@pytest.mark.parametrize("method", ["hvi_elbo", "hvi_avo", "iaf_elbo", "iaf_avo"])
@pytest.mark.parametrize("energy", ["a", "d"])
def test_training_raises_the_bound_towards_log_z(energy, method):
    more = [ROOT / "configs" / "avo_toy" / "additional" / f"{method}.yaml"]
    base = ROOT / "configs" / "avo_toy" / "base.yaml"
    config = validate(RunConfig, load(base, more, [f"model.energy={energy}"], DEFAULTS))
    built = build(config, (0, 1, 1))
    x = NO_DATA.expand(128, -1, -1, -1)
    optimiser = torch.optim.Adam(built.vae.parameters(), lr=1e-2)

    def elbo() -> tuple[float, float]:
        vae, estimator = built.vae, ImportanceSampling(num_samples=4000)
        with torch.no_grad():
            stats = estimator(vae.model, vae.posterior, x[:1], vae.context(x[:1])).stats["elbo"]
        return stats.value.item(), stats.standard_error.item()

    before, _ = elbo()
    for _ in range(60):
        optimiser.zero_grad()
        vae = built.vae
        built.loss(vae.model, vae.posterior, x, vae.context(x)).loss.mean().backward()
        optimiser.step()
    after, error = elbo()
    assert before + 0.3 < after < log_normaliser(energy) + 5 * error


@pytest.mark.parametrize("energy", ["b", "d", "f", "u4", "banana"])
def test_annealing_from_the_prior_gives_log_z(energy):
    ais = make_node(
        REGISTRIES["estimators"],
        {"name": "ais", "num_chains": 200, "num_distributions": 30, "num_leapfrog": 5}
        | {"path": "prior", "schedule": "linear"},
    ).build(compile_step=False, rounded_forces=False)
    model = ToyEnergy((0, 1, 1), energy=energy).double()
    posterior = gaussian(2)
    context = posterior.initial_context().double()[None]
    value, error = ais(model, posterior, NO_DATA, context).log_px
    # log of a mean: its bias is half the square of its error.
    assert abs(value.item() - log_normaliser(energy)) < 5 * error.item() + error.item() ** 2


def test_a_bidirectional_estimate_holds_log_z():
    bdmc = make_node(
        REGISTRIES["estimators"],
        {"name": "bdmc", "num_chains": 50, "num_distributions": 50, "num_leapfrog": 5}
        | {"path": "prior", "schedule": "linear"},
    ).build(compile_step=False, rounded_forces=False)
    model = ToyEnergy((0, 1, 1), energy="d").double()
    posterior = gaussian(2)
    z, x = model.sample(20)
    context = posterior.initial_context().double().expand(20, -1)
    estimate = bdmc(model, posterior, x, context, z)
    lower, upper = estimate.log_px.value, estimate.stats["upper"].value
    for bound, sign in ((lower, 1), (upper, -1)):
        assert sign * bound.mean() < 5 * bound.std() / len(bound) ** 0.5  # log Z = 0
    assert (upper - lower).mean() < 0.5


def test_histogram_and_weights_of_exact_draws():
    num = 50_000
    z = ToyEnergy((0, 1, 1), energy="d").sample(num).z
    exact = exact_histogram("d")
    found = histogram(z, torch.full((num,), 1 / num).double())
    assert math.isclose(exact.sum().item(), 1, rel_tol=1e-6)
    assert exact[found >= 0.1 * exact].sum() > 0.99
    # Chi-square over the cells where it applies: mean = their number, variance = twice that.
    large = exact * num > 10
    terms = (found - exact)[large].square() * num / exact[large]
    assert abs(terms.sum() - large.sum()) < 5 * (2 * large.sum()) ** 0.5
    for share, weight in zip(mode_weights(z), FOUR_MODES.values(), strict=True):
        assert abs(share - weight) < 5 * (weight * (1 - weight) / num) ** 0.5 + 2e-3


def test_most_likely_noise_is_a_maximum_near_the_truth():
    x = toy.AbsoluteValueData(num_train=20_000, noise_scale=0.5).load().splits["train"]
    best = most_likely(AbsoluteValue((1, 1, 1)), x)
    scale = best.log_scale.exp().item()

    def mean_log_px(scale: float) -> torch.Tensor:
        return AbsoluteValue((1, 1, 1), scale=scale).double().log_px(x.double()).mean()

    top = mean_log_px(scale)
    # The curvature is the Fisher information, so 1 / sqrt(N I) is the estimate's standard error.
    curvature = (2 * top - mean_log_px(scale + 0.01) - mean_log_px(scale - 0.01)) / 0.01**2
    assert curvature > 0
    assert abs(scale - 0.5) < 5 / (curvature * len(x)).sqrt()


TINY = [
    "training.batch_size=32",
    "training.epochs=1",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "evaluation.max_data=4",
]
SMALL = {  # what makes each experiment tiny
    "avo_toy": ["data.num_train=32", "data.num_test=4"],
    "avo_biased_noise": ["data.num_train=64", "data.num_test=4"],
}


FEW = {"avo_toy": ["--energies", "d"]}


@pytest.mark.parametrize(
    "experiment",
    [
        "avo_biased_noise",
        pytest.param("avo_toy", marks=pytest.mark.slow),
    ],
)
def test_one_command_makes_figure_and_table(experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VI_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    figure = importlib.import_module(f"experiments.{experiment}.figure")
    more = FEW.get(experiment, [])
    output = tmp_path / "figures" / "figure.png"
    command = ["figure", "--output", str(output), *more, "-set", *TINY, *SMALL[experiment]]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as missing:  # a figure trains nothing
        figure.main()
    assert missing.value.code == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.endswith("are missing or not finished; make them:")
    for line in lines:
        _, program, *arguments = shlex.split(line)
        assert program == "main.py"
        assert main([*arguments, "-q"]) == 0
    capsys.readouterr()
    figure.main()
    assert output.stat().st_size > 1000
    table = capsys.readouterr().out.splitlines()
    for name in figure.METHODS.values():
        assert any(name in line for line in table), name
    assert len({line.count("|") for line in table if line}) <= 2
    assert not any("nan" in line for line in table)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((f"{experiment}.figure", f"{experiment}.png") for experiment in SMALL),
        ("flows.picture", "posteriors_2d.png"),
    ],
)
def test_figures_go_into_the_results_by_default(module, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VI_RESULTS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken
    monkeypatch.setattr(sys, "argv", ["figure", "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"experiments.{module}").main()
    assert f"default: {tmp_path / name}" in capsys.readouterr().out
