"""Free bits: no gradient of a KL below the floor, the plain one above it, for every posterior."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.runner.build import BuildError, build
from experiments.runner.schema import DEFAULTS, RunConfig
from models.losses import AVO, ELBO, linear_warmup
from models.posteriors.gaussian import gaussian
from tests.components import POSTERIORS, initial, make_posterior, normal, reseed
from utils.config.loading import load
from utils.config.validation import validate

NUM = 3


def gradient(loss, model, posterior, x, context, weight=1.0) -> Tensor:
    """Of the mean loss by the context, on the same noise each time."""
    context = context.clone().requires_grad_()
    reseed()
    loss(model, posterior, x, context, weight).loss.mean().backward()
    return context.grad


def likelihood_gradient(model, posterior, x, context) -> Tensor:
    """Of the mean of -log p(x|z) alone, on that noise."""
    context = context.clone().requires_grad_()
    reseed()
    z = posterior(context, model.log_joint(x)).state.z
    (-model.log_likelihood(x, z)).mean().backward()
    return context.grad


@pytest.fixture
def x(linear_gaussian) -> Tensor:
    return linear_gaussian.sample(NUM).x.detach()


@pytest.fixture
def context() -> Tensor:
    """The first dimension's KL is large, the second's about 0."""
    mean = torch.tensor([[5.0, 0.01], [-6.0, 0.0], [7.0, -0.01]]).double()
    return torch.cat([mean, 0.01 * normal(NUM, 2)], -1)


@pytest.mark.parametrize("options", [{}, {"gradient": "stl"}, {"entropy": "analytic"}])
def test_below_the_floor_there_is_no_gradient_of_the_kl(linear_gaussian, x, context, options):
    posterior = gaussian(2).double()
    loss = ELBO(free_bits=1e6, **options)
    found = gradient(loss, linear_gaussian, posterior, x, context)
    expected = likelihood_gradient(linear_gaussian, posterior, x, context)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", POSTERIORS)
def test_above_the_floor_the_loss_is_the_plain_one(linear_gaussian, x, options):
    posterior = make_posterior(options)
    context = initial(posterior, NUM)
    loss = ELBO(free_bits=1e-9, num_samples=2)
    try:
        loss.check(posterior)
    except ValueError as error:
        assert "density for each dimension" in str(error)
        assert posterior.base.log_prob_each(normal(1, 1, 2), context[:1]) is None
        return
    own = posterior.base.context_size
    if own == 0:
        return  # N(0, I) itself, whose KL is 0
    context = torch.cat([context[:, :own] + 5, context[:, own:]], -1)
    expected = gradient(ELBO(num_samples=2), linear_gaussian, posterior, x, context)
    assert torch.equal(gradient(loss, linear_gaussian, posterior, x, context), expected)


def test_the_floor_is_under_each_dimension(linear_gaussian, x, context):
    posterior = gaussian(2).double()
    found = gradient(ELBO(free_bits=1.0), linear_gaussian, posterior, x, context)
    plain = gradient(ELBO(), linear_gaussian, posterior, x, context)
    freed = likelihood_gradient(linear_gaussian, posterior, x, context)
    mean_and_variance = slice(0, None, 2), slice(1, None, 2)
    torch.testing.assert_close(found[:, mean_and_variance[0]], plain[:, mean_and_variance[0]])
    torch.testing.assert_close(found[:, mean_and_variance[1]], freed[:, mean_and_variance[1]])
    together = ELBO(free_bits=1.0, free_bits_group=2)  # whose KL is above the floor
    torch.testing.assert_close(gradient(together, linear_gaussian, posterior, x, context), plain)


def test_the_loss_has_the_floor_in_place_of_the_kl(linear_gaussian, x, context):
    posterior = gaussian(2).double()
    reseed()
    z = posterior(context, linear_gaussian.log_joint(x)).state.z
    log_q = posterior.base.log_prob_each(z, context)
    kl = (log_q + 0.5 * (z.square() + torch.tensor(2 * torch.pi).log())).mean((0, 1))  # (D,)
    reseed()
    bound = ELBO(free_bits=1.0)(linear_gaussian, posterior, x, context)
    expected = kl.clamp_min(1.0).sum() - linear_gaussian.log_likelihood(x, z).mean()
    torch.testing.assert_close(bound.loss.mean(), expected)
    reseed()
    plain = ELBO()(linear_gaussian, posterior, x, context)
    assert torch.equal(bound.value, plain.value)  # a bound, whatever is optimised


def test_a_warm_up_scales_what_is_freed(linear_gaussian, x, context):
    posterior = gaussian(2).double()
    warmup = linear_warmup(epochs=10)
    freed = ELBO(free_bits=1e6, warmup=warmup)
    expected = likelihood_gradient(linear_gaussian, posterior, x, context)
    found = gradient(freed, linear_gaussian, posterior, x, context, weight=0.3)
    torch.testing.assert_close(found, expected)


def test_avo_frees_the_bits_of_its_elbo_and_of_its_base(linear_gaussian, x):
    posterior = make_posterior({"name": "hvi", "num_layers": 2, "hidden": [8]})
    context = initial(posterior, NUM) + 0.1 * torch.randn(NUM, posterior.context_size)
    steps = {"avo_probability": 0.0}, {"avo_probability": 1.0, "base_weight": 1.0}
    for options in steps:
        plain = gradient(AVO(**options), linear_gaussian, posterior, x, context)
        loss = AVO(free_bits=1e6, **options)
        loss.check(posterior)
        freed = gradient(loss, linear_gaussian, posterior, x, context)
        own = posterior.base.context_size
        assert not torch.allclose(plain[:, :own], freed[:, :own])
        assert torch.equal(plain[:, own:], freed[:, own:])


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["loss.free_bits=0.1", "posterior={name: gaussian, covariance: full}"],
            "density for each dimension",
        ),
        (["loss.free_bits_group=2"], "set both"),
        (
            ["phases=[local_optimisation]", "local_optimisation.loss={name: elbo, free_bits: 1}"],
            "takes each datum alone",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(assignments, message):
    config = validate(RunConfig, load(None, (), assignments, DEFAULTS))
    with pytest.raises(BuildError, match=message) as refused:
        build(config, (1, 8, 8))
    assert "\n" not in str(refused.value)
