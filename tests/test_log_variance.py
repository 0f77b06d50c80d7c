"""The log-variance loss: its gradient, where it vanishes, what it costs and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.losses import ELBO, LogVariance
from models.posteriors.chain import Chain
from models.posteriors.gaussian import gaussian
from models.posteriors.paths import PLAIN, Differentiator, GeometricPath, learned
from models.posteriors.samplers import cmcd, dds, gbs, mcd, pis, uha
from models.targets import GaussianMixture
from tests.components import CONTEXT, X, initial, make_posterior, normal, perturbed

SMALL = {"hidden": [8], "num_steps": 3}


def all_gradients(loss: Tensor, posterior: Chain, context: Tensor) -> Tensor:
    """Those of the context (B, P) and of the weights, as one vector."""
    inputs = [context, *posterior.parameters()]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    parts = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_its_gradient_is_the_leave_one_out_score_estimator(linear_gaussian, covariance):
    """1/(S - 1) Σ_s (f_s - mean f) ∇ log q_s; here also (f_s less the mean of the others) / S."""
    posterior, size = gaussian(2, covariance=covariance), 7
    context = 0.3 * normal(3, posterior.context_size)
    context.requires_grad_()
    state = torch.get_rng_state()
    bound = LogVariance(num_samples=size)(linear_gaussian, posterior, X, context)
    torch.set_rng_state(state)
    z = posterior(context, linear_gaussian.log_joint(X), size).state.z.detach()
    log_q = posterior.log_base(context)(z)
    f = (log_q - linear_gaussian.log_joint(X)(z)).detach()
    others = (f.sum(0) - f) / (size - 1)
    surrogate = ((f - others) * log_q / size).sum()
    (expected,) = torch.autograd.grad(surrogate, context)
    (found,) = torch.autograd.grad(bound.loss.sum(), context)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(bound.value, -f.mean(0))
    torch.testing.assert_close(bound.metrics["log_variance"], f.var(0))


def test_its_mean_gradient_is_that_of_the_elbo(linear_gaussian: LinearGaussian):
    """Independent draws of each estimator, for a lone Gaussian."""
    many = 4000
    context = CONTEXT[:1].repeat(many, 1).requires_grad_()
    x = X[:1].expand(many, -1, -1, -1)
    means = []
    for loss in (LogVariance(num_samples=10), ELBO(num_samples=10)):
        bound = loss(linear_gaussian, gaussian(2), x, context)
        (gradients,) = torch.autograd.grad(bound.loss.sum(), context)
        means.append((gradients.mean(0), gradients.var(0) / many))
    (one, one_variance), (other, other_variance) = means
    assert ((one - other).abs() < 4.5 * (one_variance + other_variance).sqrt()).all()


CHAINS = {
    "hvi": lambda: make_posterior({"name": "hvi", "num_layers": 2, "hidden": [8]}),
    "langevin": lambda: make_posterior(
        {"name": "langevin", "num_steps": 2, "step_size": {"name": "learned"},
         "schedule": {"name": "free"}, "reverse_hidden": [8]}
    ),
    "langevin, learned score": lambda: make_posterior(
        {"name": "langevin", "num_steps": 2, "step_size": {"name": "learned"},
         "score_hidden": [8]}
    ),
    **{make.__name__: lambda make=make: make(2, **SMALL).double()
       for make in (mcd, cmcd, dds, pis, gbs)},
}  # fmt: skip


def differentiator(posterior: Chain, context: Tensor) -> Differentiator:
    """How the chain knows the gradient of p(x, z)."""
    if posterior.score_net is None:
        return PLAIN
    return learned(lambda z: posterior.learned_score(z, context))


@pytest.mark.parametrize("make", CHAINS.values(), ids=list(CHAINS))
def test_the_gradient_of_a_chain_is_that_of_its_path(make: Any, linear_gaussian):
    """1/(S - 1) Σ_s (f_s - mean f) ∇ log q_s, log q_s written down anew for the states drawn."""
    posterior, size = perturbed(make(), scale=0.1), 6
    context = (initial(posterior, 3) + 0.1 * normal(3, posterior.context_size)).requires_grad_()
    log_joint = linear_gaussian.log_joint(X)
    state = torch.get_rng_state()
    bound = LogVariance(num_samples=size)(linear_gaussian, posterior, X, context)
    torch.set_rng_state(state)
    with torch.no_grad():
        states = [stage.state for stage in posterior.stages(context, log_joint, size)]
    path = GeometricPath(
        posterior.log_base(context), log_joint, differentiator(posterior, context)
    )
    _, *slices, h = posterior.split(context)
    betas = iter(()) if posterior.schedule is None else iter(posterior.schedule(slices.pop())[1:])
    log_q = path.start(states[0].z)
    for transition, part, (before, after) in zip(
        posterior.transitions, slices, itertools.pairwise(states), strict=True
    ):
        target = path.end if posterior.schedule is None else path.at(next(betas))
        numbers = torch.cat([part, h], -1) if transition.uses_shared else part
        log_q = log_q + transition.score(before, after, numbers, target)
    f = log_q - log_joint(states[-1].z)
    surrogate = ((f - f.mean(0)).detach() * log_q / (size - 1)).sum()
    torch.testing.assert_close(
        all_gradients(bound.loss.sum(), posterior, context),
        all_gradients(surrogate, posterior, context),
    )
    torch.testing.assert_close(bound.value, -f.mean(0).detach())


@pytest.mark.parametrize("make", [dds, pis])
def test_the_mean_gradient_of_a_fixed_reverse_is_that_of_the_elbo(make: Any, linear_gaussian):
    """Projected on a few random directions. A learned reverse has another gradient, to one end."""
    posterior = perturbed(make(2, **SMALL), scale=0.1)
    repeats, data = 60, 50
    x = X[:1].expand(data, -1, -1, -1)
    context = initial(posterior, 1).requires_grad_()
    directions: Tensor | None = None
    found = []
    for loss in (LogVariance(num_samples=8), ELBO(num_samples=8)):
        draws = []
        for _ in range(repeats):
            bound = loss(linear_gaussian, posterior, x, context.expand(data, -1))
            gradient = all_gradients(bound.loss.mean(), posterior, context)
            if directions is None:
                directions = normal(len(gradient), 5) / math.sqrt(len(gradient))
            draws.append(gradient @ directions)
        stacked = torch.stack(draws)
        found.append((stacked.mean(0), stacked.var(0) / repeats))
    (one, one_variance), (other, other_variance) = found
    # Errors are of 60 means: Student's t of some 100 degrees is below 5 but for 1e-5 of 10 looks.
    assert ((one - other).abs() < 5.5 * (one_variance + other_variance).sqrt()).all()


def test_no_variance_is_left_at_the_posterior(linear_gaussian: LinearGaussian):
    mean, covariance = linear_gaussian.exact_posterior(X)
    lower = torch.linalg.cholesky(covariance)
    numbers = [mean, lower.diagonal().log().expand(3, -1), lower[1:, :1].expand(3, -1)]
    context = torch.cat(numbers, -1).detach().requires_grad_()
    posterior = gaussian(2, covariance="full")
    bound = LogVariance(num_samples=3)(linear_gaussian, posterior, X, context)
    (gradient,) = torch.autograd.grad(bound.loss.sum(), context)
    assert bound.loss.abs().max() < 1e-20
    assert gradient.abs().max() < 1e-12
    torch.testing.assert_close(bound.value, linear_gaussian.log_px(X))


def test_no_variance_is_left_where_a_diffusion_is_reversed_exactly():
    """DDS from N(0, 1) to N(0, 1), a mixture of one mode at the origin, with no control at all."""
    target = GaussianMixture((0, 1, 1), dim=2, num_modes=1, extent=1e-9).double()
    posterior = dds(2, sees_score=False, **SMALL).double()
    context = initial(posterior, 2).requires_grad_()
    no_data = torch.zeros(2, 0, 1, 1).double()
    bound = LogVariance(num_samples=4)(target, posterior, no_data, context)
    assert bound.loss.abs().max() < 1e-15
    gradient = all_gradients(bound.loss.sum(), posterior, context)
    assert gradient.abs().max() < 1e-8
    torch.testing.assert_close(bound.value, torch.zeros(2).double(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("make", CHAINS.values(), ids=list(CHAINS))
def test_it_leaves_the_model_alone_and_asks_it_once_a_place(make: Any, linear_gaussian):
    posterior = perturbed(make(), scale=0.1)
    context = initial(posterior, 3).requires_grad_()
    calls = []

    class Counted(LinearGaussian):
        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            calls.append(z)
            return super().log_likelihood(x, z)

    model = Counted((1, 1, 3), latent_dim=2).double()
    bound = LogVariance(num_samples=4)(model, posterior, X, context)
    bound.loss.sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    looking = sum(transition.uses_target for transition in posterior.transitions)
    assert len(calls) == looking + 1
    assert bound.metrics.keys() >= {"log_likelihood", "kl", "log_variance"}
    posterior.adapt(bound.stats)


def test_memory_hardly_grows_with_the_number_of_steps(linear_gaussian: LinearGaussian):
    """Numbers that autograd keeps for the way back, of nets of 200 units."""
    kept = {}
    for loss in (LogVariance(num_samples=10), ELBO(num_samples=10)):
        for num_steps in (4, 32):
            posterior = dds(2, num_steps=num_steps, hidden=[200, 200], sees_score=False).double()
            context = initial(posterior, 3).requires_grad_()
            found: list[Tensor] = []
            with torch.autograd.graph.saved_tensors_hooks(keep(found), lambda tensor: tensor):
                loss(linear_gaussian, posterior, X, context)
            kept[type(loss), num_steps] = sum(tensor.numel() for tensor in found)
    assert kept[LogVariance, 32] < 0.02 * kept[ELBO, 32]
    assert kept[LogVariance, 32] < 2 * kept[LogVariance, 4] + 100 * 32
    assert kept[ELBO, 32] > 6 * kept[ELBO, 4]


def keep(found: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A hook that notes each tensor."""

    def hook(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    return hook


def test_what_has_no_density_is_refused():
    with pytest.raises(ValueError, match=r"`transitions\[2\]` \(Leapfrog\) have none"):
        LogVariance().check(uha(2))
    with pytest.raises(ValueError, match=r"`transitions\[0\]` \(Planar\) have none"):
        LogVariance().check(make_posterior({"name": "planar"}))
    LogVariance().check(cmcd(2, **SMALL))
