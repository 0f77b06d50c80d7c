"""Likelihoods against torch.distributions, naive formulae, and their own samples."""

from __future__ import annotations

import math
import re
from typing import Annotated

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from models.likelihoods import (
    Bernoulli,
    DiscretisedLogistic,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    likelihoods,
)
from tests.components import make_node

X_SHAPE = (3, 2, 4)


@pytest.fixture(params=likelihoods.names())
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return likelihoods[request.param].factory()


def parameters_of(likelihood: Likelihood, num_samples: int = 5, batch: int = 2) -> Tensor:
    shape = (num_samples, batch, likelihood.num_parameters, *X_SHAPE)
    return torch.randn(shape, dtype=torch.float64)


def binary(batch: int = 2) -> Tensor:
    """Zeros and ones, which lie on every likelihood's support."""
    return torch.randint(2, (batch, *X_SHAPE)).double()


def test_shapes_and_finite_values(likelihood: Likelihood) -> None:
    parameters = parameters_of(likelihood)
    log_p = likelihood.log_prob(binary(), parameters)
    assert log_p.shape == (5, 2)
    assert log_p.isfinite().all()
    assert likelihood.mean(parameters).shape == (5, 2, *X_SHAPE)
    assert likelihood.sample(parameters).shape == (5, 2, *X_SHAPE)


def test_score_is_the_gradient(likelihood: Likelihood) -> None:
    x, parameters = binary(), parameters_of(likelihood)
    score = likelihood.score(x, parameters)
    assert not score.requires_grad
    torch.testing.assert_close(score, Likelihood.score(likelihood, x, parameters))


def test_each_sample_and_datum_stands_alone(likelihood: Likelihood) -> None:
    x, parameters = binary(), parameters_of(likelihood)
    log_p = likelihood.log_prob(x, parameters)
    for sample in range(5):
        for datum in range(2):
            alone = likelihood.log_prob(
                x[datum : datum + 1], parameters[sample : sample + 1, datum : datum + 1]
            )
            torch.testing.assert_close(log_p[sample, datum], alone[0, 0])


def test_can_be_differentiated_twice(likelihood: Likelihood) -> None:
    """Hamiltonian posteriors differentiate through gradients of the log-joint."""
    x = binary(1)[..., :1]
    parameters = parameters_of(likelihood, 2, 1)[..., :1].requires_grad_()

    def log_p(leaf: Tensor) -> Tensor:
        return likelihood.log_prob(x, leaf)

    assert gradcheck(log_p, (parameters,))
    assert gradgradcheck(log_p, (parameters,))


def test_runs_under_vmap(likelihood: Likelihood) -> None:
    """Local optimisation maps the log-joint over data points."""
    x, parameters = binary(), parameters_of(likelihood)
    mapped = torch.func.vmap(likelihood.log_prob, in_dims=(0, 1), out_dims=1)
    result = mapped(x[:, None], parameters[:, :, None])  # (S, B, 1)
    torch.testing.assert_close(result[..., 0], likelihood.log_prob(x, parameters))


def test_samples_have_the_mean(likelihood: Likelihood) -> None:
    """Within 5 standard errors, and what such a bound lacks where values are few and rare.

    That is 7 log(2 / δ) / 3 n for values in [0, 1], of the empirical Bernstein inequality (Maurer
    and Pontil 2009, arXiv 0907.3740, theorem 4), whose other term is 5 errors at the same δ.
    """
    num_samples = 20_000
    parameters = parameters_of(likelihood, 1)
    samples = likelihood.sample(parameters.expand(num_samples, *parameters.shape[1:]))
    standard_error = samples.std(0) / math.sqrt(num_samples)
    error = (samples.mean(0) - likelihood.mean(parameters)[0]).abs()
    assert (error < 5 * standard_error + 7 * 12.5 / (3 * num_samples)).all()


