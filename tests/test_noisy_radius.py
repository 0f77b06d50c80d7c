"""The model `noisy_radius` against other quadratures, its data, and its shells."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from models.energies import AbsoluteValue
from models.noisy_radius import NoisyRadius
from models.posteriors.gaussian import StandardNormal
from models.posteriors.monte_carlo import annealed_mala
from models.posteriors.step_sizes import Fixed
from utils.data import toy

SHAPE = (1, 1, 1)


def made(latent_dim: int, slope: float = 2 * math.pi, offset: float = 2.0) -> NoisyRadius:
    model = NoisyRadius(SHAPE, latent_dim=latent_dim, slope=slope, offset=offset)
    return model.double().requires_grad_(False)


def data(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, *SHAPE)


def test_in_one_dimension_it_is_a_skew_normal():
    """x / a = |z| + b + ε / a, of which `absolute_value` knows the density."""
    slope, offset = 3.0, 0.7
    x = torch.linspace(-2, 14, 33).double()
    model = AbsoluteValue(SHAPE, scale=1 / slope).double()
    expected = model.log_px(data(*(x / slope - offset).tolist())) - math.log(slope)
    torch.testing.assert_close(made(1, slope, offset).log_px(data(*x.tolist())), expected)


@pytest.mark.parametrize(("slope", "offset"), [(2 * math.pi, 2.0), (0.3, 0.1), (20.0, 5.0)])
def test_on_the_plane_it_is_the_sum_over_a_grid(slope, offset):
    model = made(2, slope, offset)
    x = data(*(slope * (radius + offset) + 0.3 for radius in (0.01, 1.0, 2.5)))
    side = torch.arange(-7, 7, 0.02, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)[:, None]
    expected = [model.log_joint(each[None])(z).logsumexp(0) + 2 * math.log(0.02) for each in x]
    # A grid sees the cone's tip at 0 to the second order of its step alone.
    torch.testing.assert_close(model.log_px(x), torch.cat(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("latent_dim", [1, 2, 5, 50, 300])
@pytest.mark.parametrize(("slope", "offset"), [(2 * math.pi, 2.0), (7.4, 7.4), (0.5, 0.2)])
def test_it_is_a_density_whose_quadrature_has_converged(latent_dim, slope, offset, monkeypatch):
    model = made(latent_dim, slope, offset)
    low = slope * (max(0.0, math.sqrt(latent_dim) - 8) + offset) - 9
    high = slope * (math.sqrt(latent_dim) + 8 + offset) + 9
    x = torch.arange(low, high, 0.25, dtype=torch.float64)
    log_px = model.log_px(data(*x.tolist()))
    assert abs(log_px.logsumexp(0).item() + math.log(0.25)) < 1e-9
    monkeypatch.setattr("models.noisy_radius.FINENESS", 0.4)
    finer = model.log_px(data(*x.tolist()))
    near = log_px > log_px.max() - 60
    torch.testing.assert_close(log_px[near], finer[near], atol=1e-9, rtol=0)


def test_data_are_what_the_model_describes():
    """The mean of log p(x) over data is the same as over the model's own draws, for the truth."""
    x = toy.NoisyRadiusData(latent_dim=7, num_train=4000).load().splits["train"]
    assert x.shape == (4000, *SHAPE)
    model = made(7)
    own = model.sample(4000).x
    values = [model.log_px(draws) for draws in (x, own)]
    error = math.hypot(*(value.std().item() / math.sqrt(4000) for value in values))
    assert abs(values[0].mean() - values[1].mean()) < 4.5 * error


def test_its_mean_and_gradient_are_finite_at_the_origin():
    model = NoisyRadius(SHAPE, latent_dim=3).double()
    z = torch.zeros(1, 1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.log_joint(data(1.0))(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), z)
    assert gradient.isfinite().all() and second.isfinite().all()
    assert model.mean(z).shape == (1, 1, *SHAPE)


def test_more_than_one_number_is_refused():
    with pytest.raises(ValueError, match="one number a datum"):
        NoisyRadius((1, 1, 2))


@torch.no_grad()
@pytest.mark.parametrize("num_leapfrog", [None, 2])
def test_annealed_chains_from_the_prior_estimate_log_p_of_a_ring(num_leapfrog):
    """Their weights are at most the likelihood's largest value, so that the mean's error holds."""
    posterior = annealed_mala(
        2,
        base=StandardNormal(2),
        num_steps=5,
        step_size=partial(Fixed, first=0.02 if num_leapfrog is None else 0.1),
        num_leapfrog=num_leapfrog,
    ).double()
    model, num_draws = made(2), 20_000
    x = data(*(2 * math.pi * (radius + 2) for radius in (0.5, 1.2, 2.2)))
    draw = posterior(torch.zeros(3, 0).double(), model.log_joint(x), num_draws)
    shares = (draw.log_w - model.log_px(x)).exp()
    error = shares.std(0) / math.sqrt(num_draws)
    assert (error < 0.05).all()
    assert ((shares.mean(0) - 1).abs() < 4.5 * error).all()
