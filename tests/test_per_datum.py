"""Posteriors with weights for each datum against one posterior a datum."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from models.generative import LinearGaussian
from models.local import fast, local_optimise
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.kernels import GaussianKernel
from models.posteriors.per_datum import per_datum, select
from models.posteriors.protocol import Base, Move, State, Transition
from tests.components import POSTERIORS, initial, make_posterior, perturbed, small_af

X = torch.tensor([[0.5, -1.0, 1.5], [0.4, 0.9, -0.2], [2.0, 0.1, 0.3]]).double().view(3, 1, 1, 3)


@pytest.mark.parametrize("options", POSTERIORS)
def test_stacked_copies_are_their_loop(options, common_noise, linear_gaussian: LinearGaussian):
    """A ``per_datum`` chain against one chain a datum, each with weights of its own."""
    posterior = make_posterior(options)
    stacked = perturbed(per_datum(posterior, 3), scale=0.1)
    context = initial(posterior, 3)
    log_joint = linear_gaussian.log_joint(X)
    common_noise()
    draw = stacked(context, log_joint, 4)
    assert draw.log_q.shape == (4, 3)
    assert stacked.context_size == posterior.context_size
    assert torch.equal(stacked.initial_context(), posterior.initial_context())
    for index in range(3):
        alone = deepcopy(posterior)
        pairs = zip(alone.parameters(), stacked.parameters(), strict=True)
        for weight, copies in pairs:
            weight.data = copies.data[index]
        common_noise()
        expected = alone(context[index][None], linear_gaussian.log_joint(X[index : index + 1]), 4)
        torch.testing.assert_close(draw.state.z[:, index], expected.state.z[:, 0])
        torch.testing.assert_close(draw.log_q[:, index], expected.log_q[:, 0])


def test_select_keeps_some_data_in_the_order_given(linear_gaussian, common_noise):
    stacked = perturbed(per_datum(small_af(), 3), scale=0.1)
    context = initial(stacked, 3) + torch.arange(3).double()[:, None]
    chosen = torch.tensor([2, 0])
    common_noise()
    draw = stacked(context, linear_gaussian.log_joint(X), 4)
    common_noise()
    some = select(stacked, chosen)(context[chosen], linear_gaussian.log_joint(X[chosen]), 4)
    torch.testing.assert_close(some.state.z, draw.state.z[:, chosen])
    torch.testing.assert_close(some.log_q, draw.log_q[:, chosen])


class _Learned(Base):
    """N(a, exp(b) I) with weights a and b."""

    context_size = 0

    def __init__(self) -> None:
        super().__init__()
        self.gaussian = DiagonalGaussian(2)
        self.mean = nn.Parameter(torch.zeros(2).double())
        self.log_variance = nn.Parameter(torch.zeros(()).double())

    def _context(self, context: Tensor) -> Tensor:
        mean = self.mean.expand(len(context), 2)
        return torch.cat([mean, self.log_variance.expand_as(mean)], -1)

    def sample(self, context: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
        return self.gaussian.sample(self._context(context), num_samples)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        return self.gaussian.log_prob(z, self._context(context))


@pytest.mark.parametrize("gradient", ["plain", "stl"])
def test_a_base_may_have_weights_too(linear_gaussian: LinearGaussian, gradient):
    """Of all N(a, exp(b) I) the best has the posterior's mean, and b = -log of mean precision."""
    settings = fast(gradient=gradient, weight_lr=0.1, max_steps=200)
    found = local_optimise(
        settings.loss, linear_gaussian, Chain(_Learned()), X, torch.zeros(3, 0).double(), settings
    )
    means, log_variances = found.posterior.parameters()
    exact = linear_gaussian.exact_posterior(X)
    torch.testing.assert_close(means.detach(), exact.mean.detach(), atol=0.1, rtol=0)
    best = -torch.linalg.inv(exact.covariance).diagonal().mean().log()
    torch.testing.assert_close(log_variances, best.expand(3), atol=0.2, rtol=0)


def test_each_datum_has_noise_of_its_own():
    """A base with weights and a stochastic transition, four draws of each of three data."""
    stacked = per_datum(Chain(_Learned(), [GaussianKernel(2).double()]), 3)
    context = torch.zeros(3, 0).double()
    z, _ = stacked.base.sample(context, 4)
    assert z.unique().numel() == 4 * 3 * 2
    move = stacked.transitions[0](State(torch.zeros_like(z)), context, lambda z: z.sum(-1))
    assert move.state.z.unique().numel() == 4 * 3 * 2


class _LooksAtTarget(Transition):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()).double())

    def forward(self, state: State, context: Tensor, log_target) -> Move:
        return Move(state, self.weight * log_target(state.z))


def test_weights_per_datum_and_a_look_at_the_target_do_not_go_together(linear_gaussian):
    posterior, settings = Chain(DiagonalGaussian(2), [_LooksAtTarget()]), fast(max_steps=1)
    with pytest.raises(NotImplementedError, match="scope `context`"):
        local_optimise(
            settings.loss, linear_gaussian, posterior, X, initial(posterior, 3), settings
        )