def test_samples_carry_no_gradient(likelihood: Likelihood) -> None:
    assert not likelihood.sample(parameters_of(likelihood).requires_grad_()).requires_grad


def test_bernoulli_against_torch() -> None:
    x, logits = binary(), 3 * parameters_of(Bernoulli())
    reference = torch.distributions.Bernoulli(logits=logits[:, :, 0]).log_prob(x)
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), reference.sum((-3, -2, -1)))


def test_bernoulli_on_grey_pixels_is_the_cross_entropy() -> None:
    x, logits = torch.rand(2, *X_SHAPE, dtype=torch.float64), parameters_of(Bernoulli())
    p = 1 / (1 + torch.exp(-logits[:, :, 0]))
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((-3, -2, -1))
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), expected)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_bernoulli_at_extreme_logits(logit: float) -> None:
    """log(1 + eˡ) is l or 0 there: the pixel costs |l| where it is wrong and nothing else."""
    logits = torch.full((1, 2, 1, 1, 1, 1), logit, requires_grad=True)
    log_p = Bernoulli().log_prob(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), logits)
    # What is left of log(1 + e⁻¹⁰⁰) is 4e-44.
    assert log_p[0].tolist() == pytest.approx([min(-logit, 0), min(logit, 0)], abs=1e-40)
    log_p.sum().backward()
    assert logits.grad is not None
    slopes = [-float(logit > 0), float(logit < 0)]
    assert logits.grad.flatten().tolist() == pytest.approx(slopes, abs=1e-40)


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 2.5])
def test_gaussian_against_torch(scale: float, learn_scale: bool) -> None:
    likelihood = Gaussian(scale=scale, learn_scale=learn_scale)
    x, mean = torch.rand(2, *X_SHAPE, dtype=torch.float64), parameters_of(likelihood)
    reference = torch.distributions.Normal(mean[:, :, 0], scale).log_prob(x)
    # log_scale is a float32.
    torch.testing.assert_close(
        likelihood.log_prob(x, mean), reference.sum((-3, -2, -1)), rtol=1e-5, atol=1e-5
    )


def test_gaussian_scale_is_fixed_or_one_learned_parameter() -> None:
    assert not list(Gaussian(scale=0.3).parameters())
    assert math.isclose(Gaussian(scale=0.3).state_dict()["log_scale"], math.log(0.3), rel_tol=1e-6)

    likelihood = Gaussian(scale=0.3, learn_scale=True)
    (log_scale,) = likelihood.parameters()
    x, mean = torch.rand(1, *X_SHAPE), torch.randn(1, 1, 1, *X_SHAPE)
    likelihood.log_prob(x, mean).sum().backward()
    # d log p / d log scale = Σ (r² / scale² - 1)
    expected = ((x - mean[0]).square() / 0.09 - 1).sum()
    torch.testing.assert_close(log_scale.grad, expected)


def test_gaussian_samples_have_the_scale() -> None:
    samples = Gaussian(scale=0.3).sample(torch.zeros(1, 20_000, 1, 1, 1, 1))
    # The variance of a Gaussian sample variance is 2 σ⁴ / n.
    assert abs(samples.var() - 0.09) < 5 * 0.09 * math.sqrt(2 / 20_000)


def logistic(means: Tensor, log_scales: Tensor) -> Tensor:
    """Parameters (S, 1, 2, 1, 1, 1) of one pixel at all pairs of a mean and a log-scale."""
    return torch.cartesian_prod(means, log_scales).reshape(-1, 1, 2, 1, 1, 1)


def log_prob_of_levels(likelihood: DiscretisedLogistic, parameters: Tensor) -> Tensor:
    """log P of each level, (S, num_levels), of one pixel."""
    x = torch.arange(likelihood.num_levels, dtype=parameters.dtype) * likelihood.step
    batch = parameters.expand(-1, likelihood.num_levels, -1, -1, -1, -1)
    return likelihood.log_prob(x.reshape(-1, 1, 1, 1), batch)


