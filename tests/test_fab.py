"""Flow annealed importance sampling bootstrap: its weights, its gradient and its refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.losses import FlowBootstrap
from models.losses.bootstrap import log_density
from models.posteriors.gaussian import gaussian
from tests.components import CONTEXT, X, make_posterior, normal, perturbed

MANY = 40_000
LINE = torch.linspace(-14, 14, 8001).double()


class Blob:
    """N(z; 0.6, 0.8²) on a line, without an x, as far as a loss asks for it."""

    def log_prior(self, z: Tensor) -> Tensor:
        """Its logarithm."""
        residual = (z - 0.6) / 0.8
        return (-0.5 * residual.square() - math.log(0.8 * math.sqrt(2 * math.pi))).sum(-1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Nothing is observed."""
        return torch.zeros_like(z[..., 0])

    def log_joint(self, x: Tensor) -> Any:
        """The prior's."""
        return self.log_prior


@pytest.mark.parametrize("num_distributions", [0, 2])
def test_its_gradient_is_that_of_the_integral_of_p_squared_over_q(num_distributions):
    """In the mean over draws; the integral by quadrature."""
    model, posterior = Blob(), gaussian(1)
    start = posterior.base.placed(torch.tensor([[0.0]]), torch.tensor([[1.2]])).double()

    def log_integral(context: Tensor) -> Tensor:
        z = LINE[:, None, None]
        logs = 2 * model.log_prior(z) - log_density(posterior, context)(z)
        return logs.logsumexp(0).sum()

    exact_at = start.clone().requires_grad_()
    (exact,) = torch.autograd.grad(log_integral(exact_at), exact_at)
    sets = 200  # each a datum of its own, so that their spread gives the error
    context = start.repeat(sets, 1).requires_grad_()
    loss = FlowBootstrap(
        num_samples=MANY // sets, num_distributions=num_distributions, step_size=0.5
    )
    x = torch.zeros(sets, 0)
    bound = loss(model, posterior, x, context)  # type: ignore[arg-type]
    (found,) = torch.autograd.grad(bound.loss.sum(), context)
    error = found.std(0) / math.sqrt(sets)
    # Weights that sum to 1 have a bias of order 1/S, here below a tenth of their spread.
    bias = 0.1 * found.std(0)
    assert ((found.mean(0) - exact[0]).abs() < 4.5 * error + bias).all()
    assert (bound.metrics["acceptance"] > 0.3).all()


def test_at_the_target_all_weights_are_equal(linear_gaussian: LinearGaussian):
    exact = linear_gaussian.exact_posterior(X)
    posterior = gaussian(2, covariance="full")
    z = exact.mean + normal(50, 3, 2) @ torch.linalg.cholesky(exact.covariance).mT
    log_joint = linear_gaussian.log_joint(X)

    def log_q(z: Tensor) -> Tensor:
        return log_joint(z) - linear_gaussian.log_px(X)

    loss = FlowBootstrap(num_distributions=3)
    moved, log_w, _ = loss._annealed(log_q, log_joint, z)
    torch.testing.assert_close(log_w, (2 * linear_gaussian.log_px(X)).expand(50, 3))
    assert not torch.equal(moved, z)
    loss.check(posterior)


@pytest.mark.parametrize("name", ["gaussian", "real_nvp", "spline", "iaf"])
def test_flows_of_known_density_learn_alone(name, linear_gaussian: LinearGaussian):
    posterior = perturbed(make_posterior({"name": name}), 0.1)
    context = posterior.initial_context().double().repeat(3, 1).requires_grad_()
    bound = FlowBootstrap(num_samples=5)(linear_gaussian, posterior, X, context)
    bound.loss.sum().backward()
    assert context.grad.abs().max() > 0
    assert all(p.grad.isfinite().all() for p in posterior.parameters())
    assert all(p.grad is None for p in linear_gaussian.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("planar", "cannot be read backwards"),
        ("aux_real_nvp", "draws on its way"),
        ("langevin", "draws on its way"),
    ],
)
def test_other_posteriors_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        FlowBootstrap().check(make_posterior({"name": name}))


def test_without_distributions_it_is_importance_sampling(linear_gaussian: LinearGaussian):
    posterior = gaussian(2)
    log_q, log_joint = log_density(posterior, CONTEXT), linear_gaussian.log_joint(X)
    z = normal(7, 3, 2)
    same, log_w, acceptance = FlowBootstrap(num_distributions=0)._annealed(log_q, log_joint, z)
    assert same is z and (acceptance == 1).all()
    torch.testing.assert_close(log_w, 2 * (log_joint(z) - log_q(z)))
