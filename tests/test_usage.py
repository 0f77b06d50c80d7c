"""How much a posterior tells of x, and by which dimensions: closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from estimators import usage
from estimators.usage import Effort, information, portray
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, FullGaussian, StandardNormal, gaussian
from models.posteriors.protocol import Move, State, Transition
from tests.components import POSTERIORS, initial, make_posterior, normal, perturbed, reseed

FEW = Effort(1000, 20, 3)


class Shift(Transition):
    """z + 1: the chain is no lone Gaussian, and its draws are Gaussian all the same."""

    def forward(self, state, context, target) -> Move:
        return Move(State(state.z + 1), torch.zeros_like(state.z[..., 0]))


def told(model, posterior, x, context, effort=FEW):
    """``information`` of all data, by their own portraits."""
    portraits = portray(model, posterior, x, context, effort.num_portrait)
    classifier = portraits.classifier(posterior)
    return information(model, posterior, x, context, classifier, 0, effort.num_draws)


def mean_and_error(quantity) -> tuple[float, float]:
    """Over data; the spread of the values holds that of their draws."""
    value = quantity.value
    return value.mean().item(), value.std().item() / math.sqrt(len(value))


def exact_contexts(model, x) -> Tensor:
    """Contexts of a full Gaussian that is the exact posterior of a linear-Gaussian model."""
    mean, covariance = model.exact_posterior(x)
    lower = torch.linalg.cholesky(covariance)
    rows, columns = torch.tril_indices(*lower.shape, offset=-1)
    numbers = torch.cat([lower.diagonal().log(), lower[rows, columns]])
    return torch.cat([mean, numbers.expand(len(x), -1)], -1)


def test_mutual_information_of_a_linear_gaussian_model(linear_gaussian):
    """I = -½ log|Cov(z|x)|; of N data it is less by at most log((N - 1)/N + exp(2 I)/N).

    By Jensen's inequality over the other data: E q(z|x)/q(z) = Π 1/(1 - ρ²) = exp(2 I) of the
    canonical correlations ρ of x and z.
    """
    num = 2000
    with torch.no_grad():
        linear_gaussian.log_scale.fill_(0.3)
        x = linear_gaussian.sample(num).x
        context = exact_contexts(linear_gaussian, x)
        exact = -0.5 * linear_gaussian.exact_posterior(x).covariance.logdet().item()
    numbers = told(linear_gaussian, gaussian(2, covariance="full").double(), x, context)
    mean, error = mean_and_error(numbers["mutual_information"])
    lower = exact - math.log1p((math.exp(2 * exact) - 1) / num)
    assert lower - 5 * error < mean < exact + 5 * error
    kl, kl_error = mean_and_error(numbers["kl"])  # E_x KL(p(z|x) ‖ p(z)) = I
    assert abs(kl - exact) < 5 * kl_error


@pytest.mark.parametrize("num", [2, 3, 7])
def test_mutual_information_and_aggregate_kl_of_few_data_by_quadrature(linear_gaussian, num):
    mean, log_variance = 1.5 * normal(num, 1), normal(num, 1) - 1
    context = torch.cat([mean, log_variance], -1)
    place = torch.linspace(-15, 15, 40_001).double()[:, None]
    width = (place[1] - place[0]).item()
    log_each = Normal(mean[:, 0], (0.5 * log_variance[:, 0]).exp()).log_prob(place)  # (places, N)
    log_mixture = log_each.logsumexp(1) - math.log(num)
    own = (log_each.exp() * (log_each - log_mixture[:, None])).sum(0) * width  # (N,)
    log_prior = Normal(0.0, 1.0).log_prob(place[:, 0])
    aggregate = (log_mixture.exp() * (log_mixture - log_prior)).sum().item() * width
    x = linear_gaussian.sample(num).x
    linear_gaussian.latent_dim = 1  # of the prior, all that is asked of the model
    numbers = told(linear_gaussian, gaussian(1).double(), x, context, Effort(num, 0, 4000))
    found = numbers["mutual_information"]
    assert ((found.value - own).abs() < 5 * found.standard_error + 1e-9).all()
    assert abs(numbers["aggregate_kl"].value.mean() - aggregate) < 5 * (
        numbers["aggregate_kl"].standard_error.square().sum().sqrt() / num
    )


@pytest.mark.parametrize("options", POSTERIORS)
def test_of_every_posterior_no_more_is_told_than_there_is(linear_gaussian, options):
    posterior = perturbed(make_posterior(options), 0.1)
    num = 5
    context = initial(posterior, num)
    context = context + 0.5 * torch.randn_like(context)
    x = linear_gaussian.sample(num).x
    numbers = told(linear_gaussian, posterior, x, context)
    information = numbers["mutual_information"].value
    assert information.shape == (num,)
    assert (information <= math.log(num) + 1e-9).all()
    difference = numbers["kl"].value - information
    torch.testing.assert_close(numbers["aggregate_kl"].value, difference)
    dimensions = portray(linear_gaussian, posterior, x, context, 20).dimensions()
    for quantity in dimensions.values():
        assert quantity.value.shape == (2,)
        assert quantity.value.isfinite().all()


def test_kl_of_each_dimension_of_a_gaussian(linear_gaussian):
    x, diagonal = linear_gaussian.sample(4).x, gaussian(2).double()
    context = normal(4, 4)
    mean, log_variance = context.chunk(2, -1)
    exact = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    found = portray(linear_gaussian, diagonal, x, context, 2).dimensions()["dimension_kl"]
    torch.testing.assert_close(found.value, exact.mean(0))
    torch.testing.assert_close(found.standard_error, exact.std(0) / 2)


def test_kl_of_each_dimension_of_a_full_gaussian_is_of_its_marginal(linear_gaussian):
    context = normal(4, 5)
    mean, _, scale = FullGaussian(2)._split(context)
    joint = MultivariateNormal(mean, scale_tril=scale)
    exact = kl_divergence(Normal(mean, joint.variance.sqrt()), Normal(0.0, 1.0)).mean(0)
    full = gaussian(2, covariance="full").double()
    x = linear_gaussian.sample(4).x
    found = portray(linear_gaussian, full, x, context, 2).dimensions()["dimension_kl"]
    torch.testing.assert_close(found.value, exact)


def test_portraits_by_draws_have_no_bias(linear_gaussian):
    """Of few draws, for which the corrections are large."""
    num = 4000
    posterior = Chain(DiagonalGaussian(2), [Shift()]).double()
    x = linear_gaussian.sample(num).x
    context = torch.cat([torch.tensor([[0.5, 0.0]]) * normal(num, 2), normal(num, 2)], -1)
    mean, log_variance = context.chunk(2, -1)
    exact = kl_divergence(Normal(mean + 1, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    found = portray(linear_gaussian, posterior, x, context, 6).dimensions()
    kl, spread = found["dimension_kl"], found["dimension_spread"]
    assert ((kl.value - exact.mean(0)).abs() < 5 * kl.standard_error).all()
    assert ((spread.value - mean.var(0)).abs() < 5 * spread.standard_error).all()


def test_what_depends_on_no_x_tells_nothing(linear_gaussian):
    """Exactly for a Gaussian; of draws, no more than 1/M nats a dimension are lost to noise."""
    x, context = linear_gaussian.sample(200).x, torch.zeros(200, 4).double()
    alone = told(linear_gaussian, gaussian(2).double(), x, context)["mutual_information"]
    torch.testing.assert_close(alone.value, torch.zeros(200).double())
    moved = Chain(DiagonalGaussian(2), [Shift()]).double()
    mean, error = mean_and_error(
        told(linear_gaussian, moved, x, context, Effort(200, 50, 20))["mutual_information"]
    )
    assert -2 / 50 - 5 * error < mean < 5 * error
    spread = portray(linear_gaussian, moved, x, context, 200).dimensions()["active_units"]
    assert spread.value.tolist() == [0, 0]


def test_what_tells_two_data_apart_tells_log_2(linear_gaussian):
    context = torch.tensor([[-30.0, 0, 0, 0], [30, 0, 0, 0]]).double()
    x = linear_gaussian.sample(2).x
    for posterior in (gaussian(2), Chain(DiagonalGaussian(2), [Shift()])):
        found = told(linear_gaussian, posterior.double(), x, context)["mutual_information"]
        torch.testing.assert_close(found.value, torch.full((2,), math.log(2)).double())


@pytest.mark.parametrize("density", [DiagonalGaussian(3), FullGaussian(3), StandardNormal(3)])
def test_pairs_are_every_draw_with_every_context(density):
    z, context = normal(4, 3), normal(5, density.context_size)
    pairs = density.log_prob_pairs(z, context)
    assert pairs.shape == (4, 5)
    one_by_one = [
        density.log_prob(z[m, None, None], z[m, None, None, :0], context[n, None]).item()
        for m in range(4)
        for n in range(5)
    ]
    torch.testing.assert_close(pairs.flatten(), torch.tensor(one_by_one).double())


@pytest.mark.parametrize("density", [DiagonalGaussian(3), StandardNormal(3)])
def test_densities_of_each_number_sum_to_that_of_all(density):
    z, context = normal(2, 4, 3), normal(4, density.context_size)
    each = density.log_prob_each(z, context)
    assert each.shape == (2, 4, 3)
    torch.testing.assert_close(each.sum(-1), density.log_prob(z, z[..., :0], context))


def test_blocks_do_not_change_the_numbers(linear_gaussian, monkeypatch):
    x, context, posterior = linear_gaussian.sample(9).x, normal(9, 4), gaussian(2).double()
    classifier = portray(linear_gaussian, posterior, x, context, 2).classifier(posterior)
    z, data = normal(20, 2), torch.arange(20) % 9
    whole = classifier.log_odds(z, data)
    monkeypatch.setattr(usage, "BLOCK", 3 * context.numel())
    torch.testing.assert_close(classifier.log_odds(z, data), whole)


def test_batches_are_parts_of_the_whole(linear_gaussian):
    x, context, posterior = linear_gaussian.sample(7).x, normal(7, 4), gaussian(2).double()
    whole = portray(linear_gaussian, posterior, x, context, 2)
    batches = slice(0, 4), slice(4, 7)
    parts = [portray(linear_gaussian, posterior, x[of], context[of], 2) for of in batches]
    joined = usage.Portraits.joined(parts)
    assert torch.equal(joined.moments.mean, whole.moments.mean)
    assert torch.equal(joined.context, whole.context)
    classifier = whole.classifier(posterior)
    reseed()
    part = information(linear_gaussian, posterior, x[4:], context[4:], classifier, 4, 3)
    reseed()
    z = posterior(context[4:], linear_gaussian.log_joint(x[4:]), 3).state.z
    expected = classifier.log_odds(z.flatten(0, 1), torch.tensor([4, 5, 6] * 3))
    told_of_it = part["mutual_information"].value
    torch.testing.assert_close(told_of_it, expected.view(3, 3).mean(0))


def test_one_datum_is_refused(linear_gaussian):
    x, posterior = linear_gaussian.sample(1).x, gaussian(2).double()
    with pytest.raises(ValueError, match="there is 1 data point; take 2 or more"):
        usage.summary(linear_gaussian, posterior, x, normal(1, 4))