@pytest.mark.parametrize("num_levels", [2, 8, 256])
def test_discretised_logistic_sums_to_one(num_levels: int) -> None:
    # No mean on a bin's edge, where the narrowest scale is no wider than x's rounding error.
    means = torch.tensor([-3, -0.1, 0, 0.25, 0.4, 1, 4], dtype=torch.float64)
    log_scales = torch.tensor([-100, -20, -8, -5, -2, 0, 2, 10, 100], dtype=torch.float64)
    log_p = log_prob_of_levels(
        DiscretisedLogistic(num_levels=num_levels), logistic(means, log_scales)
    )
    total = log_p.exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-8)


def test_discretised_logistic_is_a_difference_of_distribution_functions() -> None:
    likelihood = DiscretisedLogistic(num_levels=16)
    means = torch.linspace(-0.2, 1.2, 8, dtype=torch.float64)
    log_scales = torch.linspace(-3.5, 1, 6, dtype=torch.float64)
    parameters = logistic(means, log_scales)
    mean, scale = parameters[:, 0, 0, 0, 0], parameters[:, 0, 1, 0, 0].exp()  # (S, 1)
    edges = (torch.arange(15, dtype=torch.float64) + 0.5) / 15
    below = 1 / (1 + torch.exp(-(edges - mean) / scale))  # (S, 15)
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    naive = torch.diff(torch.cat([zero, below, one], dim=1), dim=1)
    # The naive difference of numbers near 1 is good to about 1e-16 absolutely; above 1e-6, which
    # leaves 1e-10 relatively, the two must agree.
    likely = naive > 1e-6
    assert likely.float().mean() > 0.5
    torch.testing.assert_close(
        log_prob_of_levels(likelihood, parameters)[likely], naive.log()[likely], rtol=0, atol=1e-9
    )


def test_discretised_logistic_is_finite_at_extremes() -> None:
    means = torch.tensor([-1e4, -1, 0, 0.5, 1, 2, 1e4])
    log_scales = torch.tensor([-1e3, -100, -30, -10, 0, 10, 30, 100, 1e3])
    parameters = logistic(means, log_scales).requires_grad_()
    log_p = log_prob_of_levels(DiscretisedLogistic(), parameters)
    assert log_p.isfinite().all()
    assert (log_p <= 0).all()
    log_p.sum().backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


def test_discretised_logistic_mean_is_that_of_its_levels() -> None:
    likelihood = DiscretisedLogistic(num_levels=5)
    parameters = logistic(torch.tensor([-0.1, 0.3, 0.9]), torch.tensor([-9.0, -2.0, 0.5]))
    probabilities = log_prob_of_levels(likelihood, parameters).exp()  # (9, 5)
    expected = (probabilities * torch.arange(5) / 4).sum(1)
    torch.testing.assert_close(likelihood.mean(parameters).flatten(), expected)


def test_discretised_logistic_samples_follow_its_probabilities() -> None:
    likelihood = DiscretisedLogistic(num_levels=5)
    num_samples = 20_000
    parameters = logistic(torch.tensor([0.3, 0.9]), torch.tensor([-2.0, 0.5]))  # (4, 1, ...)
    probabilities = log_prob_of_levels(likelihood, parameters).exp()  # (4, 5)
    samples = likelihood.sample(parameters.expand(-1, num_samples, -1, -1, -1, -1)).flatten(1)
    levels = torch.arange(5) / 4
    hits = samples[..., None] == levels  # exact: the samples lie on the grid
    assert hits.any(-1).all()
    standard_error = (probabilities * (1 - probabilities) / num_samples).sqrt()
    assert ((hits.float().mean(1) - probabilities).abs() < 5 * standard_error + 1e-4).all()


@pytest.mark.parametrize(
    "options",
    [
        {"name": "gaussian", "scale": 0},
        {"name": "gaussian", "scale": -1.0},
        {"name": "discretised_logistic", "num_levels": 1},
        {"name": "bernoulli", "scale": 1.0},
    ],
)
def test_schema_refuses(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Annotated[Likelihood, likelihoods]).validate_python(options)


