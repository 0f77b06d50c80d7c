"""Several starts: a posterior of two modes, of which one start may take the lesser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from models.generative import LinearGaussian
from models.local import (
    Chosen,
    LocalOptimum,
    best_of,
    fast,
    local_optimise,
    matched_context,
    starting_contexts,
)
from models.local.starts import MATCHED_DRAWS
from models.posteriors.chain import Chain
from models.posteriors.gaussian import gaussian
from models.posteriors.per_datum import per_datum
from tests.components import initial, perturbed, reseed, small_af

MEANS = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).double()
WEIGHTS = torch.tensor([0.2, 0.8]).double()
SCALE = 0.5
X = torch.zeros(3, 1, 1, 1).double()


class TwoModes(LinearGaussian):
    """p(x, z) is a mixture of two Gaussians on the plane, far apart: log p(x) = 0."""

    def __init__(self) -> None:
        super().__init__((1, 1, 1), latent_dim=2)
        self.double()

    def log_f(self, z: Tensor) -> Tensor:
        parts = Independent(Normal(MEANS, SCALE), 1)
        return MixtureSameFamily(Categorical(WEIGHTS), parts).log_prob(z)

    def log_prior(self, z: Tensor) -> Tensor:
        return -0.5 * (z / 3).square().sum(-1) - math.log(2 * math.pi * 9)

    def sample_prior(self, num_samples: int, num_data: int) -> Tensor:
        return 3 * torch.randn(num_samples, num_data, 2).double()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self.log_f(z) - self.log_prior(z)

    def log_joint(self, x: Tensor):
        return self.log_f


def best_bound(mode: int) -> float:
    """Of a factorised Gaussian on a mode, by quadrature: over it the other mode is nothing."""
    steps = torch.linspace(-8, 8, 1601).double()
    z = torch.cartesian_prod(steps, steps)
    log_q = Normal(MEANS[mode], SCALE).log_prob(z).sum(-1)
    cell = (steps[1] - steps[0]).square()
    return (log_q.exp() * (TwoModes().log_f(z) - log_q)).sum().mul(cell).item()


def searched(num_starts: int, first: Tensor) -> Chosen:
    model, posterior, settings = TwoModes(), gaussian(2), fast(window=100)
    contexts = starting_contexts(model, posterior, X, [first], num_starts)
    x = X.repeat(num_starts, 1, 1, 1)
    found = local_optimise(settings.loss, model, posterior, x, contexts, settings)
    return best_of(found, posterior, num_starts)


def test_one_start_may_take_the_lesser_mode_and_eight_find_the_better_one():
    """The first start lies in the basin of the lesser mode, and is left in it."""
    lesser, better = best_bound(0), best_bound(1)
    assert better - lesser == pytest.approx(math.log(4), abs=1e-3)
    first = gaussian(2).base.placed(MEANS[:1].expand(3, 2), torch.full((3, 2), 0.6).double())
    for num_starts, expected in ((1, lesser), (8, better)):
        optimum, start, gain = searched(num_starts, first)
        # Where q is all but one component of f, its weights are all but constant: no noise.
        torch.testing.assert_close(
            optimum.values, torch.full((3,), expected).double(), atol=0.05, rtol=0
        )
        assert optimum.converged.all()
        assert torch.equal(start > 0, torch.full((3,), num_starts > 1))
        won = torch.full((3,), expected - lesser).double()
        torch.testing.assert_close(gain, won, atol=0.1, rtol=0)


def test_starts_that_are_as_good_leave_the_first():
    """From the better mode nothing wins, although the values of the starts differ by noise."""
    first = gaussian(2).base.placed(MEANS[1:].expand(3, 2), torch.full((3, 2), 0.6).double())
    optimum, start, gain = searched(4, first)
    assert (gain[start == 0] == 0).all()
    assert (gain < 0.05).all()
    torch.testing.assert_close(
        optimum.values, torch.full((3,), best_bound(1)).double(), atol=0.05, rtol=0
    )


def test_starts_are_the_given_ones_then_mirrored_draws_then_runs(linear_gaussian):
    posterior = small_af()
    x = torch.randn(5, 1, 1, 3).double()
    given = [torch.randn(5, posterior.context_size).double() for _ in range(2)]
    contexts = starting_contexts(linear_gaussian, posterior, x, given, 8).view(8, 5, -1)
    assert torch.equal(contexts[:2], torch.stack(given))
    means = contexts[:, :, :2]
    assert torch.equal(means[2], -means[3])
    assert torch.equal(means[4], -means[5])
    scales = (0.5 * contexts[:, :, 2:4]).exp()
    assert (scales[2:6] < 0.5).all()
    assert (contexts[2:, :, 4:] == given[0][:, 4:]).all()  # the flow's own numbers
    assert torch.equal(starting_contexts(linear_gaussian, posterior, x, given, 1), given[0])


def test_a_short_run_ends_near_the_posterior(linear_gaussian: LinearGaussian):
    """Of 30 correlated draws: the mean within three posterior standard deviations."""
    x = torch.tensor([[4.0, 3.0, 4.0]]).double().view(1, 1, 1, 3).expand(20, 1, 1, 3)
    posterior = gaussian(2)
    contexts = starting_contexts(linear_gaussian, posterior, x, [initial(posterior, 20)], 4)
    mean = contexts.view(4, 20, 4)[3, :, :2]
    exact = linear_gaussian.exact_posterior(x)
    distance = (mean - exact.mean) / exact.covariance.diagonal().sqrt()
    assert distance.abs().mean() < 1.5  # prior draws are many more away
    assert (exact.mean / exact.covariance.diagonal().sqrt()).abs().max() > 3


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_gaussian_starts_at_the_moments_of_a_gaussian(covariance, linear_gaussian):
    """Exactly: mean and variances of the other one, whatever its covariances."""
    own, posterior = gaussian(2, covariance="full"), gaussian(2, covariance=covariance)
    x = torch.randn(5, 1, 1, 3).double()
    context = torch.randn(5, own.context_size).double()
    start = matched_context(linear_gaussian, posterior, x, own, context)
    found, given = posterior.base.moments(start), own.base.moments(context)
    assert found is not None
    assert given is not None
    torch.testing.assert_close(found.mean, given.mean)
    torch.testing.assert_close(found.variance, given.variance)


def test_a_gaussian_starts_at_the_moments_of_a_flow_s_draws(linear_gaussian: LinearGaussian):
    """Draws of the same stream; a datum whose draws are not finite starts as a fresh one."""
    own, posterior = perturbed(small_af()), gaussian(2)
    x = torch.randn(5, 1, 1, 3).double()
    context = initial(own, 5) + torch.randn(5, own.context_size).double()
    context[3, 0] = math.nan
    reseed(1)
    start = matched_context(linear_gaussian, posterior, x, own, context)
    reseed(1)
    with torch.no_grad():
        z = own(context, linear_gaussian.log_joint(x), MATCHED_DRAWS).state.z
    expected = torch.cat([z.mean(0), z.var(0).log()], -1)
    expected[3] = posterior.initial_context()
    torch.testing.assert_close(start, expected)
    assert start[3].isfinite().all()


def some_rows(posterior: Chain, values: Sequence[float], errors: Sequence[float]) -> LocalOptimum:
    """Two data, from as many starts as there are pairs of values."""
    size = len(values)
    family = posterior
    if list(posterior.parameters()):
        family = perturbed(per_datum(posterior, size))
    return LocalOptimum(
        family,
        torch.arange(size).double()[:, None] + initial(posterior, size),
        torch.tensor(values).double(),
        torch.tensor(errors).double(),
        torch.arange(size),
        torch.arange(size) > 2,
    )


@pytest.mark.parametrize("make", [small_af, lambda: gaussian(2)], ids=["aux_real_nvp", "gaussian"])
def test_the_best_row_of_a_datum_is_kept_with_its_weights(make, linear_gaussian):
    posterior = make()
    # Datum 0: start 2 wins. Datum 1: start 1 is better by no more than noise.
    found = some_rows(posterior, [-5, -7, -5, -6.9, -4, -9], [0.1] * 6)
    optimum, start, gain = best_of(found, posterior, 3)
    assert start.tolist() == [2, 0]
    assert gain.tolist() == [1, 0]
    assert optimum.steps.tolist() == [4, 1]
    assert optimum.converged.tolist() == [True, False]
    assert torch.equal(optimum.context, found.context[[4, 1]])
    for name, weight in optimum.posterior.named_parameters():
        assert torch.equal(weight, dict(found.posterior.named_parameters())[name][[4, 1]])


def test_a_first_start_that_broke_is_passed_over():
    posterior = gaussian(2)
    found = some_rows(posterior, [math.nan, -7, -5, -7], [math.nan, 0.1, 0.1, 0.1])
    optimum, start, _ = best_of(found, posterior, 2)
    assert start.tolist() == [1, 0]
    assert optimum.values.tolist() == [-5, -7]
