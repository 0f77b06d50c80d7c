"""Toy energies, |z| + noise, and what they are fed with: answers by other means than theirs."""

from __future__ import annotations

import math
import typing

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from estimators.importance import ImportanceSampling
from models.energies import (
    ENERGIES,
    FOUR_MODES,
    AbsoluteValue,
    EnergyName,
    ToyEnergy,
    log_normaliser,
    tabulate,
)
from models.losses import ELBO
from models.networks.constant import Constant
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, gaussian
from models.vae import VAE
from utils.data import toy as toy_data

NAMES = list(ENERGIES)
NO_DATA = torch.zeros(3, 0, 1, 1)
PUBLISHED = {  # log Z, E[z], Var[z] of the energies as the paper's code has them
    "a": (1.8775, (0.0, 0.0), (3.304, 1.395)),
    "b": (3.8146, (0.248, -0.176), (7.899, 9.705)),
    "c": (3.4502, (0.0, 0.0), (2.749, 5.499)),
    "d": (0.0, (0.4, 0.4), (1.64, 2.44)),
    "e": (1.7263, (0.0, 0.0), (5.0, 0.660)),
    "f": (2.6323, (0.0, -0.377), (9.978, 1.223)),
}


def toy(name: str, dtype: torch.dtype = torch.float64) -> ToyEnergy:
    return ToyEnergy((0, 1, 1), energy=typing.cast(EnergyName, name)).to(dtype)


