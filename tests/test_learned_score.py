"""Chains that follow a learned score: exact weights, what trains the net, what a step costs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.losses import ELBO, IWAE
from models.losses.score_matching import ScoreMatching
from models.posteriors.chain import Chain
from models.posteriors.monte_carlo import annealed_mala, langevin
from models.posteriors.step_sizes import Fixed
from tests.components import CONTEXT, X, perturbed, reseed

LONG = partial(Fixed, first=0.2)
make = partial(langevin, 2, step_size=LONG, score_hidden=[4])


def contexts(posterior: Chain) -> Tensor:
    """Those of three data, with an h that is not zero."""
    start = posterior.initial_context().double().repeat(3, 1)
    start[:, :4] = CONTEXT
    start[:, 4:] = torch.linspace(-1, 1, start[:, 4:].numel()).double().view_as(start[:, 4:])
    return start


def told(posterior: Chain, model: LinearGaussian) -> Chain:
    """The chain with the right score of the first datum: s(z) = Wᵀ (x - b - W z) / σ² - z."""
    assert posterior.score_net is not None
    with torch.no_grad():
        reading = model.weight.T / model.log_scale.exp() ** 2  # (D, X)
        posterior.score_net.last.weight.copy_(-(reading @ model.weight + torch.eye(2)))
        posterior.score_net.last.bias.copy_(reading @ (X[0].flatten() - model.bias))
    return posterior


def linear(**options: Any) -> Chain:
    """A chain whose net is linear in z and sees no h."""
    return langevin(2, step_size=LONG, score_hidden=[], shared_size=0, **options).double()


def test_told_the_right_score_it_is_the_chain_that_takes_gradients(linear_gaussian):
    draws: list[Any] = []
    for posterior in (
        told(linear(num_steps=3), linear_gaussian),
        langevin(2, num_steps=3, step_size=LONG).double(),
    ):
        reseed(0)
        with torch.no_grad():
            draws.append(posterior(CONTEXT[:1], linear_gaussian.log_joint(X[:1]), 5))
    torch.testing.assert_close(draws[0].state.z, draws[1].state.z)
    torch.testing.assert_close(draws[0].log_w, draws[1].log_w)


def test_the_right_score_is_where_score_matching_ends(linear_gaussian):
    """No error and no gradient is left, whatever is drawn."""
    posterior = told(linear(num_steps=3), linear_gaussian)
    stages = list(posterior.stages(CONTEXT[:1], linear_gaussian.log_joint(X[:1]), 5))
    matching = ScoreMatching(1.0)
    error = matching.error(linear_gaussian, posterior, X[:1], CONTEXT[:1], stages)
    gradients = torch.autograd.grad(error.sum(), list(posterior.score_net.parameters()))
    assert error.abs().max() < 1e-20
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients)


def test_the_error_of_a_wrong_score_is_known(linear_gaussian):
    """E‖A z + c‖² = ‖A m + c‖² + tr(A Σ Aᵀ) of the base's draws, for s off by A z + c."""
    posterior, num_samples = told(linear(num_steps=0), linear_gaussian), 40_000
    off, shift = torch.tensor([[0.3, -0.2], [0.1, 0.5]]).double(), torch.tensor([0.4, -0.1])
    with torch.no_grad():
        posterior.score_net.last.weight.add_(off)
        posterior.score_net.last.bias.add_(shift)
    loss, errors = ELBO(num_samples=num_samples, score_matching=1.0), []
    for _ in range(2):
        bound = loss(linear_gaussian, posterior, X[:1], CONTEXT[:1])
        errors.append(bound.metrics["score_error"].item())
    base = posterior.base.moments(CONTEXT[:1])
    with torch.no_grad():
        z = posterior(CONTEXT[:1], linear_gaussian.log_joint(X[:1]), num_samples).state.z[:, 0]
        each = (z @ off.T + shift).square().sum(-1)
        expected = (base.mean[0] @ off.T + shift).square().sum()
        expected += (off.square() * base.variance[0]).sum()
    standard_error = (each.std() / math.sqrt(2 * num_samples)).item()
    assert abs(sum(errors) / 2 - expected.item()) < 4.5 * standard_error


@pytest.mark.parametrize("loss", [ELBO, IWAE])
@pytest.mark.parametrize(
    "posterior",
    [make(num_steps=2), annealed_mala(2, num_steps=2, step_size=LONG, score_hidden=[4])],
    ids=["langevin", "metropolis"],
)
def test_the_term_trains_the_net_and_h_alone(loss, posterior: Chain, linear_gaussian):
    """What it adds to the gradients, and that the bound stays."""
    perturbed(posterior)
    net = list(posterior.score_net.parameters())
    others = [linear_gaussian.weight, linear_gaussian.bias]
    found = []
    for weight in (None, 0.5):
        reseed(1)
        context = contexts(posterior).requires_grad_()
        bound = loss(num_samples=3, score_matching=weight)(linear_gaussian, posterior, X, context)
        found.append((bound, torch.autograd.grad(bound.loss.sum(), [context, *others, *net])))
    (plain, usual), (matched, gradients) = found
    torch.testing.assert_close(matched.value, plain.value)
    torch.testing.assert_close(matched.loss, plain.loss + 0.5 * matched.metrics["score_error"])
    h = -posterior.shared_size
    torch.testing.assert_close(gradients[0][:, :h], usual[0][:, :h])
    torch.testing.assert_close(gradients[1:3], usual[1:3])
    changed = [gradients[0][:, h:] - usual[0][:, h:]]
    changed += [one - other for one, other in zip(gradients[3:], usual[3:], strict=True)]
    assert all((change != 0).any() for change in changed)
    assert all(gradient.abs().max() > 0 for gradient in usual[3:])  # the bound trains it, too


class Watched(torch.autograd.Function):
    """The identity, which counts how often it is asked for a gradient."""

    count = 0

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        """There is nothing to keep."""

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        Watched.count += 1
        return gradient


class Asked(LinearGaussian):
    """Counts the gradients of its likelihood by z."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return super().log_likelihood(x, Watched.apply(z))


def gradients_of(posterior: Chain, loss: ELBO, *, train: bool) -> int:
    """How many gradients of the likelihood a bound costs."""
    Watched.count = 0
    model = Asked((1, 1, 3), latent_dim=2).double()
    with torch.set_grad_enabled(train):
        bound = loss(model, posterior, X, contexts(posterior).requires_grad_(train))
    if train:
        bound.loss.sum().backward()
    return Watched.count


def test_a_step_costs_no_gradient_of_the_model():
    """Without training none; in training the draw's, and one for the places together."""
    num_steps, loss = 4, ELBO(num_samples=2)
    learned = perturbed(make(num_steps=num_steps))
    usual = langevin(2, num_steps=num_steps, step_size=LONG).double()
    assert gradients_of(learned, loss, train=False) == 0
    assert gradients_of(usual, loss, train=False) == num_steps + 1
    assert gradients_of(learned, loss, train=True) == 1
    matched = ELBO(num_samples=2, score_matching=1.0)
    assert gradients_of(learned, matched, train=True) == 2


@pytest.mark.parametrize("loss", [ELBO, IWAE])
def test_a_posterior_without_a_learned_score_is_refused(loss):
    loss(score_matching=1.0).check(make())
    with pytest.raises(ValueError, match="this one has none; give it `score_hidden`"):
        loss(score_matching=1.0).check(langevin(2))
    with pytest.raises(ValueError, match="`shared_size` is for a learned score"):
        annealed_mala(2, shared_size=3)
