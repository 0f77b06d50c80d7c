"""Targets of sampling benchmarks: their normalisers, their draws, their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from models.posteriors.chain import Chain
from models.posteriors.gaussian import StandardNormal
from models.targets import Funnel, GaussianMixture, ManyWell, StudentMixture
from models.unconditional import Unconditional

NO_DATA = torch.zeros(3, 0, 1, 1)
SHAPE = (0, 1, 1)
TARGETS: dict[str, Unconditional] = {
    "funnel": Funnel(SHAPE, dim=3),
    "gaussian_mixture": GaussianMixture(SHAPE, extent=3.0, num_modes=4),
    "student_mixture": StudentMixture(SHAPE, extent=3.0, num_modes=4),
    "many_well": ManyWell(SHAPE, dim=4),
}
every_target = pytest.mark.parametrize("model", TARGETS.values(), ids=list(TARGETS))


def test_published_normalisers():
    assert math.isclose(ManyWell(SHAPE, dim=2).log_z, 10.29348, abs_tol=1e-5)
    assert math.isclose(ManyWell(SHAPE).log_z, 164.69568, abs_tol=1e-5)
    for kind in (Funnel, GaussianMixture, StudentMixture):
        assert kind(SHAPE).log_z == 0


@every_target
def test_log_z_is_that_of_the_density_drawn_from(model: Unconditional):
    """E[g(z) / f(z)] = 1 / Z over draws of f/Z, for a narrow Gaussian g: light weights."""
    model.double()
    z = model.draw(100_000)
    # About a draw, where there is mass whatever the seed.
    g = torch.distributions.Normal(z[0], 0.2)
    ratios = (g.log_prob(z).sum(-1) - model.log_f(z) + model.log_z).exp()
    error = ratios.std() / len(z) ** 0.5
    assert (ratios.mean() - 1).abs() < 4.5 * error


@every_target
def test_prior_and_likelihood_split_log_f(model: Unconditional):
    model.double()
    z = model.sample_prior(50, 3)
    parts = model.log_prior(z) + model.log_likelihood(NO_DATA, z)
    torch.testing.assert_close(parts, model.log_joint(NO_DATA)(z))
    prior = torch.distributions.Normal(0.0, model.prior_scale)
    torch.testing.assert_close(model.log_prior(z), prior.log_prob(z).sum(-1))
    assert model.log_px(NO_DATA).tolist() == [model.log_z] * 3


@every_target
def test_gradients_are_those_of_log_f(model: Unconditional):
    z = torch.randn(5, 2, model.latent_dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.double().log_f, z)


def test_places_are_a_function_of_their_seed():
    one, same, other = (GaussianMixture(SHAPE, places_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.places, same.places)
    assert not torch.equal(one.places, other.places)


def test_pairs_need_an_even_number():
    with pytest.raises(ValueError, match="`dim` must be even"):
        ManyWell(SHAPE, dim=3)


def test_a_wide_base_has_its_density():
    base = StandardNormal(3, scale=40.0)
    draw = Chain(base)(torch.zeros(2, 0).double(), lambda z: z.sum(-1), 4)
    normal = torch.distributions.Normal(0.0, torch.tensor(40.0).double())
    torch.testing.assert_close(draw.log_q, normal.log_prob(draw.state.z).sum(-1))