def moments(name: str, extent: float, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, mean and variance by another grid."""
    table = tabulate(typing.cast(EnergyName, name), extent, step)
    weights = table.log_f.softmax(0)[:, None]
    mean = (weights * table.z).sum(0)
    return torch.tensor(table.log_z), mean, (weights * (table.z - mean).square()).sum(0)


def test_every_name_has_an_energy():
    assert set(typing.get_args(EnergyName)) == set(ENERGIES)


@pytest.mark.parametrize("name", NAMES)
def test_log_z_is_that_of_another_grid(name):
    table = tabulate(name, 24.0, 0.08)
    assert math.isclose(log_normaliser(name), table.log_z, abs_tol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_log_z_is_that_of_gaussian_quadrature(name):
    """Gauss-Legendre on pieces of z_1 and z_2: no place in common with the grid."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    edges = np.arange(-18.0, 18.01, 0.5)
    side = (edges[:-1, None] + 0.25 * (nodes + 1)).ravel()
    weights = np.tile(0.25 * weights, len(edges) - 1)
    z1, z2 = torch.from_numpy(side)[:, None], torch.from_numpy(side)[None]
    f = (-ENERGIES[name](*torch.broadcast_tensors(z1, z2))).exp().numpy()
    assert math.isclose(log_normaliser(name), math.log(weights @ f @ weights), abs_tol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_moments(name):
    log_z, mean, variance = PUBLISHED[name]
    found = moments(name, 12.0, 0.04)  # the square of those numbers
    torch.testing.assert_close(found[0].item(), log_z, atol=6e-5, rtol=0)
    torch.testing.assert_close(found[1], torch.tensor(mean).double(), atol=6e-4, rtol=0)
    torch.testing.assert_close(found[2], torch.tensor(variance).double(), atol=6e-4, rtol=0)


def test_what_is_known_in_closed_form():
    assert math.isclose(log_normaliser("e"), math.log(2 * math.pi * math.sqrt(5) * 0.4))
    for name in ("d", "normal", "correlated", "mixture", "banana"):
        assert math.isclose(log_normaliser(name), 0, abs_tol=1e-8), name
    # A ridge of width 0.4 along 8 units of z_1, and the two halves of a Gaussian for walls.
    root = math.sqrt(2 * math.pi)
    u2 = math.log(0.4 * root) + math.log(8 + 0.4 * root)
    assert math.isclose(log_normaliser("u2"), u2, abs_tol=1e-5)


@pytest.mark.parametrize(("name", "log_z"), [("u2", 2.0827), ("u3", 2.6423), ("u4", 2.6854)])
def test_inside_the_walls_are_the_energies_of_rezende_and_mohamed(name, log_z):
    side = torch.linspace(-4, 4, 801, dtype=torch.float64)
    f = (-ENERGIES[name](side[:, None], side[None].expand(801, 801))).exp()
    box = torch.trapezoid(torch.trapezoid(f, side), side)
    # To a grid's edge: those sums count the places on it in full.
    assert math.isclose(box.log().item(), log_z, abs_tol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_prior_and_likelihood_split_log_f(name):
    model = toy(name)
    z = model.sample_prior(50, 3)
    log_f = model.log_joint(NO_DATA)(z)
    assert z.shape == (50, 3, 2)
    assert log_f.shape == (50, 3)
    parts = model.log_prior(z) + model.log_likelihood(NO_DATA, z)
    torch.testing.assert_close(parts, log_f)
    assert model.log_px(NO_DATA).shape == (3,)


def test_prior_is_the_density_that_it_is_drawn_from():
    model, num = toy("a"), 20_000
    z = model.sample_prior(num, 1)[:, 0]
    prior = torch.distributions.Normal(0.0, torch.tensor(3.0).double())
    torch.testing.assert_close(model.log_prior(z[None]), prior.log_prob(z).sum(-1)[None])
    assert (z.mean(0).abs() < 5 * 3 / num**0.5).all()
    assert ((z.var(0) - 9).abs() < 5 * 9 * (2 / num) ** 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_those_of_log_f(name, dtype):
    model = toy(name, dtype)
    ring = 30 * torch.nn.functional.normalize(torch.randn(20, 2, dtype=dtype), dim=-1)
    z = torch.cat([torch.zeros(1, 2, dtype=dtype), 3 * torch.randn(50, 2, dtype=dtype), ring])
    z = z[:, None].requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_f(z).sum(), z)
    assert gradient.isfinite().all()
    if dtype == torch.float64:
        some = torch.randn(5, 1, 2, dtype=dtype, requires_grad=True)
        assert torch.autograd.gradcheck(model.log_f, some)


@pytest.mark.parametrize("name", NAMES)
def test_importance_weights_average_to_z_and_the_bound_is_below(name):
    model, posterior = toy(name), gaussian(2).double()
    context = torch.tensor([0.0, 0.0, 2.3, 2.3]).double().expand(1, 4)  # variance 10
    estimate = ImportanceSampling(num_samples=40_000)(model, posterior, NO_DATA[:1], context)
    log_z = log_normaliser(name)
    value, error = estimate.log_px
    assert abs(value.item() - log_z) < 5 * error.item()
    elbo = estimate.stats["elbo"]
    assert elbo.value.item() < log_z + 5 * elbo.standard_error.item()


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_of_f(name):
    num = 20_000
    z, x = toy(name).sample(num)
    assert x.shape == (num, 0, 1, 1)
    table = tabulate(name)
    weights = table.log_f.softmax(0)[:, None]
    # Means of z and z², which have variances of their own by the same grid.
    for drawn, exact in ((z, table.z), (z.square(), table.z.square())):
        mean = (weights * exact).sum(0)
        variance = (weights * (exact - mean).square()).sum(0)
        assert ((drawn.mean(0) - mean).abs() < 5 * (variance / num).sqrt() + 1e-3).all()


def test_samples_lie_between_the_places_of_the_grid():
    """Uniformly in cells around them, so that means are those of f."""
    num = 100_000
    z = toy("e").sample(num).z
    assert len(z.unique(dim=0)) == num
    deviation = torch.tensor([math.sqrt(5), 0.8]).double()
    assert (z.mean(0).abs() < 4.5 * deviation / num**0.5).all()


def test_samples_of_d_have_its_weights():
    num = 20_000
    z = toy("d").sample(num).z
    nearest = torch.cdist(z, torch.tensor(list(FOUR_MODES)).double()).argmin(1)
    shares = torch.bincount(nearest, minlength=4) / num
    weights = torch.tensor(list(FOUR_MODES.values()))
    # 5 standard errors, and what of a component lies nearer to another mean.
    assert ((shares - weights).abs() < 5 * (weights * (1 - weights) / num).sqrt() + 2e-3).all()


def test_free_parameters_reach_the_best_bound():
    """Constant encoder, no data: a full Gaussian finds the correlated normal, so the gap is 0."""
    encoder = Constant()
    vae = VAE(toy("correlated", torch.float32), encoder, gaussian(2, covariance="full"))
    x = toy_data.Nothing(num_train=16).load().splits["train"]
    optimiser = torch.optim.Adam(vae.parameters(), lr=0.05)
    loss = ELBO(num_samples=8, gradient="stl")
    for _ in range(400):
        optimiser.zero_grad()
        bound = loss(vae.model, vae.posterior, x, vae.context(x))
        bound.loss.mean().backward()
        optimiser.step()
    assert vae.context(x).unique(dim=0).shape[0] == 1
    # The bound's noise vanishes with its gap.
    assert abs(bound.value.mean().item()) < 1e-2


def test_constant_encoder_makes_the_amortiser_its_bias():
    posterior: Chain = gaussian(2)
    vae = VAE(toy("a", torch.float32), Constant(), posterior)
    context = vae.context(NO_DATA)
    assert torch.equal(context, posterior.initial_context().expand(3, -1))
    context.sum().backward()
    assert (vae.amortiser.weight.grad == 0).all()
    assert (vae.amortiser.bias.grad == 3).all()


def test_absolute_value_knows_its_evidence():
    """By Gauss-Legendre quadrature on each side of the kink at 0."""
    model = AbsoluteValue((1, 1, 1), scale=0.4).double().requires_grad_(False)
    x = torch.tensor([-1.5, 0.0, 0.3, 2.0]).double().view(4, 1, 1, 1)
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(200))
    z = 4.5 * (nodes + 1)  # 0 to 9
    joint = model.log_joint(x)(torch.cat([z, -z])[:, None, None]).exp()  # (S, 4)
    exact = (4.5 * weights.repeat(2) @ joint).log()
    torch.testing.assert_close(model.log_px(x), exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize("scale", [100.0, 1.0, 1e-2, 1e-4])
def test_absolute_value_is_exact_in_float32_models(scale):
    """Against 60 digits, on either side of 0 and far from it; relative error 1e-9."""
    model = AbsoluteValue((1, 1, 1), scale=scale).requires_grad_(False)
    x = torch.tensor([-100.0, -3.0, -0.1, -1e-6, 0.0, 1e-3, 2.0, 30.0]).view(-1, 1, 1, 1)
    with mpmath.workdps(60):
        s = mpmath.exp(mpmath.mpf(model.log_scale.item()))
        v = 1 + s**2
        exact = []
        for place in map(mpmath.mpf, x.flatten().tolist()):
            share = mpmath.erfc(-place / (s * mpmath.sqrt(2 * v))) / 2
            exact.append(
                mpmath.log(2 * share) - (place**2 / v + mpmath.log(2 * mpmath.pi * v)) / 2
            )
    log_px = model.log_px(x)
    assert log_px.dtype == torch.float64
    assert log_px.tolist() == pytest.approx([float(value) for value in exact], rel=1e-9)


def test_log_z_is_not_rounded_to_the_dtype_of_the_data():
    assert (toy("a").log_px(NO_DATA.float()) == log_normaliser("a")).all()


def test_absolute_value_adds_up_its_numbers():
    model = AbsoluteValue((1, 1, 2), scale=0.7).double()
    alone = AbsoluteValue((1, 1, 1), scale=0.7).double()
    x, z = torch.randn(4, 1, 1, 2).double(), torch.randn(5, 4, 2).double()
    pieces = [alone.log_joint(x[..., i : i + 1])(z[..., i : i + 1]) for i in range(2)]
    torch.testing.assert_close(model.log_joint(x)(z), sum(pieces))
    torch.testing.assert_close(
        model.log_px(x), sum(alone.log_px(x[..., i : i + 1]) for i in range(2))
    )


def test_absolute_value_draws_what_its_data_are():
    num = 40_000
    model = AbsoluteValue((1, 1, 1), scale=0.5).double()
    with torch.no_grad():
        drawn = model.sample(num).x.flatten()
    data = (
        toy_data.AbsoluteValueData(num_train=num, noise_scale=0.5).load().splits["train"].flatten()
    )
    mean, variance = math.sqrt(2 / math.pi), 1 - 2 / math.pi + 0.25
    for x in (drawn, data.double()):
        assert abs(x.mean() - mean) < 5 * math.sqrt(variance / num)
        kurtosis = (x - mean).pow(4).mean() - variance**2
        assert abs(x.var() - variance) < 5 * (kurtosis / num).sqrt()


def test_absolute_value_data_have_fixed_splits():
    small, large = (toy_data.AbsoluteValueData(num_train=n, dim=2).load() for n in (10, 20))
    assert torch.equal(small.splits["test"], large.splits["test"])
    assert small.x_shape == (1, 1, 2)
    assert small.checksum != large.checksum
    assert "test" not in toy_data.AbsoluteValueData(num_test=0).load().splits


def test_nothing_is_as_long_as_asked():
    data = toy_data.Nothing(num_train=7, num_test=0).load()
    assert data.x_shape == (0, 1, 1)
    assert data.splits.keys() == {"train"}
    assert data.batch(torch.tensor([6, 0])).shape == (2, 0, 1, 1)


def test_a_posterior_of_the_toy_is_drawn_row_by_row():
    posterior = Chain(DiagonalGaussian(2))
    vae = VAE(toy("d", torch.float32), Constant(), posterior)
    draw = posterior(vae.context(NO_DATA), vae.model.log_joint(NO_DATA), 4)
    assert draw.state.z.shape == (4, 3, 2)
    assert draw.state.z.unique().numel() == 24