@pytest.mark.parametrize("min_scale", [0.01, 0.5])
def test_heteroscedastic_gaussian_against_torch(min_scale: float) -> None:
    likelihood = HeteroscedasticGaussian(min_scale=min_scale)
    x, parameters = binary(), parameters_of(likelihood)
    mean, raw = parameters.unbind(2)
    scale = (min_scale**2 + raw.exp() ** 2).sqrt()
    reference = torch.distributions.Normal(mean, scale).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(likelihood.log_prob(x, parameters), reference)


@pytest.mark.parametrize("raw", [-1e30, -1e4, 0.0, 1e4, 1e30])
def test_heteroscedastic_gaussian_has_a_floor_and_stays_finite(raw: float) -> None:
    likelihood = HeteroscedasticGaussian(min_scale=0.1)
    x = torch.zeros(2, *X_SHAPE)
    parameters = torch.zeros(1, 2, 2, *X_SHAPE)
    parameters[:, :, 1] = raw
    parameters.requires_grad_()
    log_p = likelihood.log_prob(x, parameters)
    best = torch.distributions.Normal(0.0, 0.1).log_prob(torch.tensor(0.0)).item()
    assert (log_p <= math.prod(X_SHAPE) * best * (1 + 1e-5)).all()  # float32
    log_p.sum().backward()
    assert parameters.grad is not None
    assert log_p.isfinite().all()
    assert parameters.grad.isfinite().all()
    assert likelihood.sample(parameters).isfinite().all()


# --- data that a likelihood does not describe ------------------------------------------------


def image(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"name": "bernoulli"}, (0.0, 1.0, 1.0)),
        ({"name": "gaussian"}, (-3.5, 0.1, 1e6)),
        ({"name": "heteroscedastic_gaussian"}, (-3.5, 0.1, 1e6)),
        ({"name": "discretised_logistic"}, tuple(k / 255 for k in range(256))),
        ({"name": "discretised_logistic"}, (0.0, 1.0)),  # some of the levels are levels
        ({"name": "discretised_logistic", "num_levels": 17}, tuple(k / 16 for k in range(17))),
        ({"name": "discretised_logistic", "num_levels": 65536}, (0.0, 1 / 65535, 54321 / 65535)),
    ],
)
def test_data_on_the_support_are_taken(options, values) -> None:
    make_node(likelihoods, options).build().check(image(*values))


@pytest.mark.parametrize(
    ("options", "values", "words"),
    [
        ({"name": "bernoulli"}, (0.0, 0.4375), "finds 0.4375: set `data.binarisation`"),
        ({"name": "bernoulli"}, (1.0, -2.5), "finds -2.5: take another `model.likelihood`"),
        (
            {"name": "discretised_logistic"},
            (0.0, 0.4375, 1.0),
            "finds 0.4375: set `model.likelihood.num_levels` to 17",
        ),
        (
            {"name": "discretised_logistic", "num_levels": 17},
            (0.0, 1 / 255),
            "finds 0.00392157: set `model.likelihood.num_levels` to 256",
        ),
        (
            {"name": "discretised_logistic"},
            (0.0, 1 / math.pi),
            "finds 0.31831: take another `model.likelihood`",
        ),
        ({"name": "discretised_logistic"}, (0.0, 2.0), "finds 2: take another"),
        ({"name": "discretised_logistic"}, (-1 / 255,), "finds -0.00392157: take another"),
    ],
)
def test_data_off_the_support_are_refused(options, values, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        make_node(likelihoods, options).build().check(image(*values))
    assert options["name"] in str(caught.value)


def test_every_likelihood_takes_what_it_draws(likelihood: Likelihood) -> None:
    likelihood.check(likelihood.sample(parameters_of(likelihood))[0])
